"""Axes: what a sweep can vary. Each is a function on a run's config, the same for every model.

An axis that changes the architecture maps the config's spec, by `architectures.transforms` or by
computing it anew; one that changes the recipe or the data replaces a field. `grid` crosses them.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_origin

from mnet_jax import architectures
from mnet_jax.architectures import InvertedResidual, NetworkSpec, Separable, transforms
from mnet_jax.architectures.dialects import DialectName
from mnet_jax.architectures.spec import Shortcut
from mnet_jax.config import Lowering, Parallelism, Precision, RunConfig
from mnet_jax.validation import require, require_choice

ABSENT = "-"  # what `read` gives where a network has no place for the axis


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing to vary.

    Attributes:
      name: its flag on the command line, and its column in the table.
      values: the type of its values, a `Literal` where the choice is closed.
      claim: what varying it shows, with the source.
      apply: the config with this value.
      read: the value of a config, or `ABSENT`.
    """

    name: str
    values: Any
    claim: str
    apply: Callable[[RunConfig, Any], RunConfig]
    read: Callable[[RunConfig], Any]


def _rebuilt(config: RunConfig, **changes: Any) -> RunConfig:
    """The config with its network computed anew from the factory, `changes` applied.

    Raises:
      ValueError: the network is not one that the factory makes, so something would be lost.
    """
    spec = config.spec
    options: dict[str, Any] = {
        "name": spec.name,
        "width": spec.width,
        "num_classes": spec.head.num_classes,
        "dialect": spec.dialect.name,
        "norm_momentum": _own_momentum(spec),
        "input_stride": _input_stride(spec),
    }
    if _make(**options) != spec:
        raise ValueError(f"{next(iter(changes))}: vary it before what changes single blocks")
    return dataclasses.replace(config, spec=_make(**(options | changes)))


def _make(name: str, **options: Any) -> NetworkSpec:
    return architectures.FACTORIES[name](**options)


def _own_momentum(spec: NetworkSpec) -> float | None:
    """The network's BatchNorm momentum where it is not its dialect's, which changes with it."""
    momentum = spec.dialect.norm_momentum
    usual = _make(spec.name, dialect=spec.dialect.name).dialect.norm_momentum
    return None if momentum == usual else momentum


def _input_stride(spec: NetworkSpec) -> int:
    """The product of the stem's stride and of the first strided block's as published."""
    published = _make(spec.name, num_classes=spec.head.num_classes)
    first = next(i for i, block in enumerate(published.blocks) if block.stride == 2)
    return spec.stem.stride * spec.blocks[first].stride


def _rebuilding(name: str, values: Any, claim: str, read: Callable[[NetworkSpec], Any]) -> Axis:
    """An axis that is an option of the network's factory."""
    option = "name" if name == "model" else name
    return Axis(
        name=name,
        values=values,
        claim=claim,
        apply=lambda config, value: _rebuilt(config, **{option: value}),
        read=lambda config: read(config.spec),
    )


def _transforming(
    name: str,
    values: Any,
    claim: str,
    transform: Callable[[NetworkSpec, Any], NetworkSpec],
    read: Callable[[NetworkSpec], Any],
) -> Axis:
    """An axis that maps the spec."""
    return Axis(
        name=name,
        values=values,
        claim=claim,
        apply=lambda config, value: dataclasses.replace(config, spec=transform(config.spec, value)),
        read=lambda config: read(config.spec),
    )


def _with_epochs(config: RunConfig, epochs: int) -> RunConfig:
    """A run of that many epochs; a warm-up that does not fit into it becomes shorter."""
    warmup = min(config.training.warmup_epochs, max(epochs, 0))
    training = dataclasses.replace(config.training, epochs=epochs, warmup_epochs=warmup)
    return dataclasses.replace(config, training=training)


def _replacing(part: Literal["data", "training"], name: str, values: Any, claim: str) -> Axis:
    """An axis that is a field of the config's `data` or `training`."""

    def apply(config: RunConfig, value: Any) -> RunConfig:
        changed = dataclasses.replace(getattr(config, part), **{name: value})
        return dataclasses.replace(config, **{part: changed})

    return Axis(
        name=name,
        values=values,
        claim=claim,
        apply=apply,
        read=lambda config: getattr(getattr(config, part), name),
    )


def _inverted(spec: NetworkSpec) -> list[InvertedResidual]:
    return [block for block in spec.blocks if isinstance(block, InvertedResidual)]


def _only(values: set[Any], otherwise: Any) -> Any:
    """The one value of a set, `otherwise` for none, all of them for several."""
    if len(values) > 1:
        return " ".join(_text(value) for value in sorted(values))
    return next(iter(values), otherwise)


def _read_bottleneck(spec: NetworkSpec) -> Any:
    return _only({block.bottleneck for block in _inverted(spec)}, ABSENT)


def _read_expansion(spec: NetworkSpec) -> Any:
    ratios = {block.expanded / block.inputs for block in _inverted(spec) if block.expands}
    ratio = _only(ratios, 1 if _inverted(spec) else ABSENT)
    return int(ratio) if isinstance(ratio, float) and ratio.is_integer() else ratio


def _read_shortcut(spec: NetworkSpec) -> Any:
    return _only(
        {block.shortcut for block in _inverted(spec) if block.keeps_shape},
        "none" if _inverted(spec) else ABSENT,
    )


def _read_convolution(spec: NetworkSpec) -> Any:
    if _inverted(spec):
        return ABSENT
    return "depthwise" if any(isinstance(b, Separable) for b in spec.blocks) else "full"


def _read_depth(spec: NetworkSpec) -> Any:
    if spec.name != "mobilenet_v1":
        return ABSENT
    return "shallow" if len(spec.blocks) == 8 else "full"


# In the order in which they are applied: what computes a network anew comes before what maps it.
ARCHITECTURE_AXES: tuple[Axis, ...] = (
    _rebuilding(
        "model",
        Literal[*architectures.FACTORIES],
        "the network",
        lambda spec: spec.name,
    ),
    _rebuilding(
        "dialect",
        DialectName,
        "whose padding, rounding, normalization constants and initialization",
        lambda spec: spec.dialect.name,
    ),
    _rebuilding("width", float, "width multiplier (V1, Table 6)", lambda spec: spec.width),
    _transforming(
        "convolution",
        transforms.Convolution,
        "depthwise separable or full convolutions (V1, Table 4)",
        transforms.with_convolution,
        _read_convolution,
    ),
    _transforming(
        "depth",
        Literal["full", "shallow"],
        "all blocks, or without the five 14x14x512 ones (V1, Table 5)",
        transforms.with_depth,
        _read_depth,
    ),
    _transforming(
        "expansion",
        int,
        "expansion factor t of the inverted residuals (V2, section 3.3)",
        transforms.with_expansion,
        _read_expansion,
    ),
    _transforming(
        "bottleneck",
        transforms.Bottleneck,
        "what follows a projection: nothing or ReLU6 (V2, Fig. 6a)",
        transforms.with_bottleneck,
        _read_bottleneck,
    ),
    _transforming(
        "shortcut",
        Shortcut,
        "what the identities connect (V2, Fig. 6b)",
        transforms.with_shortcut,
        _read_shortcut,
    ),
    _transforming(
        "activation",
        Literal["relu6", "relu"],
        "the non-linearity of the layers that have one",
        transforms.with_activation,
        lambda spec: spec.stem.activation,
    ),
)
RECIPE_AXES: tuple[Axis, ...] = (
    _replacing("data", "resolution", int, "side of the images in pixels (V1, Table 7)"),
    Axis(
        name="epochs",
        values=int,
        claim="passes over the training images",
        apply=_with_epochs,
        read=lambda config: config.training.epochs,
    ),
    _replacing("training", "learning_rate", float, "peak learning rate"),
    _replacing("training", "label_smoothing", float, "share of each label spread over all classes"),
    _replacing("training", "ema_decay", float, "decay of the evaluated moving average, 0 for none"),
    _replacing("training", "weight_decay", float, "L2 coefficient on kernels"),
    _replacing(
        "training",
        "decay_depthwise",
        bool,
        "weight decay on depthwise kernels too (V1, section 3.2, advises against)",
    ),
    _replacing("training", "frozen", int, "leading parts (stem, blocks) that are not trained"),
    _replacing(
        "training", "depth_decay", float, "learning rate of a part over that of the part behind it"
    ),
    _replacing("training", "precision", Precision, "type of the computation"),
    _replacing("training", "parallel", Parallelism, "how devices share a batch"),
    _replacing("training", "lowering", Lowering, "how convolutions are computed"),
)
AXES = (*ARCHITECTURE_AXES, *RECIPE_AXES)


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The config with one value on each axis that has one; None leaves an axis as it is.

    Raises:
      ValueError: an axis is unknown, or a value is not legal for the network it meets.
    """
    unknown = values.keys() - {axis.name for axis in AXES}
    if unknown:
        legal = ", ".join(axis.name for axis in AXES)
        raise ValueError(f"axis: got {min(unknown)!r}, legal: {legal}")
    for axis in AXES:
        value = values.get(axis.name)
        if value is None:
            continue
        try:
            config = axis.apply(config, _of_its_type(axis, value))
        except OverflowError as error:
            raise ValueError(f"{axis.name}: got {value!r}, legal: smaller numbers") from error
    return config


def _of_its_type(axis: Axis, value: Any) -> Any:
    """The value as its axis has it: 1 and 1.0 are one float, True and 1.0 are no int."""
    if get_origin(axis.values) is Literal:
        require_choice(axis.name, value, axis.values)
        return value
    if axis.values is bool:
        require(isinstance(value, bool), axis.name, value, "True, False")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if axis.values is int:
        require(number and isinstance(value, int), axis.name, value, "whole numbers")
        return value
    require(number and math.isfinite(value), axis.name, value, "finite numbers")
    return float(value)


def grid(baseline: RunConfig, values: Mapping[str, Sequence[Any]]) -> list[RunConfig]:
    """Every combination of the values, each a config with the baseline's seed.

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


def labels(config: RunConfig) -> dict[str, str]:
    """The value of every axis, as text for a table."""
    return {axis.name: _text(axis.read(config)) for axis in AXES}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
