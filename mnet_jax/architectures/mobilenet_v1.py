"""MobileNet V1 (arXiv 1704.04861), Table 1."""

from mnet_jax.architectures.dialects import DialectName, dialect_of, round_channels, sizing_of
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
    (1024, 1),  # the table prints stride 2 here; its own output size needs 1
)


@with_plain_arguments
def mobilenet_v1(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    convolution: Convolution = "depthwise",
    depth: Depth = "full",
    activation: Rectifier = "relu6",
    dropout: float | None = None,
    dialect: DialectName = "paper",
    norm_momentum: float | None = None,
    input_stride: InputStride = 4,
) -> NetworkSpec:
    """MobileNet V1, resolved.

    Args:
      width: the width multiplier alpha (section 3.3).
      num_classes: number of logits.
      convolution: `full` is the control of Table 4.
      depth: `shallow` leaves out the five 14x14x512 layers (Table 5).
      activation: the paper says ReLU; every released implementation has ReLU6.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, rounding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's. The paper's needs tens of thousands of steps.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.

    Raises:
      ValueError: an option is not legal; one line with its name, its value and the legal ones.
    """
    require_choice("activation", activation, Rectifier)
    sizing = sizing_of(VERSION, dialect)

    def channels(count: int) -> int:
        return round_channels(count, width, sizing.rounding)

    blocks, inputs = [], channels(STEM)
    for row_channels, stride in ROWS:
        outputs = channels(row_channels)
        blocks.append(Separable(inputs=inputs, outputs=outputs, stride=stride))
        inputs = outputs
    spec = NetworkSpec(
        name="mobilenet_v1",
        width=float(width),
        dialect=dialect_of(VERSION, dialect, norm_momentum),
        stem=ConvNorm(inputs=3, outputs=channels(STEM), kernel=3, stride=2),
        blocks=tuple(blocks),
        head=Head(
            conv=None,
            dropout=sizing.dropout if dropout is None else dropout,
            num_classes=num_classes,
        ),
    )
    spec = with_activation(spec, activation)
    return with_convolution(with_depth(with_input_stride(spec, input_stride), depth), convolution)
