"""What is timed: a program, its sizes, and the least work that it takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mnet_jax.analysis.cost import count
from mnet_jax.architectures import NetworkSpec
from mnet_jax.architectures.shapes import kernel_shape
from mnet_jax.architectures.spec import Activation, Kind
from mnet_jax.config import DataConfig
from mnet_jax.ops.types import Direction

NetworkProgram = Literal["inference", "training"]
Derivative = Literal["forward", "input gradient", "kernel gradient", "both gradients"]
FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Work:
    """The least that a program takes: multiply-adds, and bytes to and from memory."""

    madds: int
    moved_bytes: int


@dataclass(frozen=True, kw_only=True)
class DepthwiseCase:
    """One depthwise convolution, SAME padding, or gradients of it.

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
        """Each tensor is touched once, and each tap of each output once for each result."""
        batch, height, width, channels = self.shape
        rows, columns = (-(-n // self.stride) for n in (height, width))
        inputs, outputs = batch * height * width * channels, batch * rows * columns * channels
        kernel = self.kernel**2 * channels
        moved, results = inputs + outputs + kernel, 1
        if self.derivative == "both gradients":
            moved, results = moved + inputs + kernel, 2
        return Work(madds=results * self.kernel**2 * outputs, moved_bytes=FLOAT_BYTES * moved)


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """One convolution as a network runs it in a training step, SAME padding.

    Forward, its input is normalized and activated on the way in, and the mean and the variance of
    its output are taken. Backward, there are the gradients of input, normalization and kernel,
    given those of output, mean and variance.

    Attributes:
      kind: of the convolution; none is `dense`.
      shape: of the input, [b, h, w, c].
      outputs: channels out.
      kernel: side of the window.
      stride: step of the window.
      activation: the input's; None for images, which are taken as they are and have no gradient.
      direction: what is computed.
      count: how many layers of the networks are like this.
    """

    kind: Kind
    shape: tuple[int, int, int, int]
    outputs: int
    kernel: int
    stride: int
    activation: Activation | None
    direction: Direction
    count: int

    @property
    def label(self) -> str:
        """For a table."""
        _, height, width, channels = self.shape
        outputs = "" if self.kind == "depthwise" else f" to {self.outputs}"
        window = "" if self.kind == "pointwise" else f" k{self.kernel} s{self.stride}"
        count = f", {self.count} times" if self.count > 1 else ""
        act = self.activation or "images"
        return f"{self.group}, {height}x{width}x{channels}{outputs}{window} {act}{count}"

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """[kh, kw, in, out] of a `conv`, [kh, kw, c] of a `depthwise`, else [in, out]."""
        return kernel_shape(self.kind, self.kernel, self.shape[3], self.outputs)

    @property
    def group(self) -> str:
        """What its time is summed up under."""
        return f"{self.kind} {self.direction}"

    @property
    def work(self) -> Work:
        """Input, output and kernel are touched once, backward they and their gradients."""
        batch, height, width, channels = self.shape
        rows, columns = (-(-n // self.stride) for n in (height, width))
        positions, weights = batch * rows * columns, math.prod(self.kernel_shape)
        moved = batch * height * width * channels + positions * self.outputs + weights
        passes = 1 if self.direction == "forward" else 2
        return Work(madds=passes * weights * positions, moved_bytes=passes * FLOAT_BYTES * moved)


@dataclass(frozen=True, kw_only=True)
class NetworkCase:
    """A whole network in float32.

    Attributes:
      program: inference from images to logits, or a training step with SGD and momentum.
      spec: the network.
      resolution: side of the images in pixels.
      batch_size: images at a time.
    """

    program: NetworkProgram
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
    """The input pipeline: the next augmented batches of a data set.

    Attributes:
      data: the data set.
      batches: how many; more than are made ahead, where the first of them would be had for nothing.
      one_core: whether they are made by one core, as the rate of a core is asked for.
      title: what the images are, where the data set's name does not say.
    """

    data: DataConfig
    batches: int = 1
    one_core: bool = False
    title: str | None = None

    @property
    def label(self) -> str:
        """For a table."""
        data, times = self.data, f"{self.batches} x " if self.batches > 1 else ""
        core = ", one core" if self.one_core else ""
        name = self.title or data.name
        size = f"{data.resolution}, batch {times}{data.batch_size}"
        return f"{name} {size}, {data.augmentation}{core}"

    @property
    def images(self) -> int:
        """How many one call gives."""
        return self.batches * self.data.batch_size

    @property
    def work(self) -> Work:
        """The batches are written once."""
        pixels = self.images * self.data.resolution**2 * 3
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


Case = DepthwiseCase | LayerCase | NetworkCase | InputCase | CompileCase
Run = Callable[[], Any]  # what a contender makes of a case: each call computes it once
