"""Imports run one way, and what must not pay for JAX does not import it."""

import ast
import functools
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("mnet_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")])
TYPES = (  # the closed choices of a package, which a config names: all may import them
    "mnet_jax.data.types",
    "mnet_jax.export.types",
    "mnet_jax.models.types",
    "mnet_jax.ops.types",
    "mnet_jax.quantization.types",
    "mnet_jax.training.types",
)
ROOMS = (  # from the top; a module may import from its own row and from those below
    ("mnet_jax.__main__", "experiments"),
    ("mnet_jax.commands",),
    ("mnet_jax.plots",),
    ("mnet_jax.ablation", "mnet_jax.benchmark"),
    ("mnet_jax.runs", "mnet_jax.export"),
    (
        "mnet_jax.analysis",
        "mnet_jax.data",
        "mnet_jax.nnx",
        "mnet_jax.training",
        "mnet_jax.weights",
    ),
    ("mnet_jax.quantization",),
    ("mnet_jax.models",),
    ("mnet_jax.ops",),
    ("mnet_jax.options", "mnet_jax.statistics"),
    ("mnet_jax.config", "mnet_jax.training.results"),
    ("mnet_jax.analysis.cost", "mnet_jax.analysis.summary"),
    ("mnet_jax.architectures",),
    ("mnet_jax.process",),
    (
        "mnet_jax.caches",
        "mnet_jax.changes",
        "mnet_jax.files",
        "mnet_jax.host_memory",
        "mnet_jax.plots.style",
        "mnet_jax.serialization",
        "mnet_jax.validation",
        *TYPES,
    ),
)
STRANGERS = {  # rooms that may not import each other, though their rows would allow it
    "mnet_jax.models": ("mnet_jax.training", "mnet_jax.data"),
    "mnet_jax.training": ("mnet_jax.models", "mnet_jax.architectures", "mnet_jax.data"),
    "mnet_jax.data": ("mnet_jax.models", "mnet_jax.training"),
}
# `models` is what people import, so it offers `load`. But a model of the hub may be of another
# library, and the converters stand above. No module of `models` needs them; only its users do.
UPWARDS = {("mnet_jax.models", "mnet_jax.weights.opening")}
JAX = ("jax", "jaxlib", "flax", "optax", "orbax", "chex")
FUNCTIONS_MAY = ("mnet_jax.commands", "mnet_jax.plots")  # or do for types alone
WITHOUT_JAX = (
    "experiments",
    "mnet_jax.__main__",
    "mnet_jax.architectures",
    "mnet_jax.data",
    "mnet_jax.analysis.choices",
    "mnet_jax.analysis.cost",
    "mnet_jax.analysis.summary",
    "mnet_jax.ablation",
    "mnet_jax.options",
    "mnet_jax.statistics",
    "mnet_jax.process",
    "mnet_jax.caches",
    "mnet_jax.changes",
    "mnet_jax.config",
    "mnet_jax.files",
    "mnet_jax.host_memory",
    "mnet_jax.serialization",
    "mnet_jax.training.results",
    "mnet_jax.validation",
    "mnet_jax.weights.hub",
    "mnet_jax.weights.timm_config",
    "mnet_jax.weights.timm_names",
    *TYPES,
    *FUNCTIONS_MAY,
)
IN_THE_WORKER = ("train", "_environment")  # of ablation.runners.work


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text()) for path in SOURCES}


def is_lazy(node):
    """Whether a block's imports are delayed until one of their names is used."""
    return isinstance(node, ast.With) and "lazy_api_imports" in ast.unparse(node.items[0])


def delayed(tree):
    """The names that a package imports on first use, and the module that each comes from."""
    imports = [node for block in tree.body if is_lazy(block) for node in block.body]
    return {alias.name: node.module for node in imports for alias in node.names}


LAZY = {name: names for name, tree in MODULES.items() if (names := delayed(tree))}


def within(name, room):
    return name == room or name.startswith(f"{room}.")


def targets(node):
    """The modules that an import statement names; `from a import b` names a.b if that is one.

    For a name that a package imports on first use, that is the module it comes from. Who imports
    such a package itself may use any of its names.
    """
    found = []
    if isinstance(node, ast.Import):
        found = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "imports are absolute"
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            origin = LAZY.get(node.module, {}).get(alias.name, node.module)
            found.append(full if full in MODULES else origin)
    return [*found, *(origin for name in found for origin in LAZY.get(name, {}).values())]


@functools.cache
def imports(tree):
    """Everything imported anywhere in a module."""
    return {name for node in ast.walk(tree) for name in targets(node)}


def imports_at_once(tree):
    """What a module imports when it is imported: not in its functions, on first use, for types."""
    found, todo = set(), [tree]
    while todo:
        node = todo.pop()
        found |= set(targets(node))
        inner = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        for_types = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        children = node.orelse if for_types else ast.iter_child_nodes(node)
        todo += [child for child in children if not (isinstance(child, inner) or is_lazy(child))]
    return found


@functools.cache
def reached(name):
    """Everything that importing a module of ours imports, deep, with the packages on the way."""
    found, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current in found:
            continue
        found.add(current)
        if current in MODULES:
            todo += imports_at_once(MODULES[current])
            todo += [current.rpartition(".")[0]] if "." in current else []
    return found


def rank(name):
    """The row of a module: of the rooms that it is in, the lowest."""
    rows = [i for i, row in enumerate(ROOMS) if any(within(name, room) for room in row)]
    return rows[-1] if rows else None


def printed(program):
    """What a program prints, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout


def test_the_sources_are_found():
    assert {"mnet_jax.runs.run", "mnet_jax.commands.ablate", "experiments.ablate"} <= MODULES.keys()
    assert "mnet_jax.runs.run" in imports(MODULES["mnet_jax.ablation.runners.work"])
    assert "mnet_jax.runs.run" not in imports_at_once(MODULES["mnet_jax.ablation.runners.work"])
    assert "jax" in reached("mnet_jax.runs.run")
    lazy = ("data", "export", "models", "ops", "quantization", "weights")
    assert {f"mnet_jax.{name}" for name in lazy} == LAZY.keys()
    assert "mnet_jax.ops" in reached("mnet_jax.config")
    (statement,) = ast.parse("from mnet_jax.ops import NativeError").body
    assert targets(statement) == ["mnet_jax.ops.native"]
    (statement,) = ast.parse("from mnet_jax import ops").body
    assert "jax" in set().union(*map(reached, targets(statement)))


def reaches_jax(name):
    return any(within(target, package) for target in reached(name) for package in JAX)


def test_imports_run_one_way():
    assert not [name for name in MODULES.keys() - {"mnet_jax"} if rank(name) is None], (
        "no room: say in ROOMS where they stand"
    )
    upwards = [
        (name, target)
        for name, tree in MODULES.items()
        for target in imports(tree)
        if (name, target) not in UPWARDS
        if within(target, "tests")
        or (name != "mnet_jax" and rank(target) is not None and rank(target) < rank(name))
    ]
    assert not upwards, "modules that import what stands above them"


def test_strangers_stay_strangers():
    found = [
        (name, target)
        for room, strangers in STRANGERS.items()
        for name in MODULES
        if within(name, room)
        for target in imports(MODULES[name])
        if target not in TYPES and any(within(target, stranger) for stranger in strangers)
    ]
    assert not found


def test_no_jax_on_import():
    without = [name for name in MODULES if any(within(name, room) for room in WITHOUT_JAX)]
    assert without and not [name for name in without if reaches_jax(name)]


def test_no_jax_in_functions_either_but_the_workers():
    rooms = {*WITHOUT_JAX} - {*FUNCTIONS_MAY}
    trees = {n: t for n, t in MODULES.items() if any(within(n, room) for room in rooms)}
    work = "mnet_jax.ablation.runners.work"
    kept = [node for node in trees[work].body if getattr(node, "name", "") not in IN_THE_WORKER]
    trees[work] = ast.Module(body=kept, type_ignores=[])
    assert not [(n, t) for n, tree in trees.items() for t in imports(tree) if reaches_jax(t)]


@pytest.mark.parametrize("package", LAZY)
def test_no_name_of_a_lazy_package_is_hidden_by_a_module(package):
    """Importing a module binds its name in the package, in place of what is imported on use."""
    assert not [name for name in LAZY[package] if f"{package}.{name}" in MODULES]


def test_lazy_packages_have_their_names_once_they_are_used():
    """Each in a process of its own, forked after the imports that take long."""
    program = (
        f"import os, sys; import {', '.join(LAZY)}, mnet_jax.config\n"
        "print({'jax', 'grain', 'tensorflow_datasets'} & {*sys.modules}, flush=True)\n"
        "import grain, jax, tensorflow_datasets\n"
        f"for name in {[*LAZY]}:\n"
        "    if os.fork():\n"
        "        os.wait()\n"
        "        continue\n"
        "    package, found = sys.modules[name], {}\n"
        "    print(name, {*package.__all__} - {*dir(package)})\n"
        "    exec(f'from {name} import *', found)\n"
        "    print([name for name in package.__all__ if name not in found], flush=True)\n"
        "    os._exit(0)\n"
    )
    assert printed(program) == "set()\n" + "".join(f"{name} set()\n[]\n" for name in LAZY)


def test_what_is_imported_within_a_trace_can_be_used_outside_of_it():
    """A package that computed something when it is imported would keep a tracer."""
    program = (
        "import sys; sys.path.append('tests/support')\n"
        "import jax, numpy as np; from tiny_network import make_tiny_spec\n"
        "from mnet_jax import models, ops\n"
        "images, kernel = np.ones((1, 8, 8, 3), np.float32), np.ones((3, 3, 3), np.float32)\n"
        "def run(images):\n"
        "    x = ops.relu6(ops.depthwise_conv(images, kernel))\n"
        "    models.mobilenet_v2(width=0.1, num_classes=2)\n"
        "    model = models.MobileNet(spec=make_tiny_spec())\n"
        "    return model.init_with_output(jax.random.key(0), x, train=False)[0]\n"
        "jax.eval_shape(lambda images: run(images), images)\n"
        "print(np.isfinite(jax.jit(run)(images)).all())\n"
    )
    assert printed(program) == "True\n"


def test_there_is_no_cycle():
    """Modules can be taken away one by one, each when all that it imports is gone."""
    left = {name: imports(tree) & MODULES.keys() - {name} for name, tree in MODULES.items()}
    while free := {name for name, needed in left.items() if not needed & left.keys()}:
        left = {name: needed for name, needed in left.items() if name not in free}
    assert not left


def prints_or_reads_argv(node):
    return (
        (isinstance(node, ast.Name) and node.id == "print")
        or (isinstance(node, ast.Attribute) and node.attr == "argv")
        or (isinstance(node, ast.ImportFrom) and "argv" in [a.name for a in node.names])
    )


def test_only_the_commands_print_or_read_argv():
    doing = {n for n, tree in MODULES.items() if any(map(prints_or_reads_argv, ast.walk(tree)))}
    assert doing and all(within(name, "mnet_jax.commands") for name in doing)


def test_no_room_is_called_utils():
    parts = set(itertools.chain.from_iterable(name.split(".") for name in MODULES))
    assert not parts & {"utils", "util", "helpers", "common", "misc"}


def test_a_bad_flag_is_refused_without_jax(tmp_path):
    program = (
        "import sys; sys.argv = ['ablate', '--bottleneck', 'lin', '--seeds', '2']\n"
        "from mnet_jax.commands import ablate\n"
        "try: ablate.main()\n"
        "except SystemExit as leaving: code = leaving.code\n"
        "loaded = {'jax', 'flax', 'optax', 'tensorflow_datasets', 'matplotlib', 'altair'}\n"
        "loaded &= {*sys.modules}\n"
        "print(code, sorted(loaded))\n"
    )
    assert printed(program) == "2 []\n"
