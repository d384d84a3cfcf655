"""Axes that are options of a network's factory: changing one rebuilds the network.

The options that the network was made with are read back from its spec. If rebuilding with these
does not give the same spec, something else was changed in it. Rebuilding would lose that change, so
such a network is refused.
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
OF_A_MODEL = (  # the axes in which the published networks differ
    *OF_V3_ALONE, "squeeze_excite", "repeats", "depth", "kernel", "convolution", "expansion",
    "bottleneck", "shortcut", "activation", "stem_activation", "block_activation",
    "head_activation", *OF_A_DIALECT,
)  # fmt: skip


@cache
def made(name: str, **options: Any) -> NetworkSpec:
    """Returns the network that a factory makes with these options.

    Raises:
      ValueError: there is no factory of this name, or it rejects the options.
    """
    require(name in architectures.FACTORIES, "model", name, ", ".join(architectures.FACTORIES))
    return architectures.FACTORIES[name](**options)


def _rebuilt(spec: NetworkSpec, changed: str, value: Any) -> NetworkSpec:
    """Rebuilds the network with its factory, with one option changed.

    Raises:
      ValueError: the spec is not one that the factory makes, so a change would be lost; or the
        factory has no such option.
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
    """Returns the options that the network's factory was called with.

    `hard_swish_from` and `last_stage` are included only if they differ from the published network.
    """
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
    """Returns the BatchNorm momentum if it differs from the dialect's default, else None.

    With None, the momentum follows when the dialect changes.
    """
    momentum = spec.dialect.norm_momentum
    usual = made(spec.name, dialect=spec.dialect.name).dialect.norm_momentum
    return None if momentum == usual else momentum


def _read_input_stride(spec: NetworkSpec) -> Any:
    """Returns the product of the first two strides.

    Assumes that all other strides are as published. Returns `ABSENT` if no factory made the
    network.
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
    """Returns the channels that V3's table gives each block (those at width 1)."""
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
    """Makes an axis for an option of the network's factory."""
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
        "papers or library to take padding, rounding, normalization and initialization from",
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
        "V3's last stage: pool before the last widening, or as the search found it (V3, Fig. 5)",
        _read_last_stage,
    ),
    spec_axis(
        "hard_swish_from",
        int,
        "blocks with this many channels or more at width 1 use h-swish; 0: none (V3, Table 5)",
        _with_hard_swish,
        _read_hard_swish,
        settles=("activation", "stem_activation", "block_activation", "head_activation"),
    ),
)
