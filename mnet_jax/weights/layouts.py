"""Names of a layer's arrays in each framework, and the order of their axes.

Our kernels are [kh, kw, in, out] for a convolution, [kh, kw, c] for a depthwise convolution, and
[in, out] for a pointwise or dense layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mnet_jax.architectures import Layer

Shape = tuple[int, ...]


class Names(NamedTuple):
    """A library's names for one layer of ours.

    Attributes:
      kernel: name of the convolution or matrix; None if the layer has none.
      norm: name of the batch normalization after it; None if there is none.
      matrix: whether the library has a matrix here rather than a convolution with a 1x1 window.
      scale: name of the layer scale's array; None if the layer has none.
    """

    kernel: str | None
    norm: str | None = None
    matrix: bool = False
    scale: str | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A framework's suffixes of array names, and the order of the axes of its kernels.

    Attributes:
      kernel: suffix of a kernel.
      depthwise_kernel: suffix of a depthwise convolution's kernel.
      bias: suffix of a bias.
      norm: suffixes of a normalization's scale, bias, mean and variance.
      kernel_form: function that takes a layer and its `Names.matrix`. It returns the kernel's shape
        in the framework, and the permutation of the kernel's axes that gives our order.
      channel_axes: (axis of the input channels, axis of the output channels) in a kernel of two or
        four axes.
    """

    kernel: str
    depthwise_kernel: str
    bias: str
    norm: tuple[str, str, str, str]
    kernel_form: Callable[[Layer, bool], tuple[Shape, Shape]]
    channel_axes: tuple[int, int]

    def channels_of(self, shape: Shape) -> tuple[int, int]:
        """Returns the input and output channels of a kernel of two or four axes."""
        inputs, outputs = self.channel_axes
        return shape[inputs], shape[outputs]


@dataclass(frozen=True, kw_only=True)
class ArrayEntry:
    """One array, with its name and shape in our variables and in a state dict.

    Attributes:
      ours: path in our variables, such as `params/stem/conv/kernel`.
      theirs: name in the state dict.
      our_shape: shape in our variables.
      shape: shape in the state dict.
      axes: permutation of the axes of `shape` that gives our order. Axes of length 1 that
        `our_shape` does not have are then dropped.
    """

    ours: str
    theirs: str
    our_shape: Shape
    shape: Shape
    axes: Shape

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Converts the state dict's array to the array of our variables."""
        return array.transpose(self.axes).reshape(self.our_shape)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Converts our array to the state dict's, in new memory; the inverse of `to_ours`."""
        ordered = array.reshape([self.shape[axis] for axis in self.axes])
        return ordered.transpose(np.argsort(self.axes)).copy(order="C")


def entries_of(layer: Layer, names: Names, layout: Layout) -> list[ArrayEntry]:
    """Returns an `ArrayEntry` for each array of one layer, in the order of `variable_shapes`."""
    entries, theirs = [], []
    vectors = list(layer.variable_shapes.items())
    if layer.has_kernel:
        (ours, our_shape), *vectors = vectors
        shape, axes = layout.kernel_form(layer, names.matrix)
        suffix = layout.depthwise_kernel if layer.kind == "depthwise" else layout.kernel
        assert names.kernel is not None
        name = names.kernel + suffix
        entries = [ArrayEntry(ours=ours, theirs=name, our_shape=our_shape, shape=shape, axes=axes)]
    if layer.normalized:
        assert names.norm is not None
        theirs = [names.norm + suffix for suffix in layout.norm]
    elif layer.bias_path:
        assert names.kernel is not None
        theirs = [names.kernel + layout.bias]
    if layer.scaled:
        assert names.scale is not None
        theirs.append(names.scale)
    return entries + [
        ArrayEntry(ours=path, theirs=name, our_shape=channels, shape=channels, axes=(0,))
        for (path, channels), name in zip(vectors, theirs, strict=True)
    ]


def _torch_kernel(layer: Layer, matrix: bool) -> tuple[Shape, Shape]:
    """PyTorch's `Layout.kernel_form`: matrix [out, in], convolution [out, in / groups, kh, kw]."""
    if matrix:
        return (layer.outputs, layer.inputs), (1, 0)
    per_group = 1 if layer.kind == "depthwise" else layer.inputs
    return (layer.outputs, per_group, layer.kernel, layer.kernel), (2, 3, 1, 0)


def _tensorflow_kernel(layer: Layer, matrix: bool) -> tuple[Shape, Shape]:
    """TensorFlow's `Layout.kernel_form`: matrix [in, out], convolution [kh, kw, in, out].

    A depthwise convolution is [kh, kw, c, 1].
    """
    if matrix:
        return (layer.inputs, layer.outputs), (0, 1)
    outputs = 1 if layer.kind == "depthwise" else layer.outputs
    return (layer.kernel, layer.kernel, layer.inputs, outputs), (0, 1, 2, 3)


TORCH = Layout(
    kernel=".weight",
    depthwise_kernel=".weight",
    bias=".bias",
    norm=(".weight", ".bias", ".running_mean", ".running_var"),
    kernel_form=_torch_kernel,
    channel_axes=(1, 0),
)
KERAS = Layout(
    kernel="/kernel",
    depthwise_kernel="/kernel",
    bias="/bias",
    norm=("/gamma", "/beta", "/moving_mean", "/moving_variance"),
    kernel_form=_tensorflow_kernel,
    channel_axes=(-2, -1),
)
SLIM = Layout(
    kernel="/weights",
    depthwise_kernel="/depthwise_weights",
    bias="/biases",
    norm=("/gamma", "/beta", "/moving_mean", "/moving_variance"),
    kernel_form=_tensorflow_kernel,
    channel_axes=(-2, -1),
)
