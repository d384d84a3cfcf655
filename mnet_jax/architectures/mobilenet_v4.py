"""MobileNet V4 (arXiv 2404.10518): the models of appendix D, convolutional and hybrid.

The hybrids' tables are those of the released models, as timm has them.
"""

from typing import Literal, NamedTuple

from mnet_jax.architectures.dialects import (
    DialectName,
    channel_rules_of,
    dialect_of,
    last_channels,
    make_divisible,
    round_channels,
    stem_channels,
)
from mnet_jax.architectures.spec import (
    Activation,
    Attention,
    Block,
    ConvNorm,
    FusedInvertedResidual,
    Head,
    Hidden,
    InvertedResidual,
    NetworkSpec,
    Shortcut,
)
from mnet_jax.architectures.transforms import (
    Bottleneck,
    InputStride,
    with_bottleneck,
    with_input_stride,
    with_layer_scale,
    with_shortcut,
)
from mnet_jax.validation import require_choice, with_plain_arguments

VERSION = "mobilenet_v4"
POOLED = 960  # channels of the 1x1 convolution before the pool
HIDDEN = 1280  # channels of the dense layer after the pool
Variant = Literal["conv_small", "conv_medium", "conv_large", "hybrid_medium", "hybrid_large"]


class Conv(NamedTuple):
    """A table row for a full convolution."""

    kernel: int
    stride: int
    channels: int


class Fused(NamedTuple):
    """A table row for a fused inverted residual."""

    kernel: int
    stride: int
    expansion: int
    channels: int


class Uib(NamedTuple):
    """A table row for a universal inverted bottleneck; a kernel size of 0 omits the convolution."""

    start_kernel: int
    kernel: int
    stride: int
    expansion: int
    channels: int


class Mqa(NamedTuple):
    """A table row for multi-query attention, which keeps the channels of the row before."""

    heads: int
    head_channels: int  # at every width
    downsampling: int


Row = Conv | Fused | Uib | Mqa

SMALL_STEM = 32
SMALL: tuple[Row, ...] = (
    Conv(3, 2, 32),
    Conv(1, 1, 32),
    Conv(3, 2, 96),
    Conv(1, 1, 64),
    Uib(5, 5, 2, 3, 96),
    Uib(0, 3, 1, 2, 96),
    Uib(0, 3, 1, 2, 96),
    Uib(0, 3, 1, 2, 96),
    Uib(0, 3, 1, 2, 96),
    Uib(3, 0, 1, 4, 96),
    Uib(3, 3, 2, 6, 128),
    Uib(5, 5, 1, 4, 128),
    Uib(0, 5, 1, 4, 128),
    Uib(0, 5, 1, 3, 128),
    Uib(0, 3, 1, 4, 128),
    Uib(0, 3, 1, 4, 128),
)
MEDIUM_STEM = 32
MEDIUM: tuple[Row, ...] = (
    Fused(3, 2, 4, 48),
    Uib(3, 5, 2, 4, 80),
    Uib(3, 3, 1, 2, 80),
    Uib(3, 5, 2, 6, 160),
    Uib(3, 3, 1, 4, 160),
    Uib(3, 3, 1, 4, 160),
    Uib(3, 5, 1, 4, 160),
    Uib(3, 3, 1, 4, 160),
    Uib(3, 0, 1, 4, 160),
    Uib(0, 0, 1, 2, 160),
    Uib(3, 0, 1, 4, 160),
    Uib(5, 5, 2, 6, 256),
    Uib(5, 5, 1, 4, 256),
    Uib(3, 5, 1, 4, 256),
    Uib(3, 5, 1, 4, 256),
    Uib(0, 0, 1, 4, 256),
    Uib(3, 0, 1, 4, 256),
    Uib(3, 5, 1, 2, 256),
    Uib(5, 5, 1, 4, 256),
    Uib(0, 0, 1, 4, 256),
    Uib(0, 0, 1, 4, 256),
    Uib(5, 0, 1, 2, 256),
)
LARGE_STEM = 24
LARGE: tuple[Row, ...] = (
    Fused(3, 2, 4, 48),
    Uib(3, 5, 2, 4, 96),
    Uib(3, 3, 1, 4, 96),
    Uib(3, 5, 2, 4, 192),
    Uib(3, 3, 1, 4, 192),
    Uib(3, 3, 1, 4, 192),
    Uib(3, 3, 1, 4, 192),
    Uib(3, 5, 1, 4, 192),
    Uib(5, 3, 1, 4, 192),
    Uib(5, 3, 1, 4, 192),
    Uib(5, 3, 1, 4, 192),
    Uib(5, 3, 1, 4, 192),
    Uib(5, 3, 1, 4, 192),
    Uib(3, 0, 1, 4, 192),
    Uib(5, 5, 2, 4, 512),
    Uib(5, 5, 1, 4, 512),
    Uib(5, 5, 1, 4, 512),
    Uib(5, 5, 1, 4, 512),
    Uib(5, 0, 1, 4, 512),
    Uib(5, 3, 1, 4, 512),
    Uib(5, 0, 1, 4, 512),
    Uib(5, 0, 1, 4, 512),
    Uib(5, 3, 1, 4, 512),
    Uib(5, 5, 1, 4, 512),
    Uib(5, 0, 1, 4, 512),
    Uib(5, 0, 1, 4, 512),
    Uib(5, 0, 1, 4, 512),
)
HYBRID_MEDIUM: tuple[Row, ...] = (
    Fused(3, 2, 4, 48),
    Uib(3, 5, 2, 4, 80),
    Uib(3, 3, 1, 2, 80),
    Uib(3, 5, 2, 6, 160),
    Uib(0, 0, 1, 2, 160),
    Uib(3, 3, 1, 4, 160),
    Uib(3, 5, 1, 4, 160),
    Mqa(4, 64, 2),
    Uib(3, 3, 1, 4, 160),
    Mqa(4, 64, 2),
    Uib(3, 0, 1, 4, 160),
    Mqa(4, 64, 2),
    Uib(3, 3, 1, 4, 160),
    Mqa(4, 64, 2),
    Uib(3, 0, 1, 4, 160),
    Uib(5, 5, 2, 6, 256),
    Uib(5, 5, 1, 4, 256),
    Uib(3, 5, 1, 4, 256),
    Uib(3, 5, 1, 4, 256),
    Uib(0, 0, 1, 2, 256),
    Uib(3, 5, 1, 2, 256),
    Uib(0, 0, 1, 2, 256),
    Uib(0, 0, 1, 4, 256),
    Mqa(4, 64, 1),
    Uib(3, 0, 1, 4, 256),
    Mqa(4, 64, 1),
    Uib(5, 5, 1, 4, 256),
    Mqa(4, 64, 1),
    Uib(5, 0, 1, 4, 256),
    Mqa(4, 64, 1),
    Uib(5, 0, 1, 4, 256),
)
HYBRID_LARGE: tuple[Row, ...] = (
    Fused(3, 2, 4, 48),
    Uib(3, 5, 2, 4, 96),
    Uib(3, 3, 1, 4, 96),
    Uib(3, 5, 2, 4, 192),
    Uib(3, 3, 1, 4, 192),
    Uib(3, 3, 1, 4, 192),
    Uib(3, 3, 1, 4, 192),
    Uib(3, 5, 1, 4, 192),
    Uib(5, 3, 1, 4, 192),
    Uib(5, 3, 1, 4, 192),
    Mqa(8, 48, 2),
    Uib(5, 3, 1, 4, 192),
    Mqa(8, 48, 2),
    Uib(5, 3, 1, 4, 192),
    Mqa(8, 48, 2),
    Uib(5, 3, 1, 4, 192),
    Mqa(8, 48, 2),
    Uib(3, 0, 1, 4, 192),
    Uib(5, 5, 2, 4, 512),
    Uib(5, 5, 1, 4, 512),
    Uib(5, 5, 1, 4, 512),
    Uib(5, 5, 1, 4, 512),
    Uib(5, 0, 1, 4, 512),
    Uib(5, 3, 1, 4, 512),
    Uib(5, 0, 1, 4, 512),
    Uib(5, 0, 1, 4, 512),
    Uib(5, 3, 1, 4, 512),
    Uib(5, 5, 1, 4, 512),
    Mqa(8, 64, 1),
    Uib(5, 0, 1, 4, 512),
    Mqa(8, 64, 1),
    Uib(5, 0, 1, 4, 512),
    Mqa(8, 64, 1),
    Uib(5, 0, 1, 4, 512),
    Mqa(8, 64, 1),
    Uib(5, 0, 1, 4, 512),
)


class Table(NamedTuple):
    """The facts of a model's table.

    Attributes:
      stem: channels of the first convolution.
      rows: the blocks.
      activation: the activation of all layers that have one.
      layer_scale: whether the blocks with a depthwise or no kernel, and attention blocks, end in a
        layer scale.
    """

    stem: int
    rows: tuple[Row, ...]
    activation: Activation = "relu"
    layer_scale: bool = False


TABLES: dict[Variant, Table] = {
    "conv_small": Table(SMALL_STEM, SMALL),
    "conv_medium": Table(MEDIUM_STEM, MEDIUM),
    "conv_large": Table(LARGE_STEM, LARGE),
    "hybrid_medium": Table(MEDIUM_STEM, HYBRID_MEDIUM, layer_scale=True),
    "hybrid_large": Table(LARGE_STEM, HYBRID_LARGE, activation="gelu", layer_scale=True),
}


@with_plain_arguments
def mobilenet_v4(
    variant: Variant,
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    in_channels: int = 3,
    bottleneck: Bottleneck = "linear",
    shortcut: Shortcut = "bottleneck",
    dropout: float | None = None,
    dialect: DialectName = "paper",
    norm_momentum: float | None = None,
    input_stride: InputStride = 4,
) -> NetworkSpec:
    """Returns the spec of a MobileNet V4 (arXiv 2404.10518).

    Args:
      variant: the model of appendix D, such as `conv_small` or, with attention, `hybrid_medium`.
      width: the width multiplier.
      num_classes: number of logits; with 0 the network returns features, see `Head`.
      in_channels: channels of the images: 3 for RGB, 1 for gray, more for other cameras. Weights
        for RGB can be adapted; see `models.with_in_channels`.
      bottleneck: activation after each projection.
      shortcut: the tensors that identity shortcuts connect.
      dropout: dropout rate before the classifier; None takes the dialect's.
      dialect: the implementation whose padding, normalization constants and initialization are
        used.
      norm_momentum: fraction of BatchNorm's running statistics kept at each step; None takes the
        dialect's.
      input_stride: product of the first two strides; use 1 for images of 32x32 pixels or less.

    Raises:
      ValueError: an option is not legal; the message gives its name, its value and legal values.
    """
    require_choice("variant", variant, Variant)
    rules = channel_rules_of(VERSION, dialect)
    table = TABLES[variant]
    activation = table.activation

    def channels(count: int) -> int:
        return round_channels(count, width, rules.rounding)

    first = stem_channels(table.stem, width, rules)
    blocks: list[Block] = []
    inputs = first
    for row in table.rows:
        outputs = inputs if isinstance(row, Mqa) else channels(row.channels)
        blocks.append(_block(row, inputs, outputs, activation))
        inputs = outputs
    pooled = ConvNorm(inputs=inputs, outputs=channels(POOLED), kernel=1, activation=activation)
    hidden = Hidden(
        channels=last_channels(HIDDEN, width, rules), activation=activation, normalized=True
    )
    spec = NetworkSpec(
        name=f"mobilenet_v4_{variant}",
        width=float(width),
        dialect=dialect_of(VERSION, dialect, norm_momentum),
        stem=ConvNorm(inputs=in_channels, outputs=first, kernel=3, stride=2, activation=activation),
        blocks=tuple(blocks),
        head=Head(
            conv=pooled,
            hidden=hidden,
            dropout=rules.dropout if dropout is None else dropout,
            num_classes=num_classes,
        ),
    )
    spec = with_bottleneck(with_input_stride(spec, input_stride), bottleneck)
    spec = with_layer_scale(spec, True) if table.layer_scale else spec
    return with_shortcut(spec, shortcut)


def _block(row: Row, inputs: int, outputs: int, activation: Activation) -> Block:
    """Returns the block that a table row describes, without its layer scale."""
    if isinstance(row, Mqa):
        return Attention(inputs=inputs, **row._asdict())
    if isinstance(row, Conv):
        return ConvNorm(
            inputs=inputs,
            outputs=outputs,
            kernel=row.kernel,
            stride=row.stride,
            activation=activation,
        )
    expanded = make_divisible(inputs * row.expansion)
    if isinstance(row, Fused):
        return FusedInvertedResidual(
            inputs=inputs,
            expanded=expanded,
            outputs=outputs,
            kernel=row.kernel,
            stride=row.stride,
            activation=activation,
        )
    return InvertedResidual(
        inputs=inputs,
        expanded=expanded,
        outputs=outputs,
        kernel=row.kernel,
        start_kernel=row.start_kernel,
        stride=row.stride,
        activation=activation,
    )
