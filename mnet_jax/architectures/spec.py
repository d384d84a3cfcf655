"""A network architecture as data: frozen dataclasses of plain numbers and literals.

The factories of this package resolve the papers' tables and options into a `NetworkSpec`. All other
code reads the spec: `mnet_jax.models` builds the network, `mnet_jax.analysis.cost` counts its
operations, ablation axes transform it, and checkpoints store it as JSON.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Literal

from mnet_jax import serialization
from mnet_jax.architectures.dialects import Dialect
from mnet_jax.validation import is_number, is_whole, make_fields_plain, require, require_choice

Activation = Literal["linear", "relu", "relu6", "hard_swish", "gelu"]
# Of squeeze-and-excitation (arXiv 1905.02244, section 5.2), and of LR-ASPP (Fig. 10).
Gate = Literal["hard_sigmoid", "sigmoid"]
Shortcut = Literal["bottleneck", "expansion", "none"]
Kind = Literal["conv", "depthwise", "pointwise", "dense", "norm", "attention"]
AttentionKind = Literal["mqa", "mha"]


def _require_block(block: "Block") -> None:
    """Checks the fields that several kinds of block have; converts NumPy numbers to Python's."""
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
    """A full convolution, then batch normalization and an activation.

    Attributes:
      inputs: input channels.
      outputs: output channels.
      kernel: side of the square kernel; 1 is a pointwise convolution.
      stride: step in rows and in columns.
      dilation: distance between neighbouring taps.
      activation: activation after the normalization.
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

    A depthwise and then a pointwise convolution, each followed by batch normalization and the
    activation. The stride and the dilation apply to the depthwise convolution.
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
    """V4's fused block (arXiv 2404.10518, section 3): expand by a full convolution, then project.

    Attributes:
      inputs: input channels.
      expanded: output channels of the full convolution.
      outputs: output channels of the block.
      kernel: kernel side of the full convolution.
      stride: stride of the full convolution.
      dilation: dilation of the full convolution.
      activation: activation after the expansion.
      bottleneck: activation after the projection.
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

    V2's block (arXiv 1801.04381, Table 1) does just this. V3's (arXiv 1905.02244, Fig. 4) applies
    squeeze-and-excitation after the depthwise convolution. V4's universal inverted bottleneck
    (arXiv 2404.10518, Fig. 4) can have a depthwise convolution before the expansion, after it, at
    both places or at neither.

    Attributes:
      inputs: input channels.
      expanded: channels between expansion and projection; if equal to `inputs`, there is no
        expansion layer, as in V2's first block.
      outputs: output channels.
      kernel: side of the depthwise kernel after the expansion; 0 for none.
      start_kernel: side of the linear depthwise kernel before the expansion; 0 for none.
      stride: stride of the depthwise convolution after the expansion or, if `kernel` is 0, of the
        convolution before the expansion.
      dilation: dilation of the depthwise convolutions.
      activation: activation after the expansion, and after the depthwise convolution that follows
        the expansion.
      squeeze: channels between the two dense layers of squeeze-and-excitation; 0 for none.
      bottleneck: activation after the projection; `linear` in the papers.
      shortcut: the ends of the identity shortcut. `bottleneck`: from the block's input to its
        output. `expansion`: from this block's expanded tensor to the next block's expanded tensor.
        Both need stride 1 and `inputs` equal to `outputs`.
      layer_scale: whether the projection is multiplied by a learned scale per channel, which starts
        at 1e-5 (V4's hybrids; arXiv 2103.17239, section 2.1). The projection must be linear.
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
    layer_scale: bool = serialization.added(False)

    def __post_init__(self) -> None:
        _require_block(self)
        require(isinstance(self.layer_scale, bool), "layer_scale", self.layer_scale, "True, False")
        if self.layer_scale:  # else `fuse` could not multiply it into the projection
            legal = "linear with a layer scale"
            require(self.bottleneck == "linear", "bottleneck", self.bottleneck, legal)
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
        """Whether the block has an expansion layer."""
        return self.expanded != self.inputs

    @property
    def start_stride(self) -> int:
        """Stride of the depthwise convolution before the expansion."""
        return 1 if self.kernel else self.stride

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have the same shape, which a shortcut needs."""
        return self.stride == 1 and self.inputs == self.outputs


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The attention block of V4's hybrids (arXiv 2404.10518, section 4): it keeps the map's shape.

    The block normalizes its input, then projects each position to a query for each head, and to
    keys and values. A head's output is softmax(q k^T / sqrt(d)) v, for queries q, keys k and values
    v of d channels. A projection of all heads' outputs is added to the block's input. The
    projections have no biases.

    Attributes:
      inputs: input channels; the output has as many.
      heads: number of heads.
      head_channels: channels d of a head's query, key and value.
      kind: `mqa` (multi-query attention, arXiv 1911.02150): all heads share one key and one value.
        `mha` (multi-head attention, arXiv 1706.03762): each head has its own.
      downsampling: stride, 1 or 2, of the keys and values. With 2, a depthwise convolution and a
        normalization precede the projection to keys, and others the projection to values.
      kernel: side of the kernels of these depthwise convolutions.
      shortcut: `bottleneck` adds the block's input to its output.
      layer_scale: as in `InvertedResidual`.
    """

    inputs: int
    heads: int
    head_channels: int
    kind: AttentionKind = "mqa"
    downsampling: int = 1
    kernel: int = 3
    shortcut: Literal["bottleneck", "none"] = "bottleneck"
    layer_scale: bool = False

    def __post_init__(self) -> None:
        make_fields_plain(self)
        for name in ("inputs", "heads", "head_channels"):
            value = getattr(self, name)
            require(is_whole(value) and value >= 1, name, value, "a whole number, 1 or more")
        require_choice("kind", self.kind, AttentionKind)
        require(self.downsampling in (1, 2), "downsampling", self.downsampling, "1, 2")
        odd = self.kernel >= 1 and self.kernel % 2 == 1
        require(odd, "kernel", self.kernel, "odd sizes")
        require(self.shortcut in ("bottleneck", "none"), "shortcut", self.shortcut,
                "bottleneck, none in an attention block")  # fmt: skip
        require(isinstance(self.layer_scale, bool), "layer_scale", self.layer_scale, "True, False")

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.inputs

    @property
    def stride(self) -> int:
        """Step of the output's positions; the property is that of other blocks."""
        return 1

    @property
    def dilation(self) -> int:
        """Distance between neighbouring taps; the property is that of other blocks."""
        return 1

    @property
    def channels(self) -> int:
        """Channels of the queries, and of the outputs, of all heads."""
        return self.heads * self.head_channels

    @property
    def key_heads(self) -> int:
        """Number of different keys, and of values, at a position."""
        return 1 if self.kind == "mqa" else self.heads


Block = ConvNorm | Separable | FusedInvertedResidual | InvertedResidual | Attention


def is_residual(block: Block) -> bool:
    """Returns whether a block adds its input to its output, so that training can skip the rest."""
    return isinstance(block, InvertedResidual | Attention) and block.shortcut == "bottleneck"


def can_span(block: InvertedResidual, following: Block | None) -> bool:
    """Returns whether the expanded tensors of two successive blocks have the same shape.

    An `expansion` shortcut needs this, because it adds one tensor to the other.
    """
    return (
        isinstance(following, InvertedResidual)
        and following.expanded == block.expanded
        and (following.start_kernel == 0 or following.start_stride == 1)
    )


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """A dense layer between the pool and the classifier.

    Attributes:
      channels: output channels.
      activation: activation after the normalization or bias.
      normalized: whether batch normalization follows (V4); otherwise the layer has a bias (V3).
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
    """The layers from the last block to the logits: spatial pooling, dropout and classifier.

    Without a classifier the network returns the features that the classifier would take.

    Attributes:
      conv: the pointwise layer before the pool, or None (V1).
      hidden: the dense layer after the pool (V3's efficient last stage, V4), or None.
      dropout: dropout rate before the classifier, in training.
      num_classes: number of logits; 0 for no classifier.
    """

    conv: ConvNorm | None
    hidden: Hidden | None = None
    dropout: float
    num_classes: int

    def __post_init__(self) -> None:
        make_fields_plain(self)
        rate = is_number(self.dropout) and 0 <= self.dropout < 1
        require(rate, "dropout", self.dropout, "0 to below 1")
        whole = is_whole(self.num_classes) and self.num_classes >= 0
        require(
            whole, "num_classes", self.num_classes, "a whole number, 1 or more, or 0 for features"
        )


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A complete network architecture.

    Attributes:
      name: name of the network's factory, such as `mobilenet_v2`.
      width: the width multiplier that the channels were computed with.
      dialect: padding, normalization constants and initialization.
      stem: the first convolution.
      blocks: the blocks between stem and head, in order.
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
                legal = "a next block with as many expanded channels, at the same resolution"
                require(can_span(block, following), "shortcut", "expansion", legal)

    @property
    def features(self) -> int:
        """Number of features that the classifier takes."""
        return self.head.hidden.channels if self.head.hidden else self.pooled

    @property
    def outputs(self) -> int:
        """Number of values that the network returns for an image: logits, or else features."""
        return self.head.num_classes or self.features

    @property
    def pooled(self) -> int:
        """Channels of the last feature map, which the head pools."""
        return self.head.conv.outputs if self.head.conv else self.blocks[-1].outputs

    def with_inputs(self, in_channels: int) -> "NetworkSpec":
        """Returns the network for images of `in_channels` channels."""
        return replace(self, stem=replace(self.stem, inputs=in_channels))

    def with_classes(self, num_classes: int) -> "NetworkSpec":
        """Returns the network with `num_classes` logits; 0 for features in place of logits."""
        return replace(self, head=replace(self.head, num_classes=num_classes))

    def to_json(self) -> str:
        """Returns the spec as one line of JSON; `from_json` is the inverse."""
        return serialization.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "NetworkSpec":
        """Returns the spec that `to_json` wrote; raises ValueError for any other text."""
        return serialization.from_json(cls, text)
