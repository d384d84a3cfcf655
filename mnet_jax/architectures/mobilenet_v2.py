"""MobileNet V2 (arXiv 1801.04381), Table 2."""

from mnet_jax.architectures.dialects import (
    DialectName,
    channel_rules_of,
    dialect_of,
    round_channels,
)
from mnet_jax.architectures.spec import ConvNorm, Head, InvertedResidual, NetworkSpec, Shortcut
from mnet_jax.architectures.transforms import (
    Bottleneck,
    InputStride,
    Rectifier,
    with_activation,
    with_bottleneck,
    with_expansion,
    with_input_stride,
    with_shortcut,
)
from mnet_jax.validation import require_choice, with_plain_arguments

VERSION = "mobilenet_v2"
STEM = 32
LAST = 1280
ROWS = (  # (t, c, n, s): expansion, channels, repeats, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@with_plain_arguments
def mobilenet_v2(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    in_channels: int = 3,
    expansion: int = 6,
    bottleneck: Bottleneck = "linear",
    shortcut: Shortcut = "bottleneck",
    activation: Rectifier = "relu6",
    dropout: float | None = None,
    dialect: DialectName = "paper",
    norm_momentum: float | None = None,
    input_stride: InputStride = 4,
) -> NetworkSpec:
    """Returns the spec of MobileNet V2 (arXiv 1801.04381).

    Args:
      width: the width multiplier; a width below 1 does not change the channels of the last
        convolution.
      num_classes: number of logits; with 0 the network returns features, see `Head`.
      in_channels: channels of the images: 3 for RGB, 1 for gray, more for other cameras. Weights
        for RGB can be adapted; see `models.with_in_channels`.
      expansion: expansion factor t of every block but the first, which has no expansion layer.
      bottleneck: activation after each projection (Fig. 6a).
      shortcut: the tensors that identity shortcuts connect (Fig. 6b).
      activation: activation of every layer that is not linear.
      dropout: dropout rate before the classifier; None takes the dialect's.
      dialect: the implementation whose padding, channel rounding, normalization constants and
        initialization are used.
      norm_momentum: fraction of BatchNorm's running statistics kept at each step; None takes the
        dialect's. With the paper's value, the statistics converge in thousands of steps.
      input_stride: product of the first two strides; use 1 for images of 32x32 pixels or less.

    Raises:
      ValueError: an option is not legal; the message gives its name, its value and legal values.
    """
    require_choice("activation", activation, Rectifier)
    rules = channel_rules_of(VERSION, dialect)
    # Keras truncates only in its blocks: all dialects round the stem and last convolution alike.
    stem = round_channels(STEM, width, "divisible")
    last = round_channels(LAST, max(1.0, width), "divisible")
    blocks, inputs = [], stem
    for t, row_channels, repeats, first_stride in ROWS:
        outputs = round_channels(row_channels, width, rules.rounding)
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            blocks.append(
                InvertedResidual(inputs=inputs, expanded=inputs * t, outputs=outputs, stride=stride)
            )
            inputs = outputs
    spec = NetworkSpec(
        name="mobilenet_v2",
        width=float(width),
        dialect=dialect_of(VERSION, dialect, norm_momentum),
        stem=ConvNorm(inputs=in_channels, outputs=stem, kernel=3, stride=2),
        blocks=tuple(blocks),
        head=Head(
            conv=ConvNorm(inputs=inputs, outputs=last, kernel=1),
            dropout=rules.dropout if dropout is None else dropout,
            num_classes=num_classes,
        ),
    )
    spec = with_bottleneck(with_activation(spec, activation), bottleneck)
    spec = with_expansion(with_input_stride(spec, input_stride), expansion)
    return with_shortcut(spec, shortcut)
