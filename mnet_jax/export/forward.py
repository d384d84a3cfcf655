"""Folded networks as functions of XLA's plain operations, from which LiteRT's files are made.

Every layer with a kernel is one convolution or matrix product, followed by its bias and its
activation, so that a converter finds the operations of its own format: depthwise convolutions are
grouped convolutions, and pointwise convolutions have kernels of 1x1.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnet_jax.architectures import Layer, NetworkSpec
from mnet_jax.architectures.flow import compute

Array = jax.Array
SIX_TIMES, SIXTH = "six times ", "1/6"
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_SIXTH = np.float32(1 / 6)


class Marks:
    """Hooks for tensors that can be rounded; this class changes nothing."""

    def activation(self, path: str, x: Array) -> Array:
        """Returns an activation, by the path of its quantizer."""
        return x

    def kernel(self, layer: Layer, kernel: Array) -> Array:
        """Returns the kernel of a layer, in the layout of its operation."""
        return kernel

    def linear(self, layer: Layer, y: Array) -> Array:
        """Returns the output of a layer before its activation."""
        return y

    def sixth(self, path: str, x: Array) -> Array:
        """Returns x / 6, where x is six times the hard sigmoid with the quantizer `path`."""
        return x * _SIXTH


def forward(
    spec: NetworkSpec, params: Mapping[str, Any], images: Array, marks: Marks | None = None
) -> Array:
    """Returns the logits [b, classes] of images [b, h, w, 3].

    Args:
      spec: the network.
      params: parameters of the folded network, by path.
      images: scaled as the network takes them.
      marks: what is done with tensors that can be rounded.
    """
    marks = marks or Marks()
    size = (images.shape[1], images.shape[2])
    images = marks.activation("input_quantizer", images)
    return compute(spec, size, images, _Forward(params, marks))


class _Forward:
    """The operations of a network on arrays."""

    def __init__(self, params: Mapping[str, Any], marks: Marks) -> None:
        self._params, self._marks = params, marks

    def layer(self, layer: Layer, x: Array) -> Array:
        y = self._convolution(layer, x) if layer.has_kernel else x * self._params[layer.scale_path]
        y = y + self._params[layer.bias_path] if layer.bias_path else y
        y = self._marks.linear(layer, y)
        path = f"{layer.name}/output_quantizer"
        if layer.activation == "hard_sigmoid":
            return self._marks.sixth(path, _clipped(y + 3))
        if layer.activation == "hard_swish":
            y = self._marks.activation(f"{layer.name}/preactivation_quantizer", y)
        return self._marks.activation(path, _ACTIVATIONS[layer.activation](y))

    def _convolution(self, layer: Layer, x: Array) -> Array:
        kernel = self._params[layer.kernel_path]
        if layer.kind == "dense":
            return x @ self._marks.kernel(layer, kernel)
        if layer.kind == "pointwise":
            kernel = kernel[None, None]
        depthwise = layer.kind == "depthwise"
        if depthwise:
            kernel = kernel[:, :, None]
        return lax.conv_general_dilated(
            x,
            self._marks.kernel(layer, kernel),
            (layer.stride, layer.stride),
            layer.pads,
            rhs_dilation=(layer.dilation, layer.dilation),
            dimension_numbers=_DIMENSIONS,
            feature_group_count=layer.inputs if depthwise else 1,
        )

    def attend(self, layer: Layer, query: Array, key: Array, value: Array) -> Array:
        assert layer.heads
        parts = ((query, layer.heads.queries), (key, layer.heads.keys), (value, layer.heads.keys))
        q, k, v = (_heads_first(x, count) for x, count in parts)
        weights = jax.nn.softmax((q * q.shape[-1] ** -0.5) @ jnp.swapaxes(k, 2, 3), axis=-1)
        return jnp.swapaxes(weights @ v, 1, 2).reshape(query.shape)

    def mean(self, path: str, x: Array) -> Array:
        return self._marks.activation(path, jnp.mean(x, (1, 2)))

    def add(self, path: str, left: Array, right: Array) -> Array:
        return self._marks.activation(path, left + right)

    def scale(self, path: str, x: Array, gate: Array) -> Array:
        return self._marks.activation(path, x * gate[:, None, None, :])


def _gelu(x: Array) -> Array:
    """Computes GELU as one composite operation, by the name that LiteRT's converter knows."""
    gelu = partial(jax.nn.gelu, approximate=False)
    return lax.composite(lambda x, **_: gelu(x), "aten.gelu.default")(x, approximate="none")


def _heads_first(x: Array, heads: int) -> Array:
    """Reshapes [b, h, w, heads * d] to [b, heads, h * w, d]."""
    batch, rows, columns, channels = x.shape
    split = x.reshape(batch, rows * columns, heads, channels // heads)
    return jnp.swapaxes(split, 1, 2)


def _clipped(x: Array) -> Array:
    return jnp.clip(x, 0, 6)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "relu6": _clipped,
    "hard_swish": lambda x: x * (_clipped(x + 3) * _SIXTH),
    "gelu": _gelu,
}
