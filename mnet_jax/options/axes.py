"""All axes that a sweep can vary, and functions that make arms with given values.

An axis makes a copy of an arm or a run's config with another value. `architecture_axes` has the
axes of the network, and `config_axes` derives nearly all others from the fields of the config's
dataclasses. The few axes that need more than a field are defined here.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from mnet_jax.changes import ABSENT
from mnet_jax.options.architecture_axes import BLOCK_AXES, FACTORY_AXES
from mnet_jax.options.axis import Axis, C, Varied, format_value
from mnet_jax.options.config_axes import field_axes
from mnet_jax.options.quantization_axes import (
    BITS,
    NONE,
    OF_TRAINING,
    QUANTIZATION,
    QUANTIZED,
)
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
TAUGHT = ("teacher_weight", "temperature")  # the axes that only configs with a teacher have


def _with_epochs(config: Varied, epochs: int) -> Varied:
    """Sets the number of epochs, and limits the warm-up to that number."""
    warmup = min(config.training.warmup_epochs, max(epochs, 0))
    training = dataclasses.replace(config.training, epochs=epochs, warmup_epochs=warmup)
    return dataclasses.replace(config, training=training)


def _with_initial_weights(config: Varied, weights: InitialWeights) -> Varied:
    """Makes the run start from random weights, or from the config's pretrained weights."""
    if weights == "random":
        return dataclasses.replace(config, pretrained=None)
    given = config.pretrained is not None
    require(given, "initial_weights", weights, "random, as no pretrained weights are given")
    return config


INITIAL_WEIGHTS = Axis(
    name="initial_weights",
    values=InitialWeights,
    help="initial weights: those of --pretrained, or random ones (arXiv 1811.08883)",
    apply=_with_initial_weights,
    read=lambda config: "pretrained" if config.pretrained else "random",
)
ARCHITECTURE_AXES: tuple[Axis, ...] = (*FACTORY_AXES, *BLOCK_AXES)
_FIELD_AXES = field_axes([axis.name for axis in ARCHITECTURE_AXES])
_RETIRED = ("start_resolution",)
# Axes that can no longer be varied. Reports show their values in trials of earlier versions.
RETIRED_AXES: tuple[Axis, ...] = tuple(axis for axis in _FIELD_AXES if axis.name in _RETIRED)
# In the order in which the axes are applied: those that rebuild the network come first.
AXES: tuple[Axis, ...] = (
    *ARCHITECTURE_AXES,
    QUANTIZATION,
    BITS,
    *(
        dataclasses.replace(axis, apply=_with_epochs, determines=("warmup_epochs",))
        if axis.name == "epochs"
        else axis
        for axis in _FIELD_AXES
        if axis not in RETIRED_AXES
    ),
    INITIAL_WEIGHTS,
)


def with_values(config: C, values: Mapping[str, Any]) -> C:
    """Returns the arm or config with these values; the value None leaves an axis unchanged.

    If `quantization` is given as `none`, the other axes of quantization have no effect, and if it
    is a post-training method, those of quantization-aware training have none. So a sweep can
    compare the network in floating point with quantized networks of several bits.

    Args:
      config: the arm or config to change.
      values: the new values, by axis name.

    Raises:
      ValueError: an axis is unknown, or a value is not legal for this network.
    """
    unknown = values.keys() - {axis.name for axis in AXES}
    if unknown:
        legal = ", ".join(axis.name for axis in AXES)
        raise ValueError(f"axis: got {min(unknown)!r}, legal: {legal}")
    method = values.get(QUANTIZATION.name)
    unused = QUANTIZED if method == NONE else OF_TRAINING if method not in (None, "qat") else ()
    for axis in AXES:
        if values.get(axis.name) is not None and axis.name not in unused:
            config = axis.applied(config, values[axis.name])
    return config


def grid(baseline: C, values: Mapping[str, Sequence[Any]]) -> list[C]:
    """Returns every combination of the values, each applied to the baseline.

    Args:
      baseline: gives the values of all other axes and, if it is a run's config, the seed.
      values: the values of each varied axis, by axis name. The last axis varies fastest.

    Raises:
      ValueError: an axis is unknown, or a value is not legal for this network.
    """
    varied = {name: chosen for name, chosen in values.items() if chosen}
    combinations = itertools.product(*varied.values())
    configs = [
        with_values(baseline, dict(zip(varied, chosen, strict=True))) for chosen in combinations
    ]
    return list(dict.fromkeys(configs))


def labels(config: Varied, named: Collection[str] = ()) -> dict[str, str]:
    """Returns the value of every axis as text for a table, by axis name.

    Retired axes (see `RETIRED_AXES`) and those of quantization and of a teacher are included only
    if `config` has a value on them or `named` contains them. If it has none, the label is `ABSENT`.

    Args:
      config: an arm, or the config of a run.
      named: the axes that the table compares. The axes that a named axis determines are omitted.
    """
    settled = {name for axis in AXES if axis.name in named for name in axis.determines}
    unused: tuple[str, ...] = ()
    if config.quantization is None:
        settled |= {QUANTIZATION.name, *QUANTIZED}
    elif not config.quantization.trains:
        unused = OF_TRAINING
    if config.distillation is None:
        settled |= {*TAUGHT}
    settled |= {*unused}
    shown = [axis for axis in AXES if axis.name in named or axis.name not in settled]
    shown += [axis for axis in RETIRED_AXES if axis.name in named or axis.read(config)]
    return {
        axis.name: ABSENT if axis.name in unused else format_value(axis.read(config))
        for axis in shown
    }
