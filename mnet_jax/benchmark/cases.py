"""What is timed: a program, its sizes, and the least work that it takes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mnet_jax.analysis.cost import count
from mnet_jax.architectures import FACTORIES, NetworkSpec, walk
from mnet_jax.architectures.transforms import with_input_stride
from mnet_jax.config import DataConfig

Suite = Literal["depthwise", "inference", "training", "input", "compile"]
Derivative = Literal["forward", "input gradient", "kernel gradient"]
FLOAT_BYTES = 4
# One network of each version, and the resolution and batch of its feature maps.
FAMILY = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v4_conv_small",
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The least that a program takes: multiply-adds, and bytes to and from memory."""

    madds: int
    moved_bytes: int


@dataclass(frozen=True, kw_only=True)
class DepthwiseCase:
    """One depthwise convolution, SAME padding, or one of its gradients.

    Attributes:
      shape: of the images, [b, h, w, c].
      kernel: side of the window.
      stride: step of the window.
      derivative: what is computed.
    """

    shape: tuple[int, int, int, int]
    kernel: int
    stride: int
    derivative: Derivative

    @property
    def label(self) -> str:
        """For a table."""
        _, height, width, channels = self.shape
        return f"{height}x{width}x{channels} k{self.kernel} s{self.stride}, {self.derivative}"

    @property
    def work(self) -> Work:
        """Each of the three tensors is touched once, and each tap of each output once."""
        batch, height, width, channels = self.shape
        rows, columns = (-(-n // self.stride) for n in (height, width))
        outputs = batch * rows * columns * channels
        kernel = self.kernel**2 * channels
        moved = batch * height * width * channels + outputs + kernel
        return Work(madds=self.kernel**2 * outputs, moved_bytes=FLOAT_BYTES * moved)


@dataclass(frozen=True, kw_only=True)
class NetworkCase:
    """A whole network in float32.

    Attributes:
      program: inference from images to logits, or a training step with SGD and momentum.
      spec: the network.
      resolution: side of the images in pixels.
      batch_size: images at a time.
    """

    program: Literal["inference", "training"]
    spec: NetworkSpec
    resolution: int
    batch_size: int

    @property
    def label(self) -> str:
        """For a table."""
        return f"{self.spec.name} {self.resolution}, batch {self.batch_size}, {self.program}"

    @property
    def work(self) -> Work:
        """Every layer reads its input and weights and writes its output.

        Training does thrice the multiply-adds (forward, both gradients) and moves three times the
        feature maps: a backward pass reads a layer's input and its output's gradient and writes
        its input's.
        """
        cost = count(self.spec, self.resolution)
        passes = 1 if self.program == "inference" else 3
        moved = self.batch_size * cost.activation_bytes + cost.weight_bytes
        return Work(madds=passes * self.batch_size * cost.madds, moved_bytes=passes * moved)


@dataclass(frozen=True, kw_only=True)
class InputCase:
    """The input pipeline: the next augmented batch of a data set."""

    data: DataConfig

    @property
    def label(self) -> str:
        """For a table."""
        data = self.data
        return f"{data.name} {data.resolution}, batch {data.batch_size}, {data.augmentation}"

    @property
    def work(self) -> Work:
        """The batch is written once."""
        pixels = self.data.batch_size * self.data.resolution**2 * 3
        return Work(madds=0, moved_bytes=FLOAT_BYTES * pixels)


@dataclass(frozen=True, kw_only=True)
class CompileCase:
    """From the start of a process that has imported everything to the end of its first step."""

    network: NetworkCase
    cached: bool

    @property
    def label(self) -> str:
        """For a table."""
        return f"{self.network.label}, {'with the cache' if self.cached else 'cold'}"

    @property
    def work(self) -> Work:
        """None that must be."""
        return Work(madds=0, moved_bytes=0)


Case = DepthwiseCase | NetworkCase | InputCase | CompileCase


def depthwise_cases(networks: Iterable[str], resolution: int, batch_size: int) -> list[Case]:
    """Every distinct depthwise layer of some networks, forward and both gradients."""
    shapes: dict[tuple[tuple[int, int, int, int], int, int], None] = {}
    for name in networks:
        for layer in walk(FACTORIES[name](), resolution):
            if layer.kind == "depthwise":
                shape = (batch_size, *layer.input_size, layer.inputs)
                shapes[shape, layer.kernel, layer.stride] = None
    derivatives: tuple[Derivative, ...] = ("forward", "input gradient", "kernel gradient")
    return [
        DepthwiseCase(shape=shape, kernel=kernel, stride=stride, derivative=derivative)
        for shape, kernel, stride in shapes
        for derivative in derivatives
    ]


def network_cases(
    program: Literal["inference", "training"],
    networks: Iterable[str],
    sizes: Iterable[tuple[int, int]],
) -> list[Case]:
    """The networks at each (resolution, batch size); small images skip the early strides."""
    cases: list[Case] = []
    for resolution, batch_size in sizes:
        for name in networks:
            spec = FACTORIES[name]()
            if resolution <= 32:
                spec = with_input_stride(spec, 1)
            cases.append(
                NetworkCase(
                    program=program, spec=spec, resolution=resolution, batch_size=batch_size
                )
            )
    return cases
