"""What the reference implementations do differently, one row per implementation and version.

Sources: `paper` takes the structure from the papers and what they leave open from the authors'
release (TF-slim); `keras` is `keras.applications`; `torchvision` and `timm` are the PyTorch
libraries. At stride 2 their paddings give the same shapes and different values, the classic fault
of weight converters.
"""

from dataclasses import dataclass
from typing import Literal

from mnet_jax.validation import require, require_choice

DialectName = Literal["paper", "keras", "torchvision", "timm"]
Padding = Literal["same", "symmetric", "end"]
Rounding = Literal["truncate", "truncate_at_least_8", "divisible", "truncate_divisible"]
Initializer = Literal[
    "truncated_normal_0.09",  # every kernel: standard deviation 0.09 before truncation
    "glorot_uniform",  # Keras' default; a depthwise kernel counts kh kw c in, kh kw out
    "normal_fan_out",  # He's normal; a depthwise kernel counts kh kw c out; dense normal 0.01
    "normal_group_fan_out",  # the same with kh kw out for a depthwise kernel; dense uniform
]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One implementation's conventions for one version of the network.

    Attributes:
      name: the implementation.
      norm_epsilon: added to the variance in batch normalization.
      norm_momentum: share of the running statistics that is kept at each step.
      padding: of full convolutions; see `spec.pad_amounts`.
      depthwise_padding: of depthwise convolutions.
      dropout: rate before the classifier.
      rounding: how a width multiplier makes whole channels; see `round_channels`.
      initializer: distribution of the initial kernels.
    """

    name: DialectName
    norm_epsilon: float
    norm_momentum: float
    padding: Padding
    depthwise_padding: Padding
    dropout: float
    rounding: Rounding
    initializer: Initializer

    def __post_init__(self) -> None:
        require(self.norm_epsilon > 0, "norm_epsilon", self.norm_epsilon, "above 0")
        require(0 <= self.norm_momentum < 1, "norm_momentum", self.norm_momentum, "0 to below 1")
        for name, literal in (("padding", Padding), ("depthwise_padding", Padding)):
            require_choice(name, getattr(self, name), literal)
        require_choice("rounding", self.rounding, Rounding)
        require_choice("initializer", self.initializer, Initializer)


# version: (epsilon, momentum, padding, depthwise padding, dropout, rounding, initializer)
_V1: dict[DialectName, tuple] = {
    "paper": (1e-3, 0.9997, "same", "same", 0.001, "truncate_at_least_8", "truncated_normal_0.09"),
    "keras": (1e-3, 0.99, "same", "end", 0.001, "truncate", "glorot_uniform"),
    "timm": (1e-5, 0.9, "symmetric", "symmetric", 0.0, "divisible", "normal_group_fan_out"),
}
_V2: dict[DialectName, tuple] = {
    "paper": (1e-3, 0.997, "same", "same", 0.2, "divisible", "truncated_normal_0.09"),
    "keras": (1e-3, 0.999, "same", "same", 0.0, "truncate_divisible", "glorot_uniform"),
    "torchvision": (1e-5, 0.9, "symmetric", "symmetric", 0.2, "divisible", "normal_fan_out"),
    "timm": (1e-5, 0.9, "symmetric", "symmetric", 0.0, "divisible", "normal_group_fan_out"),
}
_TABLES = {"mobilenet_v1": _V1, "mobilenet_v2": _V2}


def dialect_of(network: str, name: DialectName) -> Dialect:
    """The conventions of implementation `name` for `network`, such as `mobilenet_v2`.

    Raises:
      ValueError: the implementation is unknown or has no such network.
    """
    table = _TABLES[network]
    require(name in table, f"dialect of {network}", name, ", ".join(table))
    epsilon, momentum, padding, depthwise_padding, dropout, rounding, initializer = table[name]
    return Dialect(
        name=name,
        norm_epsilon=epsilon,
        norm_momentum=momentum,
        padding=padding,
        depthwise_padding=depthwise_padding,
        dropout=dropout,
        rounding=rounding,
        initializer=initializer,
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
    require(0 < width < float("inf"), "width", width, "a finite multiplier above 0")
    scaled = channels * width
    require(
        scaled >= 1, "width", width, f"{1 / channels:g} or more, to leave {channels} channels one"
    )
    if rounding == "truncate":
        return int(scaled)
    if rounding == "truncate_at_least_8":
        return max(int(scaled), 8)
    return make_divisible(scaled if rounding == "divisible" else int(scaled))
