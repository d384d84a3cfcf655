"""A network as resolved data: frozen dataclasses of plain integers and literals.

The factories of this package do the papers' arithmetic and yield a `NetworkSpec`. Everything else
interprets it: `mnet_jax.models` builds the network, `mnet_jax.analysis.cost` counts it, an ablation
axis maps it to another one, a checkpoint stores it as JSON.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Literal

from mnet_jax import serialization
from mnet_jax.architectures.dialects import Dialect
from mnet_jax.validation import is_number, is_whole, make_fields_plain, require, require_choice

Activation = Literal["linear", "relu", "relu6", "hard_swish"]
Gate = Literal["hard_sigmoid"]  # of squeeze-and-excitation (arXiv 1905.02244, section 5.2)
Shortcut = Literal["bottleneck", "expansion", "none"]
Kind = Literal["conv", "depthwise", "pointwise", "dense"]


def _require_block(block: "Block") -> None:
    """Checks what the kinds of block have in common, and makes their numbers Python's own."""
    make_fields_plain(block)
    for name in ("inputs", "expanded", "outputs"):
        if hasattr(block, name):
            require(getattr(block, name) >= 1, name, getattr(block, name), "1 channel or more")
    optional = isinstance(block, InvertedResidual)
    for name in ("kernel", "start_kernel") if optional else ("kernel",):
        size, legal = getattr(block, name), "odd sizes, or 0 for none" if optional else "odd sizes"
        require(size >= 0 and (size % 2 == 1 or (optional and size == 0)), name, size, legal)
    require(block.stride in (1, 2), "stride", block.stride, "1, 2")
    require(block.dilation >= 1, "dilation", block.dilation, "1 or more")
    if block.stride > 1:
        require(block.dilation == 1, "dilation", block.dilation, "1 where the stride is 2")
    for name in ("activation", "bottleneck"):
        if hasattr(block, name):
            require_choice(name, getattr(block, name), Activation)


@dataclass(frozen=True, kw_only=True)
class ConvNorm:
    """A full convolution, batch normalization and an activation.

    Attributes:
      inputs: channels in.
      outputs: channels out.
      kernel: side of the square kernel; 1 is a pointwise convolution.
      stride: both of rows and of columns.
      dilation: distance of neighbouring taps.
      activation: what follows the normalization.
    """

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu6"

    def __post_init__(self) -> None:
        _require_block(self)


@dataclass(frozen=True, kw_only=True)
class Separable:
    """V1's depthwise separable convolution (arXiv 1704.04861, Fig. 3).

    A depthwise convolution, normalization and activation; a pointwise one, normalization and
    activation. The stride and the dilation are the depthwise convolution's.
    """

    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu6"

    def __post_init__(self) -> None:
        _require_block(self)


@dataclass(frozen=True, kw_only=True)
class FusedInvertedResidual:
    """V4's fused block (arXiv 2404.10518, section 3): a full convolution expands, then project.

    Attributes:
      inputs: channels in.
      expanded: channels of the full convolution.
      outputs: channels out.
      kernel: side of the full convolution.
      stride: the full convolution's.
      dilation: the full convolution's.
      activation: what follows the expansion.
      bottleneck: what follows the projection.
    """

    inputs: int
    expanded: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu"
    bottleneck: Activation = "linear"

    def __post_init__(self) -> None:
        _require_block(self)


@dataclass(frozen=True, kw_only=True)
class InvertedResidual:
    """The block of V2, V3 and V4: expand, filter depthwise, project to a bottleneck.

    V2's (arXiv 1801.04381, Table 1) is the plain one. V3's (arXiv 1905.02244, Fig. 4) weighs the
    filtered channels by squeeze-and-excitation. V4's universal one (arXiv 2404.10518, Fig. 4) may
    filter before the expansion too, and may leave either filter out.

    Attributes:
      inputs: channels of the bottleneck in.
      expanded: channels between; equal to `inputs` leaves the expansion layer out, as in V2's
        first block.
      outputs: channels of the bottleneck out.
      kernel: side of the depthwise kernel behind the expansion; 0 for none.
      start_kernel: side of a linear depthwise convolution before the expansion; 0 for none.
      stride: of the depthwise convolution behind the expansion, or else of that before it.
      dilation: of the depthwise convolutions.
      activation: what follows the expansion and the depthwise convolution behind it.
      squeeze: channels between the two dense layers of the squeeze-and-excitation; 0 for none.
      bottleneck: what follows the projection; `linear` in the papers.
      shortcut: where an identity connection runs. `bottleneck`: from the block's input to its
        output. `expansion`: from this block's expanded tensor around the projection to the next
        block's expanded tensor. Both need stride 1 and `inputs` equal to `outputs`.
    """

    inputs: int
    expanded: int
    outputs: int
    kernel: int = 3
    start_kernel: int = 0
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu6"
    squeeze: int = 0
    bottleneck: Activation = "linear"
    shortcut: Shortcut = "none"

    def __post_init__(self) -> None:
        _require_block(self)
        require(self.squeeze >= 0, "squeeze", self.squeeze, "1 channel or more, or 0 for none")
        filtered = bool(self.kernel or self.start_kernel)
        require(self.stride == 1 or filtered, "stride", self.stride, "1 without a depthwise kernel")
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
    def start_stride(self) -> int:
        """The stride of the depthwise convolution before the expansion."""
        return 1 if self.kernel else self.stride

    @property
    def keeps_shape(self) -> bool:
        """Whether the output has the shape of the input, so that a shortcut can run."""
        return self.stride == 1 and self.inputs == self.outputs


Block = ConvNorm | Separable | FusedInvertedResidual | InvertedResidual


def can_span(block: InvertedResidual, following: Block | None) -> bool:
    """Whether this block's expanded tensor has the shape of the next one's, to be added to it."""
    return (
        isinstance(following, InvertedResidual)
        and following.expanded == block.expanded
        and (following.start_kernel == 0 or following.start_stride == 1)
    )


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """A dense layer between the pool and the classifier.

    Attributes:
      channels: its outputs.
      activation: what follows.
      normalized: by batch normalization (V4); otherwise it has a bias (V3).
    """

    channels: int
    activation: Activation
    normalized: bool

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(self.channels >= 1, "channels", self.channels, "1 or more")
        require_choice("activation", self.activation, Activation)


@dataclass(frozen=True, kw_only=True)
class Head:
    """What turns the last feature map into logits: pool over space, drop out, classify.

    Attributes:
      conv: the pointwise layer before the pool, or None (V1).
      hidden: the dense layer behind the pool (V3's efficient last stage, V4), or None.
      dropout: rate on what the classifier sees, in training.
      num_classes: number of logits.
    """

    conv: ConvNorm | None
    hidden: Hidden | None = None
    dropout: float
    num_classes: int

    def __post_init__(self) -> None:
        make_fields_plain(self)
        rate = is_number(self.dropout) and 0 <= self.dropout < 1
        require(rate, "dropout", self.dropout, "0 to below 1")
        whole = is_whole(self.num_classes) and self.num_classes >= 1
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
        make_fields_plain(self)
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
                legal = "a next block expanded as widely as this, and at this size"
                require(can_span(block, following), "shortcut", "expansion", legal)

    @property
    def features(self) -> int:
        """Channels that the classifier sees."""
        return self.head.hidden.channels if self.head.hidden else self.pooled

    @property
    def pooled(self) -> int:
        """Channels of the last feature map."""
        return self.head.conv.outputs if self.head.conv else self.blocks[-1].outputs

    def with_classes(self, num_classes: int) -> "NetworkSpec":
        """The network with another number of logits."""
        return replace(self, head=replace(self.head, num_classes=num_classes))

    def to_json(self) -> str:
        """The spec as one line of JSON; `from_json` is the inverse."""
        return serialization.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "NetworkSpec":
        """The spec that `to_json` wrote; ValueError for anything else."""
        return serialization.from_json(cls, text)
