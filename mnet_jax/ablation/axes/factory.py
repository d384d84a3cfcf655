"""Axes that are options of a network's factory: they compute the network anew.

The options that a network was made with are read back from its spec, and checked: whatever else
was changed in it would be lost, so such a network is refused.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

from mnet_jax import architectures
from mnet_jax.ablation.axes.axis import Axis, spec_axis
from mnet_jax.architectures import NetworkSpec
from mnet_jax.architectures.dialects import DialectName
from mnet_jax.architectures.mobilenet_v3 import LastStage
from mnet_jax.changes import ABSENT
from mnet_jax.validation import require

V3 = ("mobilenet_v3_large", "mobilenet_v3_small")
OF_V3_ALONE = ("hard_swish_from", "last_stage")
OF_A_DIALECT = ("norm_epsilon", "norm_momentum", "padding", "depthwise_padding", "initializer",
                "dropout")  # fmt: skip
OF_A_MODEL = (  # what tells the networks apart as they are published
    *OF_V3_ALONE, "squeeze_excite", "repeats", "depth", "kernel", "convolution", "expansion",
    "bottleneck", "shortcut", "activation", "stem_activation", "block_activation",
    "head_activation", *OF_A_DIALECT,
)  # fmt: skip


@cache
def made(name: str, **options: Any) -> NetworkSpec:
    """The network of that factory with these options.

    Raises:
      ValueError: there is no such factory, or it takes no such options.
    """
    require(name in architectures.FACTORIES, "model", name, ", ".join(architectures.FACTORIES))
    return architectures.FACTORIES[name](**options)


def _rebuilt(spec: NetworkSpec, changed: str, value: Any) -> NetworkSpec:
    """The network computed anew from its factory, one option changed.

    Raises:
      ValueError: the network is not one that the factory makes, so something would be lost; or
        the factory has no such option.
    """
    options = _options(spec)
    if made(**options) != spec:
        raise ValueError(f"{changed}: vary it before what changes single blocks")
    options["name" if changed == "model" else changed] = value
    for option in OF_V3_ALONE:
        if option in options and options["name"] not in V3:
            raise ValueError(f"{option}: {options['name']} has no such option, legal: "
                             f"{', '.join(V3)}")  # fmt: skip
    return made(**options)


def _options(spec: NetworkSpec) -> dict[str, Any]:
    """What the network's factory was called with, as far as it differs from what it assumes."""
    options: dict[str, Any] = {
        "name": spec.name,
        "width": spec.width,
        "num_classes": spec.head.num_classes,
        "dialect": spec.dialect.name,
        "norm_momentum": _own_momentum(spec),
        "input_stride": _read_input_stride(spec),
    }
    published = made(spec.name)
    for option, read in (("hard_swish_from", _read_hard_swish), ("last_stage", _read_last_stage)):
        if read(spec) != read(published):
            options[option] = read(spec)
    return options


def _own_momentum(spec: NetworkSpec) -> float | None:
    """The network's BatchNorm momentum where it is not its dialect's, which changes with it."""
    momentum = spec.dialect.norm_momentum
    usual = made(spec.name, dialect=spec.dialect.name).dialect.norm_momentum
    return None if momentum == usual else momentum


def _read_input_stride(spec: NetworkSpec) -> Any:
    """The product of the first two strides, which alone may be fewer than published.

    `ABSENT` for a network that no factory made.
    """
    if spec.name not in architectures.FACTORIES:
        return ABSENT
    own, published = (math.prod(block.stride for block in (s.stem, *s.blocks))
                      for s in (spec, made(spec.name)))  # fmt: skip
    return 4 * own // published


def _read_last_stage(spec: NetworkSpec) -> str:
    if spec.name not in V3:
        return ABSENT
    return "efficient" if spec.head.hidden else "original"


def _rows(spec: NetworkSpec) -> list[int]:
    """The channels that V3's table gives each block, whatever the width."""
    return [block.outputs for block in made(spec.name).blocks]


def _read_hard_swish(spec: NetworkSpec) -> Any:
    if spec.name not in V3:
        return ABSENT
    channels = _rows(spec)
    if len(spec.blocks) not in (len(channels), len(channels) + 1):  # 1 more: original last stage
        return ABSENT
    rows = zip(spec.blocks, channels, strict=False)
    swish = {channels for block, channels in rows if block.activation == "hard_swish"}
    return min(swish, default=0)


def _with_hard_swish(spec: NetworkSpec, channels: int) -> NetworkSpec:
    if spec.name in V3:
        legal = [0, *sorted({*_rows(spec)})]
        require(channels in legal, "hard_swish_from", channels, ", ".join(map(str, legal)))
    return _rebuilt(spec, "hard_swish_from", channels)


def _option(
    name: str,
    values: Any,
    claim: str,
    read: Callable[[NetworkSpec], Any],
    *,
    settles: Sequence[str] = (),
) -> Axis:
    """An axis that is an option of the network's factory."""
    return spec_axis(
        name, values, claim, lambda spec, v: _rebuilt(spec, name, v), read, settles=settles
    )


# In the order in which they are applied.
FACTORY_AXES: tuple[Axis, ...] = (
    _option(
        "model",
        Literal[*architectures.FACTORIES],
        "the network",
        lambda spec: spec.name,
        settles=OF_A_MODEL,
    ),
    _option(
        "dialect",
        DialectName,
        "whose padding, rounding, normalization constants and initialization",
        lambda spec: spec.dialect.name,
        settles=OF_A_DIALECT,
    ),
    _option("width", float, "width multiplier (V1, Table 6)", lambda spec: spec.width),
    _option(
        "input_stride",
        int,
        "product of the first two strides: 4 as published, 2 or 1 for small images",
        _read_input_stride,
    ),
    _option(
        "last_stage",
        LastStage,
        "pool before the last widening, or as the search found it (V3, Fig. 5)",
        _read_last_stage,
    ),
    spec_axis(
        "hard_swish_from",
        int,
        "rows of so many channels or more have h-swish, others ReLU; 0 for none (V3, Table 5)",
        _with_hard_swish,
        _read_hard_swish,
        settles=("activation", "stem_activation", "block_activation", "head_activation"),
    ),
)
