"""The names of the suites, and the cases that are convolutions or whole networks."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from mnet_jax.architectures import FACTORIES, NetworkSpec, walk
from mnet_jax.architectures.spec import Activation
from mnet_jax.architectures.transforms import with_input_stride
from mnet_jax.benchmark.cases import (
    Case,
    DepthwiseCase,
    Derivative,
    LayerCase,
    NetworkCase,
    NetworkProgram,
)
from mnet_jax.ops.types import Direction

Suite = Literal["depthwise", "layers", "inference", "training", "input", "compile"]
# One network of each version.
FAMILY = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v4_conv_small",
)
THIN = 0.25  # width multiplier


def depthwise_cases(networks: Iterable[str], resolution: int, batch_size: int) -> list[Case]:
    """Returns cases for every distinct depthwise layer: the output, and each gradient."""
    every: tuple[Derivative, ...] = ("forward", "input gradient", "kernel gradient")
    return [*_depthwise_cases(networks, resolution, batch_size, every)]


def table_cases(networks: Sequence[str], resolution: int, batch_size: int) -> list[Case]:
    """Returns the cases for the table of lowerings: forward, and both gradients together.

    The cases are the depthwise layers of the networks at width 1. Layers with fewer channels than
    any of these are taken from the same networks at width `THIN`.
    """
    both: tuple[Derivative, ...] = ("forward", "both gradients")
    full = _depthwise_cases(networks, resolution, batch_size, both)
    thin = _depthwise_cases(networks, resolution, batch_size, both, width=THIN)
    least = min(case.shape[3] for case in full)
    return [*full, *(case for case in thin if case.shape[3] < least)]


def _depthwise_cases(
    networks: Iterable[str],
    resolution: int,
    batch_size: int,
    derivatives: tuple[Derivative, ...],
    *,
    width: float = 1.0,
) -> list[DepthwiseCase]:
    shapes: dict[tuple[tuple[int, int, int, int], int, int], None] = {}
    for name in networks:
        for layer in walk(FACTORIES[name](width=width), resolution):
            if layer.kind == "depthwise":
                shape = (batch_size, *layer.input_size, layer.inputs)
                shapes[shape, layer.kernel, layer.stride] = None
    return [
        DepthwiseCase(shape=shape, kernel=kernel, stride=stride, derivative=derivative)
        for shape, kernel, stride in shapes
        for derivative in derivatives
    ]


def network_cases(
    program: NetworkProgram,
    networks: Iterable[str],
    sizes: Iterable[tuple[int, int]],
) -> list[Case]:
    """Returns a case for each network at each (resolution, batch size) of `sizes`."""
    cases: list[Case] = []
    for resolution, batch_size in sizes:
        for name in networks:
            case = NetworkCase(
                program=program,
                spec=network(name, resolution),
                resolution=resolution,
                batch_size=batch_size,
            )
            cases.append(case)
    return cases


def layer_cases(
    networks: Iterable[NetworkSpec],
    resolution: int,
    batch_size: int,
    directions: tuple[Direction, ...] = ("forward", "backward"),
) -> list[LayerCase]:
    """Returns cases for every distinct convolution and attention of a training step.

    Every input of a convolution is normalized except that of the stem. Squeeze-and-excitations, the
    sums of shortcuts, normalizations without convolution, pooling and dense layers are left out.
    """
    counts: Counter[LayerCase] = Counter()
    for spec in networks:
        activation: Activation | None = None  # of the images
        for layer in walk(spec, resolution):
            if layer.kind in ("dense", "norm"):
                continue
            case = LayerCase(
                kind=layer.kind,
                shape=(batch_size, *layer.input_size, layer.inputs),
                outputs=layer.outputs,
                kernel=layer.kernel,
                stride=layer.stride,
                activation=activation,
                direction="forward",
                count=1,
                heads=layer.heads,
            )
            counts[case] += 1
            applied = layer.activation
            assert applied != "hard_sigmoid" and applied != "sigmoid"  # only dense layers have them
            activation = applied
    return [
        replace(case, direction=direction, count=count)
        for case, count in counts.items()
        for direction in directions
    ]


def network(name: str, resolution: int) -> NetworkSpec:
    """Returns a network; for images of at most 32 pixels, the stem's stride becomes 1."""
    spec = FACTORIES[name]()
    return with_input_stride(spec, 1) if resolution <= 32 else spec
