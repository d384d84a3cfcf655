"""What needs no extra runs with the packages that are installed without extras."""

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from small_networks import model_and_variables, shortened, small_v2

from mnet_jax import models

WITHOUT_STRANGERS = """
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in STRANGERS:
            raise ModuleNotFoundError(f"{name} is not installed without extras", name=name)

sys.meta_path.insert(0, Refusal())
from mnet_jax.commands import command_line
sys.argv[0] = "mnet"
command_line.main()
"""


def required(name, extras=()):
    """The distributions that one needs, by name, itself included."""
    found, todo = set(), [(canonicalize_name(name), frozenset(extras))]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in found:
            continue
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add((name, extras))
        for each in map(Requirement, needed):
            asked = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if each.marker is None or any(map(each.marker.evaluate, asked)):
                todo.append((canonicalize_name(each.name), frozenset(each.extras)))
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def strangers():
    """The modules that only extras install."""
    ours = required("mnet_jax")
    assert {"mnet-jax", "jax", "numpy", "tyro"} <= ours and "pytest" not in ours
    return {
        module
        for module, distributions in metadata.packages_distributions().items()
        if not ours & {canonicalize_name(each) for each in distributions}
    }


def test_export_needs_no_extra_for_stablehlo(strangers, tmp_path):
    view = models.View(resolution=32, photographs=False)
    network = model_and_variables(shortened(small_v2(num_classes=10), 2))
    models.save(tmp_path / "a.safetensors", *network, view=view)
    program = f"STRANGERS = {strangers!r}\n{WITHOUT_STRANGERS}"
    words = ["export", "--checkpoint", "a.safetensors", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "exported/model.stablehlo").stat().st_size > 0
