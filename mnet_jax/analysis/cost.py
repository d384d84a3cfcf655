"""Parameters, multiply-adds, bytes and receptive fields of a network, computed from its spec.

The roofline model (`Machine`) then gives a lower bound on a program's time.

Multiply-adds (MAdds) are those of convolutions and matrix products, including the two products of
attention, whose number grows with the square of the number of positions. Normalization, activations
and pooling are left out. Taps on padding are counted, as in the papers' tables. Compilers do not
count these taps, so their counts differ.
"""

import itertools
import math
from dataclasses import dataclass

from mnet_jax.architectures import segmentation
from mnet_jax.architectures.flow import compute
from mnet_jax.architectures.segmentation import SegmentationSpec
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, Layer, walk
from mnet_jax.architectures.spec import Kind, NetworkSpec
from mnet_jax.validation import require


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """The cost of one layer, for one image.

    Attributes:
      layer: the layer and its shapes.
      params: number of trainable parameters, including those of the layer's normalization.
      statistics: number of running means and variances.
      madds: multiply-adds.
      weight_bytes: bytes of the parameters and statistics.
      activation_bytes: bytes of the layer's inputs and output, each moved once.
    """

    layer: Layer
    params: int
    statistics: int
    madds: int
    weight_bytes: int
    activation_bytes: int

    def moved_bytes(self, batch_size: int = 1) -> int:
        """Returns the least bytes moved: the weights once, the feature maps once per image."""
        return self.weight_bytes + batch_size * self.activation_bytes

    def intensity(self, batch_size: int = 1) -> float:
        """Returns the floating point operations per byte moved; a multiply-add counts as two."""
        return 2 * batch_size * self.madds / self.moved_bytes(batch_size)


@dataclass(frozen=True, kw_only=True)
class Separation:
    """The cost of a depthwise and the following pointwise layer, relative to a full convolution.

    Attributes:
      name: path of the depthwise layer.
      madds: multiply-adds of the pair.
      full_madds: multiply-adds of the full convolution with the same window, inputs and outputs.
      ratio: `madds` over `full_madds`.
      predicted: the ratio by the paper's formula 1/N + 1/K^2, for N outputs and kernel side K
        (arXiv 1704.04861, section 3.1).
    """

    name: str
    madds: int
    full_madds: int
    ratio: float
    predicted: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a network at a resolution, for one image. The properties are sums over `rows`."""

    rows: tuple[LayerCost, ...]

    @property
    def params(self) -> int:
        """Number of trainable parameters."""
        return sum(row.params for row in self.rows)

    @property
    def statistics(self) -> int:
        """Number of running means and variances of batch normalization."""
        return sum(row.statistics for row in self.rows)

    @property
    def madds(self) -> int:
        """Multiply-adds."""
        return sum(row.madds for row in self.rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters and statistics."""
        return sum(row.weight_bytes for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Bytes of every layer's input and output, each moved once."""
        return sum(row.activation_bytes for row in self.rows)

    def moved_bytes(self, batch_size: int = 1) -> int:
        """Returns the least bytes moved, summed over layers; see `LayerCost.moved_bytes`."""
        return sum(row.moved_bytes(batch_size) for row in self.rows)

    @property
    def by_kind(self) -> "dict[Kind, Cost]":
        """Cost by kind of layer, in the order of first appearance in the network (V1, Table 2)."""
        kinds = dict.fromkeys(row.layer.kind for row in self.rows)
        return {
            kind: Cost(rows=tuple(row for row in self.rows if row.layer.kind == kind))
            for kind in kinds
        }

    @property
    def separations(self) -> tuple[Separation, ...]:
        """The cost of each depthwise and pointwise pair, relative to a full convolution."""
        # Dense layers are skipped, as a squeeze-and-excitation may be between the two layers.
        rows = [row for row in self.rows if row.layer.kind != "dense"]
        pairs = itertools.pairwise(rows)
        return tuple(
            _separation(a, b)
            for a, b in pairs
            if a.layer.kind == "depthwise" and b.layer.kind == "pointwise"
        )


def count(
    spec: NetworkSpec | SegmentationSpec,
    resolution: int | tuple[int, int],
    *,
    activation_itemsize: int = 4,
) -> Cost:
    """Computes the cost of a network on one image.

    Args:
      spec: the network, for classification or for segmentation.
      resolution: side of a square image in pixels, or (rows, columns).
      activation_itemsize: bytes per element of a feature map: 4 in float32, 2 in bfloat16.

    Raises:
      ValueError: the image is too small for the network.
    """
    if isinstance(spec, SegmentationSpec):
        layers = segmentation.walk(spec, resolution)
    else:
        layers = walk(spec, resolution)
    return Cost(rows=tuple(_row(layer, activation_itemsize) for layer in layers))


def _row(layer: Layer, activation_itemsize: int) -> LayerCost:
    collections = {"params": 0, "batch_stats": 0}
    for path, shape in layer.variable_shapes.items():
        collections[path.partition("/")[0]] += math.prod(shape)
    params, statistics = collections.values()
    pixels_in, pixels_out = (a * b for a, b in (layer.input_size, layer.output_size))
    madds = math.prod(layer.kernel_shape) * pixels_out if layer.has_kernel else 0
    values = layer.inputs * pixels_in + layer.outputs * pixels_out
    if layer.heads:  # products of each query with each key, then of the weights with the values
        heads, keys = layer.heads, math.prod(layer.heads.key_size)
        madds = pixels_in * keys * (layer.inputs + layer.outputs)
        values += keys * heads.keys * (layer.inputs + layer.outputs) // heads.queries
    return LayerCost(
        layer=layer,
        params=params,
        statistics=statistics,
        madds=madds,
        weight_bytes=4 * (params + statistics),  # float32 in every precision of the computation
        activation_bytes=activation_itemsize * values,
    )


def _separation(depthwise: LayerCost, pointwise: LayerCost) -> Separation:
    layer, outputs = depthwise.layer, pointwise.layer.outputs
    rows, columns = layer.output_size
    full = layer.kernel**2 * layer.inputs * outputs * rows * columns
    madds = depthwise.madds + pointwise.madds
    return Separation(
        name=layer.name,
        madds=madds,
        full_madds=full,
        ratio=madds / full,
        predicted=1 / outputs + 1 / layer.kernel**2,
    )


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """The receptive field of a layer's output.

    Attributes:
      layer: path of the layer's parameters.
      side: side of the square of pixels that one output position depends on, away from borders;
        None for the whole image, as from the first attention on.
      step: distance in pixels between the squares of neighbouring positions.
    """

    layer: str
    side: int | None
    step: int


def receptive_fields(spec: NetworkSpec) -> tuple[ReceptiveField, ...]:
    """Computes the receptive field of every convolution and every attention, in network order.

    Squeeze-and-excitation and pooling, which depend on the whole image, are left out.

    Source: Araujo, Norris, Sim, "Computing receptive fields of convolutional neural networks",
    Distill (2019).
    """
    fields = _Fields()
    compute(spec, REFERENCE_RESOLUTION, ReceptiveField(layer="image", side=1, step=1), fields)
    return tuple(fields.found)


class _Fields:
    """Operations on receptive fields.

    Attributes:
      found: the fields of the layers so far, in network order.
    """

    def __init__(self) -> None:
        self.found: list[ReceptiveField] = []

    def layer(self, layer: Layer, x: ReceptiveField) -> ReceptiveField:
        if layer.kind == "dense":
            return x
        reach = (layer.kernel - 1) * layer.dilation * x.step
        side = None if x.side is None else x.side + reach
        return self._with(layer, side, x.step * layer.stride)

    def attend(
        self, layer: Layer, query: ReceptiveField, key: ReceptiveField, value: ReceptiveField
    ) -> ReceptiveField:
        return self._with(layer, None, query.step)

    def mean(self, path: str, x: ReceptiveField) -> ReceptiveField:
        return x

    def add(self, path: str, left: ReceptiveField, right: ReceptiveField) -> ReceptiveField:
        return max(left, right, key=_side)

    def scale(self, path: str, x: ReceptiveField, gate: ReceptiveField) -> ReceptiveField:
        return x

    def _with(self, layer: Layer, side: int | None, step: int) -> ReceptiveField:
        self.found.append(ReceptiveField(layer=layer.name, side=side, step=step))
        return self.found[-1]


def _side(field: ReceptiveField) -> float:
    return math.inf if field.side is None else field.side


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The measured limits of a machine, for the roofline model.

    The model gives a lower bound on a program's time: a program takes at least the time of its
    arithmetic at the peak rate, and at least the time of moving its bytes at the memory bandwidth.

    Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for
    multicore architectures", CACM 52 (2009).

    Attributes:
      flops_per_second: floating point operations per second of a large matrix product; a
        multiply-add counts as two.
      bytes_per_second: memory bandwidth when reading two streams and writing one.
      device: JAX's name of the device, such as `cpu`.
    """

    flops_per_second: float
    bytes_per_second: float
    device: str

    def __post_init__(self) -> None:
        for name in ("flops_per_second", "bytes_per_second"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")

    @property
    def ridge(self) -> float:
        """The operations per byte above which arithmetic, not memory, limits the speed."""
        return self.flops_per_second / self.bytes_per_second

    def bound_seconds(self, *, madds: int, moved_bytes: int) -> float:
        """Returns a program's least time: the larger of its arithmetic time and memory time."""
        arithmetic = 2 * madds / self.flops_per_second
        return max(arithmetic, moved_bytes / self.bytes_per_second)
