"""Type checkers, completion and `help` see every option of the factories, its type and default."""

import inspect
import pickle
import re
import subprocess
import sys
import venv
from pathlib import Path

import jax.numpy as jnp
import pytest

from mnet_jax import architectures, models
from mnet_jax.architectures import FACTORIES

ROOT = Path(__file__).parents[2]
BY_VARIANT = {
    "mobilenet_v3": architectures.mobilenet_v3,
    "mobilenet_v4": architectures.mobilenet_v4,
}
ARCHITECTURES = FACTORIES | BY_VARIANT
COMPUTATION = {"dtype": jnp.float32, "lowering": "auto"}
factories = pytest.mark.parametrize("name", ARCHITECTURES)


def options_of(name):
    return inspect.signature(ARCHITECTURES[name]).parameters


@factories
def test_signatures_are_the_architectures_and_how_to_compute(name):
    options, signature = options_of(name), inspect.signature(getattr(models, name))
    assert list(signature.parameters) == [*options, *COMPUTATION]
    assert signature.return_annotation is models.MobileNet
    for option, parameter in signature.parameters.items():
        if option in COMPUTATION:
            assert (parameter.kind, parameter.default) == (
                inspect.Parameter.KEYWORD_ONLY,
                COMPUTATION[option],
            )
        else:
            assert parameter == options[option]  # name, kind, default and annotation


@factories
def test_docstrings_describe_every_option_as_the_architecture_does(name):
    architecture = getattr(architectures, re.sub(r"(_v\d)_.*", r"\1", name))
    _, documented = inspect.getdoc(architecture).split("Args:\n")
    if "variant" not in options_of(name):
        documented = re.sub(r"^  variant: .*\n", "", documented)
    options, errors = documented.split("\n\n")
    found_text = inspect.getdoc(getattr(models, name))
    assert f"Args:\n{options}\n  dtype: " in found_text
    assert "\n  lowering: " in found_text
    assert found_text.endswith(errors)


@factories
def test_factories_are_pickled_by_name(name):
    factory = getattr(models, name)
    assert inspect.isfunction(factory)
    assert factory.__name__ == factory.__qualname__ == name
    assert pickle.loads(pickle.dumps(factory)) is factory


def test_the_written_factories_are_up_to_date():
    check = [sys.executable, "-m", "tools.write_factories", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# --- a type checker -------------------------------------------------------------------------------

MISUSES = [  # a call, and a word of the error
    ("models.mobilenet_v2(expension=6)", '"expension"'),
    ('models.mobilenet_v2(width="1")', '"width"'),
    ('models.mobilenet_v2(dialect="kears")', '"dialect"'),
    ("models.mobilenet_v2(0.5)", "positional"),
    ('models.mobilenet_v4_conv_small(variant="conv_large")', '"variant"'),
    ('models.mobilenet_v3("medium")', "'medium'"),
    ("models.mobilenet_v3()", '"variant"'),
    ('models.mobilenet_v3_large(lowering="fast")', '"lowering"'),
    ("models.mobilenet_v1(input_stride=3)", '"input_stride"'),
    ("architectures.mobilenet_v1(dtype=float)", '"dtype"'),
]


def call_of(name, **options):
    """A call of a model factory as Python, of the first variant if it takes one."""
    variants = {"mobilenet_v3": '"large", ', "mobilenet_v4": '"conv_small", '}
    written = ", ".join(f"{option}={value}" for option, value in options.items())
    return f"models.{name}({variants.get(name, '')}{written})"


def keyword_options(name):
    return [option for option in [*options_of(name), "lowering"] if option != "variant"]


def errors_of(calls, folder):
    """mypy's errors about a file of these calls, by the call's index.

    The package is found as an installed one is, by an interpreter of its own, and without its
    dependencies: their types are not looked at, which takes minutes.
    """
    venv.create(folder / "venv", symlinks=True)
    (packages,) = folder.glob("venv/lib/python*/site-packages")
    (packages / "mnet_jax.pth").write_text(str(ROOT))
    lines = ["from mnet_jax import architectures, models", *calls]
    (folder / "user.py").write_text("\n".join(lines) + "\n")
    interpreter = folder / "venv" / "bin" / "python"
    command = ["mypy", "--config-file=", "--no-pretty", "--python-executable", interpreter]
    done = subprocess.run(
        [sys.executable, "-m", *command, "user.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = re.findall(r"^user\.py:(\d+): error: (.*)$", done.stdout, flags=re.MULTILINE)
    assert done.returncode == bool(found), done.stdout + done.stderr
    assert len(dict(found)) == len(found), done.stdout
    return {int(line) - 2: message for line, message in found}


def test_a_type_checker_refuses_each_misuse_and_nothing_else(tmp_path):
    right = [call_of(name) for name in ARCHITECTURES]
    right += [
        call_of(name, **{option: repr(options_of(name)[option].default)})
        for name in ARCHITECTURES
        for option in keyword_options(name)
        if option != "lowering"
    ]
    right += [call_of(name, dtype="float", lowering='"grouped"') for name in ARCHITECTURES]
    wrong = MISUSES + [
        (call_of(name, **{option: "object()"}), f'"{option}" to "{name}"')
        for name in ARCHITECTURES
        for option in keyword_options(name)
    ]
    calls = [call for call, _ in wrong] + right
    errors = errors_of(calls, tmp_path)
    assert {calls[i] for i in errors} == {call for call, _ in wrong}
    for i, (call, word) in enumerate(wrong):
        assert word in errors[i], (call, errors[i])


@pytest.mark.parametrize("notebook", [False, True], ids=["editor", "notebook"])
@factories
def test_completion_lists_every_option_with_its_default(name, notebook):
    jedi = pytest.importorskip("jedi")  # what IPython and Jupyter complete with
    code = f"from mnet_jax import models\nmodels.{name}("
    if notebook:
        script = jedi.Interpreter(code, [{"models": models}])
    else:
        script = jedi.Script(code, path=ROOT / "user.py", environment=jedi.InterpreterEnvironment())
    expected = [*options_of(name), *COMPUTATION]
    offered = {completion.name for completion in script.complete()}
    assert {f"{option}=" for option in expected} <= offered
    (signature,) = script.get_signatures()
    assert [parameter.name for parameter in signature.params] == expected
    for parameter in signature.params:
        if parameter.name in options_of(name) and parameter.name != "variant":
            default = repr(options_of(name)[parameter.name].default).replace("'", '"')
            assert parameter.description.endswith(f"={default}"), parameter.description
