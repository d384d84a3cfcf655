"""Benchmark cases: a program, its sizes, and the least work that it needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mnet_jax.analysis.cost import count
from mnet_jax.architectures import NetworkSpec
from mnet_jax.architectures.shapes import Heads, kernel_shape
from mnet_jax.architectures.spec import Activation, Kind
from mnet_jax.config import DataConfig
from mnet_jax.ops.types import Direction

NetworkProgram = Literal["inference", "training"]
Derivative = Literal["forward", "input gradient", "kernel gradient", "both gradients"]
FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Work:
    """The least work of a program: multiply-adds, and bytes read from and written to memory."""

    madds: int
    moved_bytes: int


@dataclass(frozen=True, kw_only=True)
class DepthwiseCase:
    """One depthwise convolution with SAME padding, or its gradients.

    Attributes:
      shape: the input's shape, [b, h, w, c].
      kernel: side of the window.
      stride: step of the window.
      derivative: what is computed: the output or gradients.
    """

    shape: tuple[int, int, int, int]
    kernel: int
    stride: int
    derivative: Derivative

    @property
    def label(self) -> str:
        """The name of the case in a table."""
        _, height, width, channels = self.shape
        return f"{height}x{width}x{channels} k{self.kernel} s{self.stride}, {self.derivative}"

    @property
    def work(self) -> Work:
        """The least work: each tensor moves once; one multiply-add for each tap of each output.

        Computing both gradients takes twice as many multiply-adds.
        """
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
    """One convolution with SAME padding, or attention, as a network runs it in a training step.

    The forward pass also normalizes and activates the input, and computes the mean and the variance
    of the output. The backward pass computes the gradients with respect to input, normalization and
    kernel from the gradients with respect to output, mean and variance. Attention has queries, keys
    and values as inputs, and no normalization and statistics.

    Attributes:
      kind: the kind of the layer; not `dense` or `norm`.
      shape: the input's shape, [b, h, w, c]; of attention that of the queries.
      outputs: number of output channels.
      kernel: side of the window.
      stride: step of the window.
      activation: the activation function of the input; None for images, which are neither
        normalized nor activated and have no gradient.
      direction: the forward or the backward pass.
      count: number of such layers in the networks.
      heads: the heads of attention; None for a convolution.
    """

    kind: Kind
    shape: tuple[int, int, int, int]
    outputs: int
    kernel: int
    stride: int
    activation: Activation | None
    direction: Direction
    count: int
    heads: Heads | None = None

    @property
    def label(self) -> str:
        """The name of the case in a table."""
        _, height, width, channels = self.shape
        outputs = "" if self.kind == "depthwise" else f" to {self.outputs}"
        window = f" k{self.kernel} s{self.stride}"
        if self.kind in ("pointwise", "attention"):
            window = ""
        count = f", {self.count} times" if self.count > 1 else ""
        act = self.activation or "images"
        return f"{self.group}, {height}x{width}x{channels}{outputs}{window} {act}{count}"

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """The kernel's shape: `conv` [kh, kw, in, out], `depthwise` [kh, kw, c], else [in, out]."""
        return kernel_shape(self.kind, self.kernel, self.shape[3], self.outputs)

    @property
    def group(self) -> str:
        """The name of the case's group; the report sums the times of each group."""
        return f"{self.kind} {self.direction}"

    @property
    def work(self) -> Work:
        """The least work: inputs, output, kernel and, in the backward pass, gradients move once."""
        batch, height, width, channels = self.shape
        passes = 1 if self.direction == "forward" else 2
        if self.heads:
            queries, keys = height * width, math.prod(self.heads.key_size)
            ends = channels + self.outputs
            moved = queries * ends + keys * self.heads.keys * ends // self.heads.queries
            madds, bytes_moved = batch * queries * keys * ends, batch * FLOAT_BYTES * moved
            return Work(madds=passes * madds, moved_bytes=passes * bytes_moved)
        rows, columns = (-(-n // self.stride) for n in (height, width))
        positions, weights = batch * rows * columns, math.prod(self.kernel_shape)
        moved = batch * height * width * channels + positions * self.outputs + weights
        return Work(madds=passes * weights * positions, moved_bytes=passes * FLOAT_BYTES * moved)


@dataclass(frozen=True, kw_only=True)
class NetworkCase:
    """A whole network in float32.

    Attributes:
      program: inference from images to logits, or a training step with SGD and momentum.
      spec: the network.
      resolution: side of the images in pixels.
      batch_size: number of images in a batch.
    """

    program: NetworkProgram
    spec: NetworkSpec
    resolution: int
    batch_size: int

    @property
    def label(self) -> str:
        """The name of the case in a table."""
        return f"{self.spec.name} {self.resolution}, batch {self.batch_size}, {self.program}"

    @property
    def work(self) -> Work:
        """The least work: every layer reads its input and weights and writes its output.

        Training needs three times the multiply-adds (forward pass and both gradients) and moves
        three times as many bytes: the backward pass of a layer reads its input and the gradient
        of its output, and writes the gradient of its input.
        """
        cost = count(self.spec, self.resolution)
        passes = 1 if self.program == "inference" else 3
        moved = self.batch_size * cost.activation_bytes + cost.weight_bytes
        return Work(madds=passes * self.batch_size * cost.madds, moved_bytes=passes * moved)


@dataclass(frozen=True, kw_only=True)
class InputCase:
    """A run of the input pipeline, which makes the next augmented batches of a data set.

    Attributes:
      data: the data set.
      batches: number of batches in one call. It must exceed the number of prefetched batches, if
        there are any, since prefetched batches take no time.
      one_core: whether one core makes the batches, to measure the rate per core.
      title: name of the images in a table; None for the data set's name.
    """

    data: DataConfig
    batches: int = 1
    one_core: bool = False
    title: str | None = None

    @property
    def label(self) -> str:
        """The name of the case in a table."""
        data, times = self.data, f"{self.batches} x " if self.batches > 1 else ""
        core = ", one core" if self.one_core else ""
        name = self.title or data.name
        size = f"{data.resolution}, batch {times}{data.batch_size}"
        return f"{name} {size}, {data.augmentation}{core}"

    @property
    def images(self) -> int:
        """Number of images in one call."""
        return self.batches * self.data.batch_size

    @property
    def work(self) -> Work:
        """The least work: the batches are written once."""
        pixels = self.images * self.data.resolution**2 * 3
        return Work(madds=0, moved_bytes=FLOAT_BYTES * pixels)


@dataclass(frozen=True, kw_only=True)
class CompileCase:
    """The first step of a process: the time includes compilation, but not imports.

    Attributes:
      network: the network and its program.
      cached: whether JAX may use its compilation cache.
    """

    network: NetworkCase
    cached: bool

    @property
    def label(self) -> str:
        """The name of the case in a table."""
        return f"{self.network.label}, {'with the cache' if self.cached else 'cold'}"

    @property
    def work(self) -> Work:
        """Zero work, as compilation has no lower bound."""
        return Work(madds=0, moved_bytes=0)


Case = DepthwiseCase | LayerCase | NetworkCase | InputCase | CompileCase
Run = Callable[[], Any]  # runs a case once
