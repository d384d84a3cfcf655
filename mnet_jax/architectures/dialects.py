"""The conventions in which reference implementations differ, as a table by version and dialect.

The dialects: `paper` follows the papers, and the authors' released code where the papers are
silent. `slim` is the authors' released code of V1 to V3 (TF-slim). In timm, TF-slim's weights are
called `tf_mobilenet...`. `keras` is `keras.applications`. `torchvision` and `timm` are the PyTorch
libraries. The authors of V4 released their code in TensorFlow's Model Garden; `paper` takes V4's
constants from this code.

At stride 2 the padding schemes give outputs of the same shape but with different values. Weight
converters often overlook this.
"""

from dataclasses import dataclass
from typing import Literal

from mnet_jax.validation import is_number, make_fields_plain, require, require_choice

DialectName = Literal["paper", "slim", "keras", "torchvision", "timm"]
Padding = Literal["same", "symmetric", "end"]
Rounding = Literal["truncate", "truncate_at_least_8", "divisible", "truncate_divisible"]
Initializer = Literal[
    "truncated_normal_0.09",  # every kernel: standard deviation 0.09 before truncation
    "variance_scaling",  # truncated normal, variance 1 / fan in; depthwise: fan in kh * kw
    "glorot_uniform",  # Keras' default; depthwise: fan in kh * kw * c, fan out kh * kw
    "normal_fan_out",  # He normal; depthwise: fan out kh * kw * c; dense: deviation 0.01
    "normal_group_fan_out",  # He normal; depthwise: fan out kh * kw; dense: uniform
]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The conventions by which an implementation computes a version of MobileNet.

    Attributes:
      name: the implementation.
      norm_epsilon: constant added to the variance in batch normalization.
      norm_momentum: fraction of the running statistics that is kept at each step.
      padding: padding scheme of full convolutions; see `architectures.shapes.pad_amounts`.
      depthwise_padding: padding scheme of depthwise convolutions.
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
class ChannelRules:
    """The conventions by which an implementation chooses the channels and dropout of a version.

    The factories apply the rules; a `NetworkSpec` holds only the resulting numbers.

    Attributes:
      dropout: dropout rate before the classifier.
      rounding: how channels times the width multiplier are rounded; see `round_channels`.
      stem_scales_from: smallest width multiplier that scales the stem; below this width, the stem
        has the channels of width 1.
      expansion: how expanded channels depend on the width multiplier. `ratio`: the block's actual
        input channels times the table's expansion ratio. `scaled`: the table's expanded channels
        times the width multiplier. This rule and `last` are why implementations of V3 differ
        at width 0.75.
      last: how the widest layer after the blocks depends on the width multiplier. `grows`: scaled
        above width 1, never below. `scaled`: always scaled. `fixed`: never scaled.
      pooled: channels of the convolution before the pool in V3 and V4. `ratio`: six times the
        convolution's actual input channels. `scaled`: the table's channels times the width
        multiplier.
    """

    dropout: float
    rounding: Rounding
    stem_scales_from: float
    expansion: Literal["ratio", "scaled"]
    last: Literal["grows", "scaled", "fixed"]
    pooled: Literal["ratio", "scaled"]


@dataclass(frozen=True, kw_only=True)
class SegmentationRules:
    """The conventions by which an implementation builds networks for segmentation.

    Attributes:
      dilates_strided: whether dilation begins with the layer whose stride is removed, or with the
        layers after it.
      low_level: whether the finer of the two feature maps is the output of the first or of the last
        block of its stride.
      norm_epsilon: `Dialect.norm_epsilon` of the head's layers; None for that of the backbone.
      norm_momentum: `Dialect.norm_momentum` of the head's layers; None for that of the backbone.
    """

    dilates_strided: bool
    low_level: Literal["first", "last"]
    norm_epsilon: float | None = None
    norm_momentum: float | None = None


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
_CHANNEL_RULES: dict[tuple[str, DialectName], tuple] = {
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
    """Returns the conventions by which an implementation computes a version.

    Args:
      version: a version without its variant: `mobilenet_v3`, not `mobilenet_v3_large`.
      name: the implementation.
      norm_momentum: replaces the implementation's `Dialect.norm_momentum`; None keeps it.

    Raises:
      ValueError: the implementation is unknown or does not have this version.
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


def channel_rules_of(version: str, name: DialectName) -> ChannelRules:
    """Returns the conventions by which an implementation chooses channels and dropout.

    The arguments and the error are those of `dialect_of`.
    """
    _require_row(version, name)
    fields = (
        "dropout",
        "rounding",
        "stem_scales_from",
        "expansion",
        "last",
        "pooled",
    )
    return ChannelRules(**dict(zip(fields, _CHANNEL_RULES[version, name], strict=True)))


def segmentation_rules_of(name: DialectName) -> SegmentationRules:
    """Returns the conventions by which an implementation builds networks for segmentation.

    Only torchvision has such networks of MobileNets; the other dialects follow arXiv 1706.05587.
    """
    if name == "torchvision":
        return SegmentationRules(
            dilates_strided=True, low_level="first", norm_epsilon=1e-5, norm_momentum=0.9
        )
    return SegmentationRules(dilates_strided=False, low_level="last")


def _require_row(version: str, name: str) -> None:
    legal = ", ".join(dialect for known, dialect in _DIALECTS if known == version)
    known = isinstance(name, str) and (version, name) in _DIALECTS
    require(known, f"dialect of {version}", name, legal)


def stem_channels(channels: int, width: float, rules: ChannelRules) -> int:
    """Returns the channels of the stem at `width`, given its `channels` at width 1.

    Raises:
      ValueError: as `round_channels`.
    """
    scaled = round_channels(channels, width, rules.rounding)
    return scaled if width >= rules.stem_scales_from else channels


def last_channels(channels: int, width: float, rules: ChannelRules) -> int:
    """Returns the channels, at `width`, of the widest layer after the blocks.

    The argument `channels` is the layer's number of channels at width 1.
    """
    if rules.last == "fixed":
        return channels
    return round_channels(
        channels, max(1.0, width) if rules.last == "grows" else width, "divisible"
    )


def make_divisible(value: float, divisor: int = 8) -> int:
    """Rounds to the nearest multiple of `divisor` that is at least 90 % of `value`, and not 0."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def round_channels(channels: int, width: float, rounding: Rounding) -> int:
    """Scales a layer's channels by the width multiplier and rounds them.

    Raises:
      ValueError: the width is not a positive finite number, or gives less than one channel.
    """
    positive = is_number(width) and 0 < width < float("inf")
    require(positive, "width", width, "a finite multiplier above 0")
    scaled = channels * width
    require(
        scaled >= 1, "width", width, f"{1 / channels:g} or more, to keep 1 of {channels} channels"
    )
    if rounding == "truncate":
        return int(scaled)
    if rounding == "truncate_at_least_8":
        return max(int(scaled), 8)
    return make_divisible(scaled if rounding == "divisible" else int(scaled))
