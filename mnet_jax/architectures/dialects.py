"""What the reference implementations do differently: one table, a row per version and dialect.

Sources: `paper` is what the papers print and, where they are silent, what the authors released;
`slim` is that release (TF-slim; weights that timm calls `tf_mobilenet...`); `keras` is
`keras.applications`; `torchvision` and `timm` are the PyTorch libraries. V4's authors released in
TensorFlow's Model Garden, whose constants are `paper`'s there.

At stride 2 the paddings give the same shapes and different values, the classic fault of weight
converters.
"""

from dataclasses import dataclass
from typing import Literal

from mnet_jax.validation import is_number, make_fields_plain, require, require_choice

DialectName = Literal["paper", "slim", "keras", "torchvision", "timm"]
Padding = Literal["same", "symmetric", "end"]
Rounding = Literal["truncate", "truncate_at_least_8", "divisible", "truncate_divisible"]
Initializer = Literal[
    "truncated_normal_0.09",  # every kernel: standard deviation 0.09 before truncation
    "variance_scaling",  # truncated normal of variance 1 / fan in, a depthwise one counts kh kw
    "glorot_uniform",  # Keras' default; a depthwise kernel counts kh kw c in, kh kw out
    "normal_fan_out",  # He's normal; a depthwise kernel counts kh kw c out; dense normal 0.01
    "normal_group_fan_out",  # the same with kh kw out for a depthwise kernel; dense uniform
]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One implementation's conventions for one version, as far as the built network has them.

    Attributes:
      name: the implementation.
      norm_epsilon: added to the variance in batch normalization.
      norm_momentum: share of the running statistics that is kept at each step.
      padding: of full convolutions; see `shapes.pad_amounts`.
      depthwise_padding: of depthwise convolutions.
      initializer: distribution of the initial kernels.
    """

    name: DialectName
    norm_epsilon: float
    norm_momentum: float
    padding: Padding
    depthwise_padding: Padding
    initializer: Initializer

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require_choice("dialect", self.name, DialectName)
        epsilon = is_number(self.norm_epsilon) and self.norm_epsilon > 0
        require(epsilon, "norm_epsilon", self.norm_epsilon, "above 0")
        share = is_number(self.norm_momentum) and 0 <= self.norm_momentum < 1
        require(share, "norm_momentum", self.norm_momentum, "0 to below 1")
        for name, literal in (("padding", Padding), ("depthwise_padding", Padding)):
            require_choice(name, getattr(self, name), literal)
        require_choice("initializer", self.initializer, Initializer)


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """One implementation's conventions for one version that the factories resolve into a spec.

    Attributes:
      dropout: rate before the classifier.
      rounding: how a width multiplier makes whole channels; see `round_channels`.
      stem_scales_from: the width from which on the stem is scaled too; below, it stays.
      expansion: whether an expanded width is the `ratio` to the block's real inputs, rounded, or
        the table's number `scaled` by the width. This is the one of V3's two 0.75 rules that
        changes the blocks; `last` is the other.
      last: the widest layer of the tail. `grows`: scaled above width 1, never below. `scaled`:
        always. `fixed`: never.
      pooled: V3's and V4's convolution before the pool: six times its real inputs (`ratio`), or
        the table's number `scaled`.
    """

    dropout: float
    rounding: Rounding
    stem_scales_from: float
    expansion: Literal["ratio", "scaled"]
    last: Literal["grows", "scaled", "fixed"]
    pooled: Literal["ratio", "scaled"]


_SAME, _TORCH, _KERAS_V1 = ("same", "same"), ("symmetric", "symmetric"), ("same", "end")
_SLIM_INIT, _GOOGLE_INIT = "truncated_normal_0.09", "normal_group_fan_out"
_NEVER = float("inf")
_V1, _V2, _V3, _V4 = "mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "mobilenet_v4"

# (version, dialect): epsilon, momentum, (padding, depthwise padding), initializer
_DIALECTS: dict[tuple[str, DialectName], tuple] = {
    (_V1, "paper"): (1e-3, 0.9997, _SAME, _SLIM_INIT),
    (_V1, "slim"): (1e-3, 0.9997, _SAME, _SLIM_INIT),
    (_V1, "keras"): (1e-3, 0.99, _KERAS_V1, "glorot_uniform"),
    (_V1, "timm"): (1e-5, 0.9, _TORCH, _GOOGLE_INIT),
    (_V2, "paper"): (1e-3, 0.997, _SAME, _SLIM_INIT),
    (_V2, "slim"): (1e-3, 0.997, _SAME, _SLIM_INIT),
    (_V2, "keras"): (1e-3, 0.999, _SAME, "glorot_uniform"),
    (_V2, "torchvision"): (1e-5, 0.9, _TORCH, "normal_fan_out"),
    (_V2, "timm"): (1e-5, 0.9, _TORCH, _GOOGLE_INIT),
    (_V3, "paper"): (1e-3, 0.99, _SAME, _SLIM_INIT),  # momentum: section 6.1.1
    (_V3, "slim"): (1e-3, 0.997, _SAME, _SLIM_INIT),
    (_V3, "keras"): (1e-3, 0.999, _SAME, "glorot_uniform"),
    (_V3, "torchvision"): (1e-3, 0.99, _TORCH, "normal_fan_out"),
    (_V3, "timm"): (1e-5, 0.9, _TORCH, _GOOGLE_INIT),
    (_V4, "paper"): (1e-3, 0.99, _SAME, "variance_scaling"),
    (_V4, "timm"): (1e-5, 0.9, _TORCH, _GOOGLE_INIT),
}

# (version, dialect): dropout, rounding, stem scales from, expansion, last, pooled
_SIZINGS: dict[tuple[str, DialectName], tuple] = {
    (_V1, "paper"): (0.001, "truncate_at_least_8", 0.0, "ratio", "scaled", "scaled"),
    (_V1, "slim"): (0.001, "truncate_at_least_8", 0.0, "ratio", "scaled", "scaled"),
    (_V1, "keras"): (0.001, "truncate", 0.0, "ratio", "scaled", "scaled"),
    (_V1, "timm"): (0.0, "divisible", 0.0, "ratio", "scaled", "scaled"),
    (_V2, "paper"): (0.2, "divisible", 0.0, "ratio", "grows", "scaled"),
    (_V2, "slim"): (0.2, "divisible", 0.0, "ratio", "grows", "scaled"),
    (_V2, "keras"): (0.0, "truncate_divisible", 0.0, "ratio", "grows", "scaled"),
    (_V2, "torchvision"): (0.2, "divisible", 0.0, "ratio", "grows", "scaled"),
    (_V2, "timm"): (0.0, "divisible", 0.0, "ratio", "grows", "scaled"),
    (_V3, "paper"): (0.2, "divisible", 0.0, "ratio", "grows", "scaled"),
    (_V3, "slim"): (0.2, "divisible", 0.0, "ratio", "grows", "scaled"),
    (_V3, "keras"): (0.2, "divisible", _NEVER, "ratio", "grows", "ratio"),
    (_V3, "torchvision"): (0.2, "divisible", 0.0, "scaled", "scaled", "ratio"),
    (_V3, "timm"): (0.0, "divisible", 0.75, "ratio", "fixed", "scaled"),
    (_V4, "paper"): (0.2, "divisible", 0.0, "ratio", "fixed", "scaled"),
    (_V4, "timm"): (0.0, "divisible", 1.0, "ratio", "fixed", "scaled"),
}


def dialect_of(version: str, name: DialectName, norm_momentum: float | None = None) -> Dialect:
    """The conventions of implementation `name` for `version`, such as `mobilenet_v2`.

    Args:
      version: without its variant: `mobilenet_v3`, not `mobilenet_v3_large`.
      name: the implementation.
      norm_momentum: another share of BatchNorm's running statistics to keep; None is its own.

    Raises:
      ValueError: the implementation is unknown or has no such network.
    """
    _require_row(version, name)
    epsilon, momentum, (padding, depthwise_padding), initializer = _DIALECTS[version, name]
    return Dialect(
        name=name,
        norm_epsilon=epsilon,
        norm_momentum=momentum if norm_momentum is None else norm_momentum,
        padding=padding,
        depthwise_padding=depthwise_padding,
        initializer=initializer,
    )


def sizing_of(version: str, name: DialectName) -> Sizing:
    """The other half of the table; arguments and errors as `dialect_of`."""
    _require_row(version, name)
    fields = (
        "dropout",
        "rounding",
        "stem_scales_from",
        "expansion",
        "last",
        "pooled",
    )
    return Sizing(**dict(zip(fields, _SIZINGS[version, name], strict=True)))


def _require_row(version: str, name: str) -> None:
    legal = ", ".join(dialect for known, dialect in _DIALECTS if known == version)
    known = isinstance(name, str) and (version, name) in _DIALECTS
    require(known, f"dialect of {version}", name, legal)


def stem_channels(channels: int, width: float, sizing: Sizing) -> int:
    """Channels of the stem, of `channels` at width 1; ValueError as `round_channels`."""
    scaled = round_channels(channels, width, sizing.rounding)
    return scaled if width >= sizing.stem_scales_from else channels


def last_channels(channels: int, width: float, sizing: Sizing) -> int:
    """The widest layer of the tail, of `channels` at width 1."""
    if sizing.last == "fixed":
        return channels
    return round_channels(
        channels, max(1.0, width) if sizing.last == "grows" else width, "divisible"
    )


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, not below `divisor` nor 90 % of `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def round_channels(channels: int, width: float, rounding: Rounding) -> int:
    """Whole channels of a layer of `channels` under the width multiplier.

    Raises:
      ValueError: the width is not positive, or leaves no channel.
    """
    positive = is_number(width) and 0 < width < float("inf")
    require(positive, "width", width, "a finite multiplier above 0")
    scaled = channels * width
    require(
        scaled >= 1, "width", width, f"{1 / channels:g} or more, to leave {channels} channels one"
    )
    if rounding == "truncate":
        return int(scaled)
    if rounding == "truncate_at_least_8":
        return max(int(scaled), 8)
    return make_divisible(scaled if rounding == "divisible" else int(scaled))
