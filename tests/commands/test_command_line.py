"""`mnet <name>` is the command that `python -m experiments.<name>` is, anywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnet_jax.commands import command_line
from mnet_jax.commands.command_line import COMMANDS
from mnet_jax.commands.messages import invocation, program

ROOT = Path(__file__).parents[2]


def call(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_clone_has_a_module_for_each_command():
    modules = {path.stem for path in ROOT.glob("experiments/*.py")} - {"__init__"}
    assert modules == COMMANDS.keys()


def test_both_print_the_same(tmp_path):
    words = ("cost", "--model", "mobilenet_v1", "--width", "0.25")
    named = call("mnet_jax", *words, cwd=tmp_path)
    assert named[0] == 0 and "mobilenet_v1" in named[1]
    assert call("experiments.cost", *words[1:], cwd=ROOT) == named


def test_an_error_names_the_program_that_was_called(tmp_path):
    message = "--zzz: no such flag, the nearest: "
    for words, name in (
        (("mnet_jax", "evaluate"), "mnet evaluate"),
        (("experiments.evaluate",), "experiments.evaluate"),
    ):
        code, out, err = call(*words, "--zzz", "1", cwd=tmp_path)
        assert (
            (code, out) == (2, "") and err.startswith(f"{name}: {message}") and err.count("\n") == 1
        )


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_without_a_command_all_are_listed(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/mnet", *words])
    command_line.main()
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"{name} " in out and command.summary in out


def test_an_unknown_command_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mnet", "ab\nlate", "--seeds", "2"])
    with pytest.raises(SystemExit) as leaving:
        command_line.main()
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mnet: got ") and all(name in line for name in COMMANDS)


@pytest.mark.parametrize(
    ("called", "name", "words"),
    [
        ("mnet ablate", "mnet ablate", ["mnet", "ablate"]),
        ("ablate.py", "experiments.ablate", ["python", "-m", "experiments.ablate"]),
        ("mnet train", "experiments.ablate", ["python", "-m", "experiments.ablate"]),
    ],
)
def test_a_sweep_is_repeated_as_it_was_called(called, name, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called, "--seeds", "2"])
    assert (program("ablate"), invocation("ablate")) == (name, words)
