"""The layers of a network and their shapes at a resolution, computed from the spec alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from mnet_jax.architectures.dialects import Dialect, Padding
from mnet_jax.architectures.spec import (
    Activation,
    Attention,
    Block,
    ConvNorm,
    Gate,
    InvertedResidual,
    Kind,
    NetworkSpec,
    Separable,
)
from mnet_jax.validation import require, with_plain_arguments

Size = tuple[int, int]  # rows, columns
Role = Literal[
    "start",
    "expand",
    "depthwise",
    "pointwise",
    "squeeze_excite/reduce",
    "squeeze_excite/expand",
    "project",
    "input",
    "query",
    "key/downsample",
    "key/project",
    "value/downsample",
    "value/project",
    "attend",
    "output",
    "conv",
    "hidden",
    "classifier",
]

WITHOUT_KERNEL: tuple[Kind, ...] = ("norm", "attention")


def kernel_shape(kind: Kind, kernel: int, inputs: int, outputs: int) -> tuple[int, ...]:
    """Returns the shape of a kernel.

    It is [kh, kw, in, out] for `conv`, [kh, kw, c] for `depthwise`, and [in, out] for `pointwise`
    and `dense`. The kinds `norm` and `attention` have no kernel.
    """
    assert kind not in WITHOUT_KERNEL, kind
    if kind == "conv":
        return (kernel, kernel, inputs, outputs)
    return (kernel, kernel, outputs) if kind == "depthwise" else (inputs, outputs)


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of an attention layer, and the positions at which they have keys and values.

    Attributes:
      queries: number of heads, each with a query at every position of the layer's input.
      keys: number of different keys, and of values, at a position: 1, or as many as heads.
      key_size: (rows, columns) of the map of keys, and of the map of values.
    """

    queries: int
    keys: int
    key_size: Size


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or matrix product at one resolution, with its normalization and activation.

    Two kinds of layer have no kernel: `norm`, a normalization without a convolution before it, and
    `attention`, the two products of queries with keys and of the resulting weights with values.

    Attributes:
      part: part of the network: `stem`, `block_0`, `block_1` ..., `head`; in a network for
        segmentation `backbone/stem` ..., `head/project` and others.
      role: function of the layer in its part, such as `expand`; None if the part is a single
        convolution.
      kind: `conv` mixes channels in a window, `depthwise` filters each channel separately,
        `pointwise` mixes channels at one position, `dense` maps pooled features. `norm` and
        `attention` are explained above.
      inputs: input channels; of `attention` those of all heads' queries.
      outputs: output channels.
      kernel: side of the window.
      stride: step of the window.
      dilation: distance between neighbouring taps.
      input_size: (rows, columns) of the input.
      output_size: (rows, columns) of the output.
      pads: numbers of zeros around the input: ((top, bottom), (left, right)).
      normalized: whether batch normalization follows.
      activation: function applied after the normalization or bias. It is a `Gate` only where the
        output scales the channels of a feature map.
      biased: whether the layer has a bias of its own; that of a normalization does not count.
      scaled: whether a learned scale per channel (`InvertedResidual.layer_scale`) follows.
      heads: the heads of `attention`; None for other kinds.
    """

    part: str
    role: Role | None
    kind: Kind
    inputs: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    input_size: Size
    output_size: Size
    pads: tuple[tuple[int, int], tuple[int, int]]
    normalized: bool
    activation: Activation | Gate
    biased: bool = False
    scaled: bool = False
    heads: Heads | None = None

    @property
    def name(self) -> str:
        """Path of the layer's parameters in the network, such as `block_3/depthwise`."""
        return self.part if self.role is None else f"{self.part}/{self.role}"

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the kernel; see the function `kernel_shape`."""
        return kernel_shape(self.kind, self.kernel, self.inputs, self.outputs)

    @property
    def kernel_path(self) -> str:
        """Path of the kernel in the network's parameters, such as `stem/conv/kernel`."""
        assert self.has_kernel, self.name
        return f"{self.name}/conv/kernel" if self.normalized else f"{self.name}/kernel"

    @property
    def has_kernel(self) -> bool:
        """Whether the layer is a convolution or a product with a matrix of parameters."""
        return self.kind not in WITHOUT_KERNEL

    @property
    def bias_path(self) -> str | None:
        """Path of the bias: the layer's own or its normalization's; None if it has neither."""
        if self.normalized:
            return f"{self.name}/norm/bias"
        return f"{self.name}/bias" if self.biased else None

    @property
    def scale_path(self) -> str:
        """Path of the normalization's scale."""
        assert self.normalized, self.name
        return f"{self.name}/norm/scale"

    @property
    def layer_scale_path(self) -> str:
        """Path of the learned scale per channel that follows a `scaled` layer."""
        assert self.scaled, self.name
        return f"{self.part}/layer_scale"

    @property
    def variable_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the layer's variables, by paths such as `params/stem/conv/kernel`.

        The order is: kernel, then bias; or kernel, then the normalization's scale, bias, mean and
        variance; last the learned scale that follows. A layer has only those that it needs.
        """
        name, channels = self.name, (self.outputs,)
        shapes = {f"params/{self.kernel_path}": self.kernel_shape} if self.has_kernel else {}
        if self.normalized:
            shapes |= {f"params/{name}/norm/{variable}": channels for variable in ("scale", "bias")}
            shapes |= {f"batch_stats/{name}/norm/{v}": channels for v in ("mean", "var")}
        elif self.bias_path:
            shapes |= {f"params/{self.bias_path}": channels}
        return shapes | ({f"params/{self.layer_scale_path}": channels} if self.scaled else {})


def pad_amounts(
    padding: Padding, kernel: int, stride: int, size: int, dilation: int = 1
) -> tuple[int, int]:
    """Returns the numbers of zeros to put before and after an axis of length `size`.

    Args:
      padding: `same` is TensorFlow's SAME: ceil(size / stride) outputs; if the number of zeros is
        odd, the end gets one more. `symmetric` puts kernel // 2 zeros on both sides, as is usual in
        PyTorch. `end` is Keras' padding of MobileNet V1: at stride 2 kernel // 2 zeros, all at the
        end; at stride 1 `same`.
      kernel: side of the window. For a dilated window, the rules of `padding` hold with
        dilation * (kernel - 1) + 1 instead of `kernel`.
      stride: step of the window.
      size: length of the axis.
      dilation: distance between neighbouring taps.
    """
    reach = dilation * (kernel - 1) + 1
    if padding == "symmetric":
        return reach // 2, reach // 2
    if padding == "end" and stride > 1:
        return 0, reach // 2
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


class Window(NamedTuple):
    """The window of a convolution: side, step, distance between neighbouring taps, and padding."""

    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    padding: Padding = "same"

    def pads(self, size: Size) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the numbers of zeros around a feature map: ((top, bottom), (left, right))."""
        rows, columns = (
            pad_amounts(self.padding, self.kernel, self.stride, n, self.dilation) for n in size
        )
        return rows, columns

    def output_size(self, size: Size) -> Size:
        """Returns (rows, columns) of the output; a number below 1 if the window does not fit."""
        reach = self.dilation * (self.kernel - 1) + 1
        rows, columns = (
            (n + sum(pads) - reach) // self.stride + 1
            for n, pads in zip(size, self.pads(size), strict=True)
        )
        return rows, columns


POINT = Window()
REFERENCE_RESOLUTION = 1024  # large enough for every network; weights do not depend on it


def convolution(
    part: str,
    role: Role | None,
    kind: Kind,
    channels: tuple[int, int],
    activation: Activation | Gate,
    size: Size,
    window: Window = POINT,
    *,
    normalized: bool = True,
    biased: bool = False,
    scaled: bool = False,
) -> Layer:
    """Returns a convolution; raises ValueError if its output would be empty.

    For the arguments see `Layer`. `channels` are the input and output channels, `size` the rows and
    columns of the input.
    """
    layer = Layer(
        part=part,
        role=role,
        kind="pointwise" if kind == "conv" and window.kernel == window.stride == 1 else kind,
        inputs=channels[0],
        outputs=channels[1],
        kernel=window.kernel,
        stride=window.stride,
        dilation=window.dilation,
        input_size=size,
        output_size=window.output_size(size),
        pads=window.pads(size),
        normalized=normalized,
        activation=activation,
        biased=biased,
        scaled=scaled,
    )
    has_output = min(layer.output_size) >= 1
    require(has_output, "resolution", size, f"large enough for {layer.name} to have output")
    return layer


def dense(
    part: str,
    role: Role | None,
    channels: tuple[int, int],
    activation: Activation | Gate,
    *,
    normalized: bool = False,
) -> Layer:
    """Returns a dense layer that takes pooled features; `channels` are its inputs and outputs."""
    return Layer(
        part=part,
        role=role,
        kind="dense",
        inputs=channels[0],
        outputs=channels[1],
        kernel=1,
        stride=1,
        dilation=1,
        input_size=(1, 1),
        output_size=(1, 1),
        pads=((0, 0), (0, 0)),
        normalized=normalized,
        activation=activation,
        biased=not normalized,
    )


def _block_layers(part: str, block: Block, dialect: Dialect, size: Size) -> Iterator[Layer]:
    if isinstance(block, InvertedResidual):
        yield from _inverted_layers(part, block, dialect.depthwise_padding, size)
        return
    if isinstance(block, Attention):
        yield from _attention_layers(part, block, dialect.depthwise_padding, size)
        return
    window = Window(block.kernel, block.stride, block.dilation, dialect.padding)
    inputs, outputs, activation = block.inputs, block.outputs, block.activation
    if isinstance(block, ConvNorm):
        yield convolution(part, None, "conv", (inputs, outputs), activation, size, window)
    elif isinstance(block, Separable):
        window = window._replace(padding=dialect.depthwise_padding)
        alone = (inputs, inputs)
        yield convolution(part, "depthwise", "depthwise", alone, activation, size, window)
        size = window.output_size(size)
        channels = (inputs, outputs)
        yield convolution(part, "pointwise", "pointwise", channels, activation, size)
    else:
        expanded = block.expanded
        yield convolution(part, "expand", "conv", (inputs, expanded), activation, size, window)
        size = window.output_size(size)
        narrow = (expanded, outputs)
        yield convolution(part, "project", "pointwise", narrow, block.bottleneck, size)


def _inverted_layers(
    part: str, block: InvertedResidual, padding: Padding, size: Size
) -> Iterator[Layer]:
    inputs, wide, activation = block.inputs, block.expanded, block.activation
    if block.start_kernel:
        window = Window(block.start_kernel, block.start_stride, block.dilation, padding)
        yield convolution(part, "start", "depthwise", (inputs, inputs), "linear", size, window)
        size = window.output_size(size)
    if block.expands:
        yield convolution(part, "expand", "pointwise", (inputs, wide), activation, size)
    if block.kernel:
        window = Window(block.kernel, block.stride, block.dilation, padding)
        yield convolution(part, "depthwise", "depthwise", (wide, wide), activation, size, window)
        size = window.output_size(size)
    if block.squeeze:  # V3 paper, section 5.3
        yield dense(part, "squeeze_excite/reduce", (wide, block.squeeze), "relu")
        yield dense(part, "squeeze_excite/expand", (block.squeeze, wide), "hard_sigmoid")
    narrow, activation = (wide, block.outputs), block.bottleneck
    scaled = block.layer_scale
    yield convolution(part, "project", "pointwise", narrow, activation, size, scaled=scaled)


def _attention_layers(part: str, block: Attention, padding: Padding, size: Size) -> Iterator[Layer]:
    alone = (block.inputs, block.inputs)
    point = convolution(part, "input", "norm", alone, "linear", size)
    yield point

    def projection(role: Role, channels: tuple[int, int], at: Size, *, scaled: bool) -> Layer:
        return convolution(
            part, role, "pointwise", channels, "linear", at, normalized=False, scaled=scaled
        )

    yield projection("query", (block.inputs, block.channels), size, scaled=False)
    window = Window(block.kernel, block.downsampling, 1, padding)
    key_size, own = size, (block.inputs, block.key_heads * block.head_channels)
    roles: tuple[tuple[Role, Role], ...] = (
        ("key/downsample", "key/project"),
        ("value/downsample", "value/project"),
    )
    for downsample, project in roles:
        if block.downsampling > 1:
            yield convolution(part, downsample, "depthwise", alone, "linear", size, window)
            key_size = window.output_size(size)
        yield projection(project, own, key_size, scaled=False)
    yield replace(
        point,
        role="attend",
        kind="attention",
        inputs=block.channels,
        outputs=block.channels,
        normalized=False,
        heads=Heads(queries=block.heads, keys=block.key_heads, key_size=key_size),
    )
    narrow = (block.channels, block.outputs)
    yield projection("output", narrow, size, scaled=block.layer_scale)


@with_plain_arguments
def walk(spec: NetworkSpec, resolution: int | tuple[int, int]) -> Iterator[Layer]:
    """Yields every layer, from input to output, with its shapes at a resolution.

    Pooling and the sums of shortcuts are no layers. In an attention block the layers of keys follow
    those of queries, and those of values follow those of keys; they all read the block's normalized
    input.

    Args:
      spec: the network.
      resolution: side of a square image, or (rows, columns), in pixels.

    Raises:
      ValueError: the image is so small that a layer would have an empty output.
    """
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    require(min(size) >= 1, "resolution", resolution, "1 pixel or more")
    parts: list[tuple[str, Block]] = [("stem", spec.stem)]
    parts += [(f"block_{i}", block) for i, block in enumerate(spec.blocks)]
    for part, block in parts:
        for layer in _block_layers(part, block, spec.dialect, size):
            yield layer
            if layer.kind != "dense":  # squeeze-and-excitation keeps the map's size
                size = layer.output_size
    yield from _head_layers(spec, size)


def _head_layers(spec: NetworkSpec, size: Size) -> Iterator[Layer]:
    conv, hidden = spec.head.conv, spec.head.hidden
    if conv:
        window = Window(conv.kernel, conv.stride, conv.dilation, spec.dialect.padding)
        channels = (conv.inputs, conv.outputs)
        yield convolution("head", "conv", "conv", channels, conv.activation, size, window)
    if hidden:
        channels = (spec.pooled, hidden.channels)
        yield dense("head", "hidden", channels, hidden.activation, normalized=hidden.normalized)
    if spec.head.num_classes:
        yield dense("head", "classifier", (spec.features, spec.head.num_classes), "linear")


@with_plain_arguments
def unnormalizable_layer(
    spec: NetworkSpec, resolution: int, images: int, *, frozen: int = 0
) -> Layer | None:
    """Returns the first layer that would normalize a single value per channel in training, or None.

    A single value equals its own mean, so normalization would turn every input into zero.

    Args:
      spec: the network.
      resolution: side of the training images, in pixels.
      images: number of images over which batch statistics are computed.
      frozen: number of leading parts (the stem, then blocks) that run in inference mode.
    """
    running = {"stem", *(f"block_{i}" for i in range(frozen - 1))} if frozen else set()
    for layer in walk(spec, resolution):
        values = images * math.prod(layer.output_size)
        if layer.normalized and values == 1 and layer.part not in running:
            return layer
    return None


def require_quantizable(spec: NetworkSpec) -> None:
    """Requires that `mnet_jax.quantization` can round every layer of a network.

    Raises:
      ValueError: a layer has no kernel (those of attention), GELU or a layer scale; one line with
        its name.
    """
    layers = sorted(walk(spec, REFERENCE_RESOLUTION), key=lambda layer: layer.has_kernel)
    for layer in layers:  # attention first, as without it the rest can be changed by axes
        name = f"quantization of {layer.name}"
        require(layer.has_kernel, name, "a layer of attention", "a network without, attention none")
        legal = "linear, relu, relu6, hard_swish"
        require(layer.activation != "gelu", name, layer.activation, legal)
        require(not layer.scaled, name, "a layer scale", "a network without, layer_scale False")


def variable_shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter and running statistic of a network, by path.

    Examples of paths: `params/stem/conv/kernel`, `batch_stats/stem/norm/mean`. For the axes of
    kernels see `Layer.kernel_shape`.
    """
    layers = walk(spec, REFERENCE_RESOLUTION)
    return {path: shape for layer in layers for path, shape in layer.variable_shapes.items()}
