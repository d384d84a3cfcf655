"""MobileNet V1 (arXiv 1704.04861), Table 1."""

from mnet_jax.architectures.dialects import (
    DialectName,
    channel_rules_of,
    dialect_of,
    round_channels,
)
from mnet_jax.architectures.spec import ConvNorm, Head, NetworkSpec, Separable
from mnet_jax.architectures.transforms import (
    Convolution,
    Depth,
    InputStride,
    Rectifier,
    with_activation,
    with_convolution,
    with_depth,
    with_input_stride,
)
from mnet_jax.validation import require_choice, with_plain_arguments

VERSION = "mobilenet_v1"
STEM = 32
ROWS = (  # (channels, stride)
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),  # the table prints stride 2 here, but an output size that needs stride 1
)


@with_plain_arguments
def mobilenet_v1(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    in_channels: int = 3,
    convolution: Convolution = "depthwise",
    depth: Depth = "full",
    activation: Rectifier = "relu6",
    dropout: float | None = None,
    dialect: DialectName = "paper",
    norm_momentum: float | None = None,
    input_stride: InputStride = 4,
) -> NetworkSpec:
    """Returns the spec of MobileNet V1 (arXiv 1704.04861).

    Args:
      width: the width multiplier alpha (section 3.3).
      num_classes: number of logits; with 0 the network returns features, see `Head`.
      in_channels: channels of the images: 3 for RGB, 1 for gray, more for other cameras. Weights
        for RGB can be adapted; see `models.with_in_channels`.
      convolution: `depthwise` for depthwise separable blocks; `full` for full convolutions, the
        baseline of Table 4.
      depth: `shallow` leaves out the five 14x14x512 layers (Table 5).
      activation: activation of every layer; the paper says ReLU, but every released implementation
        has ReLU6.
      dropout: dropout rate before the classifier; None takes the dialect's.
      dialect: the implementation whose padding, channel rounding, normalization constants and
        initialization are used.
      norm_momentum: fraction of BatchNorm's running statistics kept at each step; None takes the
        dialect's. With the paper's value, the statistics converge in tens of thousands of steps.
      input_stride: product of the first two strides; use 1 for images of 32x32 pixels or less.

    Raises:
      ValueError: an option is not legal; the message gives its name, its value and legal values.
    """
    require_choice("activation", activation, Rectifier)
    rules = channel_rules_of(VERSION, dialect)

    def channels(count: int) -> int:
        return round_channels(count, width, rules.rounding)

    blocks, inputs = [], channels(STEM)
    for row_channels, stride in ROWS:
        outputs = channels(row_channels)
        blocks.append(Separable(inputs=inputs, outputs=outputs, stride=stride))
        inputs = outputs
    spec = NetworkSpec(
        name="mobilenet_v1",
        width=float(width),
        dialect=dialect_of(VERSION, dialect, norm_momentum),
        stem=ConvNorm(inputs=in_channels, outputs=channels(STEM), kernel=3, stride=2),
        blocks=tuple(blocks),
        head=Head(
            conv=None,
            dropout=rules.dropout if dropout is None else dropout,
            num_classes=num_classes,
        ),
    )
    spec = with_activation(spec, activation)
    return with_convolution(with_depth(with_input_stride(spec, input_stride), depth), convolution)
