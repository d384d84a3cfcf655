"""Axes: what a sweep can vary. Each is a function on an arm or a run's config, for every model.

`factory` has those that compute the network anew, `blocks` those that map it, and `fields` finds
nearly all others in the config's dataclasses. `grid` crosses them.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from mnet_jax.ablation.axes.axis import Axis, C, Varied, text
from mnet_jax.ablation.axes.blocks import BLOCK_AXES
from mnet_jax.ablation.axes.factory import FACTORY_AXES
from mnet_jax.ablation.axes.fields import field_axes
from mnet_jax.changes import ABSENT
from mnet_jax.validation import require

__all__ = [
    "ABSENT",
    "ARCHITECTURE_AXES",
    "AXES",
    "RETIRED_AXES",
    "Axis",
    "grid",
    "labels",
    "with_values",
]

InitialWeights = Literal["random", "pretrained"]


def _with_epochs(config: Varied, epochs: int) -> Varied:
    """A run of that many epochs; a warm-up that does not fit into it becomes shorter."""
    warmup = min(config.training.warmup_epochs, max(epochs, 0))
    training = dataclasses.replace(config.training, epochs=epochs, warmup_epochs=warmup)
    return dataclasses.replace(config, training=training)


def _with_initial_weights(config: Varied, weights: InitialWeights) -> Varied:
    """A run that starts at random, or where the config's weights are."""
    if weights == "random":
        return dataclasses.replace(config, pretrained=None)
    given = config.pretrained is not None
    require(given, "initial_weights", weights, "random, as no pretrained weights are given")
    return config


INITIAL_WEIGHTS = Axis(
    name="initial_weights",
    values=InitialWeights,
    claim="where training starts: at those of --pretrained, or at random (arXiv 1811.08883)",
    apply=_with_initial_weights,
    read=lambda config: "pretrained" if config.pretrained else "random",
)
ARCHITECTURE_AXES: tuple[Axis, ...] = (*FACTORY_AXES, *BLOCK_AXES)
_FIELD_AXES = field_axes([axis.name for axis in ARCHITECTURE_AXES])
_RETIRED = ("start_resolution",)
# No run takes a value on these; trials of earlier versions have one, which reports show.
RETIRED_AXES: tuple[Axis, ...] = tuple(axis for axis in _FIELD_AXES if axis.name in _RETIRED)
# In the order in which they are applied: what computes a network anew comes first.
AXES: tuple[Axis, ...] = (
    *ARCHITECTURE_AXES,
    *(
        dataclasses.replace(axis, apply=_with_epochs, settles=("warmup_epochs",))
        if axis.name == "epochs"
        else axis
        for axis in _FIELD_AXES
        if axis not in RETIRED_AXES
    ),
    INITIAL_WEIGHTS,
)


def with_values(config: C, values: Mapping[str, Any]) -> C:
    """The arm or config with one value on each axis that has one; None leaves an axis as it is.

    Raises:
      ValueError: an axis is unknown, or a value is not legal for the network it meets.
    """
    unknown = values.keys() - {axis.name for axis in AXES}
    if unknown:
        legal = ", ".join(axis.name for axis in AXES)
        raise ValueError(f"axis: got {min(unknown)!r}, legal: {legal}")
    for axis in AXES:
        if values.get(axis.name) is not None:
            config = axis.applied(config, values[axis.name])
    return config


def grid(baseline: C, values: Mapping[str, Sequence[Any]]) -> list[C]:
    """Every combination of the values, each otherwise like the baseline, its seed included.

    Args:
      baseline: what every axis that is not named stays at.
      values: of the axes that are varied, by name; in the order of the table's rows.

    Raises:
      ValueError: an axis is unknown, or a value is not legal for the network it meets.
    """
    varied = {name: chosen for name, chosen in values.items() if chosen}
    combinations = itertools.product(*varied.values())
    configs = [
        with_values(baseline, dict(zip(varied, chosen, strict=True))) for chosen in combinations
    ]
    return list(dict.fromkeys(configs))


def labels(config: Varied, named: Collection[str] = ()) -> dict[str, str]:
    """The value of every axis, as text for a table; of a retired one where it is used or named.

    Args:
      config: an arm, or a run of it.
      named: the axes that the table is about; what they settle is left out.
    """
    settled = {name for axis in AXES if axis.name in named for name in axis.settles}
    shown = [axis for axis in AXES if axis.name in named or axis.name not in settled]
    shown += [axis for axis in RETIRED_AXES if axis.name in named or axis.read(config)]
    return {axis.name: text(axis.read(config)) for axis in shown}
