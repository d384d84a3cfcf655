"""A network as resolved data: frozen dataclasses of plain integers and literals.

The factories of this package do the papers' arithmetic and yield a `NetworkSpec`. Everything else
interprets it: `mnet_jax.models` builds the network, `mnet_jax.analysis.cost` counts it, an ablation
axis maps it to another one, a checkpoint stores it as JSON.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mnet_jax import serialization
from mnet_jax.architectures.dialects import Dialect, Padding
from mnet_jax.validation import require, require_choice

Activation = Literal["linear", "relu", "relu6"]
Shortcut = Literal["bottleneck", "expansion", "none"]


def _require_layer(layer: "ConvNorm | Separable | InvertedResidual") -> None:
    """Checks what every kind of block has in common."""
    for name in ("inputs", "outputs"):
        require(getattr(layer, name) >= 1, name, getattr(layer, name), "1 channel or more")
    require(layer.kernel >= 1 and layer.kernel % 2 == 1, "kernel", layer.kernel, "odd sizes")
    require(layer.stride in (1, 2), "stride", layer.stride, "1, 2")
    require_choice("activation", layer.activation, Activation)


@dataclass(frozen=True, kw_only=True)
class ConvNorm:
    """A full convolution, batch normalization and an activation.

    Attributes:
      inputs: channels in.
      outputs: channels out.
      kernel: side of the square kernel; 1 is a pointwise convolution.
      stride: both of rows and of columns.
      activation: what follows the normalization.
    """

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    activation: Activation = "relu6"

    def __post_init__(self) -> None:
        _require_layer(self)


@dataclass(frozen=True, kw_only=True)
class Separable:
    """V1's depthwise separable convolution (arXiv 1704.04861, Fig. 3).

    A depthwise convolution, normalization and activation; a pointwise one, normalization and
    activation. The stride is the depthwise convolution's.
    """

    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    activation: Activation = "relu6"

    def __post_init__(self) -> None:
        _require_layer(self)


@dataclass(frozen=True, kw_only=True)
class InvertedResidual:
    """V2's block (arXiv 1801.04381, Table 1): expand, filter depthwise, project to a bottleneck.

    Attributes:
      inputs: channels of the bottleneck in.
      expanded: channels between; equal to `inputs` leaves the expansion layer out, as in V2's
        first block.
      outputs: channels of the bottleneck out.
      kernel: side of the depthwise kernel.
      stride: the depthwise convolution's.
      activation: what follows the expansion and the depthwise convolution.
      bottleneck: what follows the projection; `linear` in the paper.
      shortcut: where an identity connection runs. `bottleneck`: from the block's input to its
        output. `expansion`: from this block's expanded tensor around the projection to the next
        block's expanded tensor. Both need stride 1 and `inputs` equal to `outputs`.
    """

    inputs: int
    expanded: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    activation: Activation = "relu6"
    bottleneck: Activation = "linear"
    shortcut: Shortcut = "none"

    def __post_init__(self) -> None:
        _require_layer(self)
        require(self.expanded >= 1, "expanded", self.expanded, "1 channel or more")
        require_choice("bottleneck", self.bottleneck, Activation)
        require_choice("shortcut", self.shortcut, Shortcut)
        require(
            self.shortcut == "none" or self.keeps_shape,
            "shortcut",
            self.shortcut,
            "none where the stride is 2 or the channels change",
        )

    @property
    def expands(self) -> bool:
        """Whether there is an expansion layer."""
        return self.expanded != self.inputs

    @property
    def keeps_shape(self) -> bool:
        """Whether the output has the shape of the input, so that a shortcut can run."""
        return self.stride == 1 and self.inputs == self.outputs


Block = ConvNorm | Separable | InvertedResidual


@dataclass(frozen=True, kw_only=True)
class Head:
    """What turns the last feature map into logits: pool over space, drop out, classify.

    Attributes:
      conv: the pointwise layer before the pool (V2), or None (V1).
      dropout: rate on the pooled features, in training.
      num_classes: number of logits.
    """

    conv: ConvNorm | None
    dropout: float
    num_classes: int

    def __post_init__(self) -> None:
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 to below 1")
        whole = isinstance(self.num_classes, int) and self.num_classes >= 1
        require(whole, "num_classes", self.num_classes, "a whole number, 1 or more")


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A whole network, resolved.

    Attributes:
      name: the factory's, such as `mobilenet_v2`.
      width: the width multiplier that the channels were computed with.
      dialect: padding, normalization constants and initialization.
      stem: the first convolution.
      blocks: the body, in order.
      head: pooling and classifier.
    """

    name: str
    width: float
    dialect: Dialect
    stem: ConvNorm
    blocks: tuple[Block, ...]
    head: Head

    def __post_init__(self) -> None:
        require(len(self.blocks) >= 1, "blocks", self.blocks, "1 block or more")
        layers = [self.stem, *self.blocks, *([self.head.conv] if self.head.conv else [])]
        for i, (before, after) in enumerate(itertools.pairwise(layers)):
            require(
                after.inputs == before.outputs,
                f"inputs of layer {i + 1}",
                after.inputs,
                f"the {before.outputs} outputs of the layer before",
            )
        for block, following in zip(self.blocks, [*self.blocks[1:], None], strict=True):
            if isinstance(block, InvertedResidual) and block.shortcut == "expansion":
                fits = (
                    isinstance(following, InvertedResidual) and following.expanded == block.expanded
                )
                require(fits, "shortcut", "expansion", "a next block expanded as widely as this")

    @property
    def features(self) -> int:
        """Channels that the classifier sees."""
        return self.head.conv.outputs if self.head.conv else self.blocks[-1].outputs

    def to_json(self) -> str:
        """The spec as one line of JSON; `from_json` is the inverse."""
        return serialization.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "NetworkSpec":
        """The spec that `to_json` wrote; ValueError for anything else."""
        return serialization.from_json(cls, text)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution or matrix product of a network at one resolution.

    Attributes:
      name: path of the layer's parameters in the network, such as `block_3/depthwise`.
      kind: `conv` mixes channels under a window, `depthwise` filters each channel alone,
        `pointwise` mixes channels at one position, `dense` maps pooled features to logits.
      inputs: channels in.
      outputs: channels out.
      kernel: side of the window.
      stride: step of the window.
      input_size: (rows, columns) in.
      output_size: (rows, columns) out.
      normalized: followed by batch normalization; otherwise the layer has a bias.
    """

    name: str
    kind: Literal["conv", "depthwise", "pointwise", "dense"]
    inputs: int
    outputs: int
    kernel: int
    stride: int
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    normalized: bool


def pad_amounts(padding: Padding, kernel: int, stride: int, size: int) -> tuple[int, int]:
    """Rows (or columns) of zeros before and after an axis of `size`.

    `same`: TensorFlow's SAME, ceil(size / stride) outputs, the odd zero at the end. `symmetric`:
    kernel // 2 on both sides, as in PyTorch. `end`: all of it at the end where the stride is 2,
    as Keras pads MobileNet V1; as `same` otherwise.
    """
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    if padding == "end" and stride > 1:
        return 0, kernel // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _layer(
    name: str,
    kind: Literal["conv", "depthwise"],
    channels: tuple[int, int],
    window: tuple[int, int],
    padding: Padding,
    size: tuple[int, int],
) -> Layer:
    kernel, stride = window
    rows, columns = (
        (n + sum(pad_amounts(padding, kernel, stride, n)) - kernel) // stride + 1 for n in size
    )
    require(min(rows, columns) >= 1, "resolution", size, f"large enough for {name} to have output")
    return Layer(
        name=name,
        kind="pointwise" if kind == "conv" and kernel == 1 else kind,
        inputs=channels[0],
        outputs=channels[1],
        kernel=kernel,
        stride=stride,
        input_size=size,
        output_size=(rows, columns),
        normalized=True,
    )


def _block_layers(
    name: str, block: Block, dialect: Dialect, size: tuple[int, int]
) -> Iterator[Layer]:
    window = (block.kernel, block.stride)
    if isinstance(block, ConvNorm):
        yield _layer(name, "conv", (block.inputs, block.outputs), window, dialect.padding, size)
        return
    wide = block.inputs if isinstance(block, Separable) else block.expanded
    if wide != block.inputs:
        yield _layer(f"{name}/expand", "conv", (block.inputs, wide), (1, 1), "same", size)
    depthwise = _layer(
        f"{name}/depthwise", "depthwise", (wide, wide), window, dialect.depthwise_padding, size
    )
    yield depthwise
    last = "pointwise" if isinstance(block, Separable) else "project"
    yield _layer(
        f"{name}/{last}", "conv", (wide, block.outputs), (1, 1), "same", depthwise.output_size
    )


def walk(spec: NetworkSpec, resolution: int | tuple[int, int]) -> Iterator[Layer]:
    """Every layer with weights, in order, with its shapes at a resolution in pixels.

    Args:
      spec: the network.
      resolution: side of a square image, or (rows, columns).

    Raises:
      ValueError: the image is too small for some layer to have an output.
    """
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    require(min(size) >= 1, "resolution", resolution, "1 pixel or more")
    named = [("stem", spec.stem), *((f"block_{i}", b) for i, b in enumerate(spec.blocks))]
    if spec.head.conv:
        named.append(("head/conv", spec.head.conv))
    for name, block in named:
        for layer in _block_layers(name, block, spec.dialect, size):
            yield layer
            size = layer.output_size
    yield Layer(
        name="head/classifier",
        kind="dense",
        inputs=spec.features,
        outputs=spec.head.num_classes,
        kernel=1,
        stride=1,
        input_size=(1, 1),
        output_size=(1, 1),
        normalized=False,
    )
