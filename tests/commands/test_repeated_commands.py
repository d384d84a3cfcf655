"""An arm's own command gives that arm's config, and keeps the rest of the sweep's."""

import shlex
from dataclasses import replace

import pytest

from mnet_jax.commands.stored_sweeps import command_of_arm
from mnet_jax.options import axes, recipes

BASE = recipes.baseline("digits")
SWEEP = (
    "python -m experiments.ablate --bottleneck linear relu6 --width=1 0.1234567 "
    "--results 'my results' --seeds 5"
)


@pytest.mark.parametrize("values", [
    {"bottleneck": "relu6", "width": 0.1234567}, {"bottleneck": "linear", "width": 1.0},
])  # fmt: skip
def test_the_command_has_one_value_on_each_axis(values):
    command = command_of_arm(SWEEP, ["bottleneck", "width"])(axes.with_values(BASE, values))
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "experiments.ablate"]
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    assert flags == {
        "--results": "my results", "--seeds": "5",
        "--bottleneck": values["bottleneck"], "--width": str(values["width"]),
    }  # fmt: skip


def test_an_axis_that_was_not_typed_is_added():
    config = axes.with_values(BASE, {"decay_depthwise": True})
    command = command_of_arm("ablate --seeds 2", ["decay_depthwise"])(config)
    assert command == "ablate --seeds 2 --decay-depthwise True"


def test_what_no_axis_makes_has_no_command():
    assert command_of_arm(SWEEP, ["bottleneck", "config"])(BASE) is None
    mixed = axes.with_values(BASE, {"bottleneck": "relu6"})
    blocks = (*BASE.spec.blocks[:5], *mixed.spec.blocks[5:])
    config = replace(BASE, spec=replace(BASE.spec, blocks=blocks))
    assert command_of_arm(SWEEP, ["bottleneck"])(config) is None


def test_an_axis_that_the_network_lacks_is_left_out():
    config = axes.with_values(BASE, {"model": "mobilenet_v1"})
    command = command_of_arm("ablate --model mobilenet_v1 mobilenet_v2", ["model", "bottleneck"])
    assert command(config) == "ablate --model mobilenet_v1"


def test_a_quote_that_is_not_closed_is_no_command():
    assert command_of_arm("ablate --results 'mine", ["bottleneck"])(BASE) is None
