"""The layers of a network with their shapes at a resolution, by arithmetic."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mnet_jax.architectures.dialects import Dialect, Padding
from mnet_jax.architectures.spec import (
    Block,
    ConvNorm,
    FusedInvertedResidual,
    InvertedResidual,
    Kind,
    NetworkSpec,
    Separable,
)
from mnet_jax.validation import require, with_plain_arguments


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution or matrix product of a network at one resolution.

    Attributes:
      name: path of the layer's parameters in the network, such as `block_3/depthwise`.
      kind: `conv` mixes channels under a window, `depthwise` filters each channel alone,
        `pointwise` mixes channels at one position, `dense` maps pooled features.
      inputs: channels in.
      outputs: channels out.
      kernel: side of the window.
      stride: step of the window.
      dilation: distance of neighbouring taps.
      input_size: (rows, columns) in.
      output_size: (rows, columns) out.
      normalized: followed by batch normalization; otherwise the layer has a bias.
    """

    name: str
    kind: Kind
    inputs: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    normalized: bool


def pad_amounts(
    padding: Padding, kernel: int, stride: int, size: int, dilation: int = 1
) -> tuple[int, int]:
    """Rows (or columns) of zeros before and after an axis of `size`.

    `same`: TensorFlow's SAME, ceil(size / stride) outputs, the odd zero at the end. `symmetric`:
    kernel // 2 on both sides, as in PyTorch. `end`: all of it at the end where the stride is 2,
    as Keras pads MobileNet V1; as `same` otherwise. A dilated kernel counts as long as it reaches.
    """
    reach = dilation * (kernel - 1) + 1
    if padding == "symmetric":
        return reach // 2, reach // 2
    if padding == "end" and stride > 1:
        return 0, reach // 2
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


class Window(NamedTuple):
    """What a convolution sees: side of its kernel, its step, the distance of neighbouring taps."""

    kernel: int = 1
    stride: int = 1
    dilation: int = 1

    def output_size(self, size: tuple[int, int], padding: Padding) -> tuple[int, int]:
        """Rows and columns out; less than 1 where the window does not fit."""
        reach = self.dilation * (self.kernel - 1) + 1
        rows, columns = (
            (n + sum(pad_amounts(padding, self.kernel, self.stride, n, self.dilation)) - reach)
            // self.stride
            + 1
            for n in size
        )
        return rows, columns


POINT = Window()
REFERENCE_RESOLUTION = 1024  # any that no network is too deep for; weights do not depend on it


def _layer(
    name: str,
    kind: Kind,
    channels: tuple[int, int],
    size: tuple[int, int],
    window: Window = POINT,
    padding: Padding = "same",
) -> Layer:
    """A normalized convolution; ValueError if it would have no output."""
    output_size = window.output_size(size, padding)
    require(min(output_size) >= 1, "resolution", size, f"large enough for {name} to have output")
    return Layer(
        name=name,
        kind="pointwise" if kind == "conv" and window.kernel == window.stride == 1 else kind,
        inputs=channels[0],
        outputs=channels[1],
        **window._asdict(),
        input_size=size,
        output_size=output_size,
        normalized=True,
    )


def _dense(name: str, inputs: int, outputs: int, *, normalized: bool = False) -> Layer:
    return Layer(
        name=name,
        kind="dense",
        inputs=inputs,
        outputs=outputs,
        kernel=1,
        stride=1,
        dilation=1,
        input_size=(1, 1),
        output_size=(1, 1),
        normalized=normalized,
    )


def _block_layers(
    name: str, block: Block, dialect: Dialect, size: tuple[int, int]
) -> Iterator[Layer]:
    window = Window(block.kernel, block.stride, block.dilation)
    channels = (block.inputs, block.outputs)
    if isinstance(block, ConvNorm):
        yield _layer(name, "conv", channels, size, window, dialect.padding)
    elif isinstance(block, Separable):
        wide = (block.inputs, block.inputs)
        depthwise = _layer(
            f"{name}/depthwise", "depthwise", wide, size, window, dialect.depthwise_padding
        )
        yield depthwise
        yield _layer(f"{name}/pointwise", "pointwise", channels, depthwise.output_size)
    elif isinstance(block, FusedInvertedResidual):
        wide = (block.inputs, block.expanded)
        expand = _layer(f"{name}/expand", "conv", wide, size, window, dialect.padding)
        yield expand
        narrow = (block.expanded, block.outputs)
        yield _layer(f"{name}/project", "pointwise", narrow, expand.output_size)
    else:
        yield from _inverted_layers(name, block, dialect.depthwise_padding, size)


def _inverted_layers(
    name: str, block: InvertedResidual, padding: Padding, size: tuple[int, int]
) -> Iterator[Layer]:
    if block.start_kernel:
        window = Window(block.start_kernel, block.start_stride, block.dilation)
        channels = (block.inputs, block.inputs)
        yield _layer(f"{name}/start", "depthwise", channels, size, window, padding)
        size = window.output_size(size, padding)
    if block.expands:
        yield _layer(f"{name}/expand", "pointwise", (block.inputs, block.expanded), size)
    if block.kernel:
        window = Window(block.kernel, block.stride, block.dilation)
        channels = (block.expanded, block.expanded)
        yield _layer(f"{name}/depthwise", "depthwise", channels, size, window, padding)
        size = window.output_size(size, padding)
    if block.squeeze:
        yield _dense(f"{name}/squeeze_excite/reduce", block.expanded, block.squeeze)
        yield _dense(f"{name}/squeeze_excite/expand", block.squeeze, block.expanded)
    yield _layer(f"{name}/project", "pointwise", (block.expanded, block.outputs), size)


@with_plain_arguments
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
    named: list[tuple[str, Block]] = [("stem", spec.stem)]
    named += [(f"block_{i}", block) for i, block in enumerate(spec.blocks)]
    head = spec.head
    if head.conv:
        named.append(("head/conv", head.conv))
    for name, block in named:
        for layer in _block_layers(name, block, spec.dialect, size):
            yield layer
            if layer.kind != "dense":  # those of a squeeze-and-excitation stand beside the map
                size = layer.output_size
    if head.hidden:
        yield _dense(
            "head/hidden", spec.pooled, head.hidden.channels, normalized=head.hidden.normalized
        )
    yield _dense("head/classifier", spec.features, head.num_classes)


@with_plain_arguments
def lone_layer(spec: NetworkSpec, resolution: int, images: int, *, frozen: int = 0) -> Layer | None:
    """The first layer that has one value a channel to normalize in training, if any.

    Nothing would be left of it: one value is its own mean.

    Args:
      spec: the network.
      resolution: side of the training images, in pixels.
      images: how many are normalized together.
      frozen: leading parts that run as in inference.
    """
    running = {"stem", *(f"block_{i}" for i in range(frozen - 1))} if frozen else set()
    for layer in walk(spec, resolution):
        values = images * math.prod(layer.output_size)
        if layer.normalized and values == 1 and layer.name.split("/")[0] not in running:
            return layer
    return None


def variable_shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and running statistic of a network, by its path.

    Such as `params/stem/conv/kernel` and `batch_stats/stem/norm/mean`. Kernels are [kh, kw, in,
    out] for a `conv`, [kh, kw, c] for a `depthwise`, [in, out] for the others.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in walk(spec, REFERENCE_RESOLUTION):
        window, channels = (layer.kernel, layer.kernel), (layer.inputs, layer.outputs)
        kernel = {"conv": (*window, *channels), "depthwise": (*window, layer.outputs)}
        name, per_channel = layer.name, (layer.outputs,)
        if layer.normalized:
            shapes[f"params/{name}/conv/kernel"] = kernel.get(layer.kind, channels)
            shapes |= {f"params/{name}/norm/{part}": per_channel for part in ("scale", "bias")}
            shapes |= {f"batch_stats/{name}/norm/{part}": per_channel for part in ("mean", "var")}
        else:
            shapes[f"params/{name}/kernel"] = kernel.get(layer.kind, channels)
            shapes[f"params/{name}/bias"] = per_channel
    return shapes
