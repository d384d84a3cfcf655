"""Networks for semantic segmentation as data: a backbone of the family and a head.

`lraspp` and `deeplabv3` return the spec of a network with any backbone; `walk` yields its layers.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mnet_jax import serialization
from mnet_jax.architectures import shapes
from mnet_jax.architectures.dense_tasks import OutputStride, with_output_stride
from mnet_jax.architectures.dialects import Dialect, SegmentationRules, segmentation_rules_of
from mnet_jax.architectures.shapes import Layer, Size, Window, convolution, dense
from mnet_jax.architectures.spec import NetworkSpec
from mnet_jax.validation import is_number, is_whole, make_fields_plain, plain, require

LOW_LEVEL_STRIDE = 8  # of the finer feature map of LR-ASPP (V3 paper, Fig. 10)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """An average pool without padding.

    Attributes:
      window: side of the window; on a smaller map, the window covers the map.
      strides: steps of the window in rows and in columns.
    """

    window: int
    strides: tuple[int, int]

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(is_whole(self.window) and self.window >= 1, "window", self.window, "1 or more")
        pair = len(self.strides) == 2 and all(is_whole(s) and s >= 1 for s in self.strides)
        require(pair, "strides", self.strides, "two steps of 1 or more")

    def windows(self, size: Size) -> Size:
        """Returns the rows and columns of the window on a map of `size`."""
        return min(self.window, size[0]), min(self.window, size[1])

    def output_size(self, size: Size) -> Size:
        """Returns the rows and columns of the output for a map of `size`."""
        rows, columns = (
            (n - window) // stride + 1
            for n, window, stride in zip(size, self.windows(size), self.strides, strict=True)
        )
        return rows, columns


PAPER_POOL = Pool(window=49, strides=(16, 20))  # V3 paper, Fig. 10


@dataclass(frozen=True, kw_only=True)
class LRASPP:
    """The head of the V3 paper: Lite Reduced Atrous Spatial Pyramid Pooling (Fig. 10).

    A pointwise layer with normalization and ReLU reduces the coarsest map of the backbone. A gate,
    computed from the pooled map, scales its channels. The result is resized to the size of a finer
    map, and the scores of both maps are added.

    Attributes:
      channels: output channels of the pointwise layer and of the gate.
      low_block: index of the backbone's block whose output is the finer map.
      pool: pool before the gate; None for the mean over the whole map, as in torchvision.
    """

    channels: int
    low_block: int
    pool: Pool | None = None

    def __post_init__(self) -> None:
        make_fields_plain(self)
        _require_channels(self.channels)
        index = is_whole(self.low_block) and self.low_block >= 0
        require(index, "low_block", self.low_block, "0 or more")


@dataclass(frozen=True, kw_only=True)
class DeepLabV3:
    """The head of DeepLabV3: atrous spatial pyramid pooling (arXiv 1706.05587, section 3.3).

    The coarsest map of the backbone passes through parallel layers: a pointwise one, dilated 3x3
    convolutions, and a dense one on the mean over space. A pointwise layer mixes their
    concatenation. All layers have normalization and ReLU. Without dilated convolutions the head is
    called R-ASPP (arXiv 1801.04381, section 6.3).

    Attributes:
      channels: output channels of every layer but the classifier.
      rates: dilation of the 3x3 convolutions.
      refines: whether a 3x3 convolution precedes the classifier, as in torchvision.
      dropout: dropout rate after the mixing layer, in training.
    """

    channels: int
    rates: tuple[int, ...]
    refines: bool
    dropout: float

    def __post_init__(self) -> None:
        make_fields_plain(self)
        _require_channels(self.channels)
        whole = all(is_whole(rate) and rate >= 1 for rate in self.rates)
        require(whole, "rates", self.rates, "whole numbers, 1 or more")
        require(isinstance(self.refines, bool), "refines", self.refines, "True, False")
        rate = is_number(self.dropout) and 0 <= self.dropout < 1
        require(rate, "dropout", self.dropout, "0 to below 1")


def _require_channels(channels: int) -> None:
    require(is_whole(channels) and channels >= 1, "channels", channels, "1 or more")


SegmentationHead = LRASPP | DeepLabV3


@dataclass(frozen=True, kw_only=True)
class SegmentationSpec:
    """A complete network for semantic segmentation.

    Attributes:
      backbone: the network whose feature maps the head reads, without hidden layer and classifier.
      dialect: padding, normalization constants and initialization of the head's layers.
      head: the head.
      num_classes: number of scores of each pixel.
    """

    backbone: NetworkSpec
    dialect: Dialect
    head: SegmentationHead
    num_classes: int

    def __post_init__(self) -> None:
        make_fields_plain(self)
        bare = not (self.backbone.head.hidden or self.backbone.head.num_classes)
        require(bare, "backbone", self.backbone.name, "a network without classifier")
        classes = is_whole(self.num_classes) and self.num_classes >= 1
        require(classes, "num_classes", self.num_classes, "1 or more")
        if isinstance(self.head, LRASPP):
            index, blocks = self.head.low_block, len(self.backbone.blocks)
            require(index < blocks, "low_block", index, f"0 to {blocks - 1}, the backbone's blocks")

    def to_json(self) -> str:
        """Returns the spec as one line of JSON; `from_json` is the inverse."""
        return serialization.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "SegmentationSpec":
        """Returns the spec that `to_json` wrote; raises ValueError for any other text."""
        return serialization.from_json(cls, text)


def lraspp(
    network: NetworkSpec,
    *,
    num_classes: int = 21,
    channels: int = 128,
    pool: Pool | None = None,
    output_stride: OutputStride = 16,
) -> SegmentationSpec:
    """Returns a network with the head of the V3 paper (arXiv 1905.02244, section 6.4).

    `dense_tasks.with_reduced_tail` makes the backbone of the paper's fastest networks from another.
    The dialect of `network` decides how the backbone is dilated, which block's output is the finer
    map, and how the head is normalized. V3-Large of dialect `torchvision` gives torchvision's
    `lraspp_mobilenet_v3_large`.

    Args:
      network: the network for classification whose layers up to the pool become the backbone.
      num_classes: number of scores of each pixel; 21 in Pascal VOC with its background.
      channels: output channels of the head's layers (F in Table 7).
      pool: pool before the gate; `PAPER_POOL` is the paper's, None the mean over the whole map.
      output_stride: stride of the backbone's coarsest map: 8, 16 or 32.

    Raises:
      ValueError: an argument is not legal, or the backbone has no map of stride 8.
    """
    rules = segmentation_rules_of(network.dialect.name)
    head = LRASPP(channels=channels, low_block=_low_block(network, rules.low_level), pool=pool)
    return _segmentation(network, head, num_classes, output_stride, rules)


def deeplabv3(
    network: NetworkSpec,
    *,
    num_classes: int = 21,
    channels: int = 256,
    rates: tuple[int, ...] = (12, 24, 36),
    refines: bool = True,
    dropout: float = 0.5,
    output_stride: OutputStride = 16,
) -> SegmentationSpec:
    """Returns a network with the head of DeepLabV3 (arXiv 1706.05587).

    The defaults are torchvision's: V3-Large of dialect `torchvision` gives torchvision's
    `deeplabv3_mobilenet_v3_large` without its auxiliary head, which only training uses.

    Args:
      network: the network for classification whose layers up to the pool become the backbone.
      num_classes: number of scores of each pixel; 21 in Pascal VOC with its background.
      channels: output channels of the head's layers.
      rates: dilation of the 3x3 convolutions. The paper has (6, 12, 18) at output stride 16.
      refines: whether a 3x3 convolution precedes the classifier; not in the paper.
      dropout: dropout rate before the 3x3 convolution or the classifier; not in the paper.
      output_stride: stride of the backbone's coarsest map: 8, 16 or 32.

    Raises:
      ValueError: an argument is not legal.
    """
    rules = segmentation_rules_of(network.dialect.name)
    own = tuple(plain(rate) for rate in rates)
    head = DeepLabV3(channels=channels, rates=own, refines=refines, dropout=dropout)
    return _segmentation(network, head, num_classes, output_stride, rules)


def _segmentation(
    network: NetworkSpec,
    head: SegmentationHead,
    num_classes: int,
    output_stride: OutputStride,
    rules: SegmentationRules,
) -> SegmentationSpec:
    """Returns the network with a head, by the conventions of the backbone's dialect."""
    bare = dataclasses.replace(network.head, hidden=None, dropout=0.0, num_classes=0)
    backbone = dataclasses.replace(network, head=bare)
    dialect = network.dialect
    if rules.norm_epsilon is not None:
        dialect = dataclasses.replace(dialect, norm_epsilon=rules.norm_epsilon)
    if rules.norm_momentum is not None:
        dialect = dataclasses.replace(dialect, norm_momentum=rules.norm_momentum)
    strided = rules.dilates_strided
    return SegmentationSpec(
        backbone=with_output_stride(backbone, output_stride, dilates_strided=strided),
        dialect=dialect,
        head=head,
        num_classes=num_classes,
    )


def _low_block(network: NetworkSpec, which: Literal["first", "last"]) -> int:
    """Returns the index of the first or last block whose output has the stride of the finer map."""
    stride, found = network.stem.stride, []
    for i, block in enumerate(network.blocks):
        stride *= block.stride
        if stride == LOW_LEVEL_STRIDE:
            found.append(i)
    if not found:
        raise ValueError(f"network: {network.name} has no feature map of stride {LOW_LEVEL_STRIDE}")
    return found[0 if which == "first" else -1]


def walk(spec: SegmentationSpec, resolution: int | tuple[int, int]) -> Iterator[Layer]:
    """Yields every layer that has weights, from input to output, with its shapes at a resolution.

    The names of the backbone's layers are those of `architectures.walk`, after `backbone/`.

    Args:
      spec: the network.
      resolution: side of a square image, or (rows, columns), in pixels.

    Raises:
      ValueError: the image is so small that a layer would have an empty output.
    """
    sizes: dict[str, Size] = {}  # of the output of each part
    for layer in shapes.walk(spec.backbone, resolution):
        yield dataclasses.replace(layer, part=f"backbone/{layer.part}")
        if layer.kind != "dense":
            sizes[layer.part] = size = layer.output_size
    if isinstance(spec.head, LRASPP):
        low = sizes[f"block_{spec.head.low_block}"]
        yield from _lraspp_layers(spec, spec.head, low, size)
    else:
        yield from _deeplabv3_layers(spec, spec.head, size)


def _lraspp_layers(spec: SegmentationSpec, head: LRASPP, low: Size, high: Size) -> Iterator[Layer]:
    inputs, channels = spec.backbone.pooled, head.channels
    yield convolution("head/project", None, "pointwise", (inputs, channels), "relu", high)
    pooled = head.pool.output_size(high) if head.pool else (1, 1)
    yield convolution(
        "head/gate", None, "pointwise", (inputs, channels), "sigmoid", pooled,
        normalized=False,
    )  # fmt: skip
    fine = spec.backbone.blocks[head.low_block].outputs
    yield _classifier("head/low_classifier", fine, spec.num_classes, low)
    yield _classifier("head/classifier", channels, spec.num_classes, low)


def _deeplabv3_layers(spec: SegmentationSpec, head: DeepLabV3, size: Size) -> Iterator[Layer]:
    inputs, channels, padding = spec.backbone.pooled, head.channels, spec.dialect.padding
    pair = (inputs, channels)
    yield convolution("head/pointwise", None, "pointwise", pair, "relu", size)
    for i, rate in enumerate(head.rates):
        window = Window(3, 1, rate, padding)
        yield convolution(f"head/atrous_{i}", None, "conv", pair, "relu", size, window)
    yield dense("head/pooled", None, pair, "relu", normalized=True)
    pair = ((2 + len(head.rates)) * channels, channels)
    yield convolution("head/project", None, "pointwise", pair, "relu", size)
    if head.refines:
        window, pair = Window(3, 1, 1, padding), (channels, channels)
        yield convolution("head/refine", None, "conv", pair, "relu", size, window)
    yield _classifier("head/classifier", channels, spec.num_classes, size)


def _classifier(part: str, inputs: int, num_classes: int, size: Size) -> Layer:
    pair = (inputs, num_classes)
    return convolution(part, None, "pointwise", pair, "linear", size, normalized=False, biased=True)


def variable_shapes(spec: SegmentationSpec) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter and running statistic, as for other networks."""
    layers = walk(spec, shapes.REFERENCE_RESOLUTION)
    return {path: shape for layer in layers for path, shape in layer.variable_shapes.items()}
