"""What `docs/data.md` names is there."""

import dataclasses
import re
from pathlib import Path

from mnet_jax.commands.arguments import flag_of, with_axes
from mnet_jax.commands.train import Arguments
from mnet_jax.options import axes

DOCUMENT = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
TRAIN = with_axes(Arguments, axes.AXES)


def test_every_flag_of_augmentation_is_there():
    section = DOCUMENT.partition("## Augmentation\n")[2].partition("\n## ")[0]
    named = {*re.findall(r"--[a-z-]*[a-z]", section)}
    assert {"--policy", "--mixup", "--show-batch"} <= named
    assert named <= {flag_of(field.name) for field in dataclasses.fields(TRAIN)}
    values = re.findall(r"^\| `(--[a-z-]+) ([a-z_]+)`", section, flags=re.MULTILINE)
    legal = {flag_of(axis.name): axis.values for axis in axes.AXES}
    assert values and all(value in legal[flag].__args__ for flag, value in values)
