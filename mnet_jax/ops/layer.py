"""A layer composed of what JAX can differentiate: what faster ways must equal."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mnet_jax.architectures.spec import Activation
from mnet_jax.ops import panels
from mnet_jax.ops.distribution import sharded_axes
from mnet_jax.ops.lowering import convolve_depthwise
from mnet_jax.ops.pending import Finish, Pending
from mnet_jax.ops.shifted import Geometry
from mnet_jax.ops.types import Lowering
from mnet_jax.validation import require

Array = jax.Array


@dataclass(frozen=True)
class Layer:
    """What is static of a layer; it is pointwise without a geometry, else its kernel says which.

    `activation` is what comes before the convolution; but with a bias there is nothing before, and
    it is what comes after. `input_gradient` is whether anyone wants those of x and of its norm.
    """

    activation: Activation
    geometry: Geometry | None
    statistics: bool
    input_gradient: bool = True


class Convolved(NamedTuple):
    """What a convolution gives.

    Attributes:
      y: the feature map, [..., n].
      mean: float32 [n], over all axes of y but the last; None if not asked for.
      var: the same of the biased variance.
    """

    y: Array
    mean: Array | None = None
    var: Array | None = None


def measured(y: Array) -> Convolved:
    """A feature map with its statistics, which are taken in float32."""
    wide, axes = y.astype(jnp.float32), tuple(range(y.ndim - 1))
    mean = jnp.mean(wide, axes)
    return Convolved(y, mean, jnp.maximum(jnp.mean(wide * wide, axes) - mean * mean, 0))


def linear(z: Array, kernel: Array, layer: Layer, lowering: Lowering) -> Array:
    """The convolution of z by itself, neither native nor normalized."""
    if layer.geometry and kernel.ndim == 3:
        return convolve_depthwise(z, kernel, layer.geometry, lowering)
    if layer.geometry:
        legal = "neither of them sharded over channels"  # JAX does not derive how the result is
        mixed = (*sharded_axes(z)[3:], *sharded_axes(kernel))
        shardings = tuple(jax.typeof(array).sharding.spec for array in (z, kernel))
        require(not any(mixed), "x and kernel", shardings, legal)
        return lax.conv_general_dilated(
            z,
            kernel,
            [axis.stride for axis in layer.geometry],
            [(axis.low, axis.high) for axis in layer.geometry],
            rhs_dilation=[axis.dilation for axis in layer.geometry],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    if any(sharded_axes(z)):
        return z @ kernel
    # Flat: a product over three batch axes has a kernel gradient that XLA's CPU compiler runs up
    # to 2.5 times slower.
    return (z.reshape(-1, z.shape[-1]) @ kernel).reshape(*z.shape[:-1], kernel.shape[-1])


def composed(layer: Layer, x: Array, norm: Array, kernel: Array) -> tuple[Array, ...]:
    """What the native kernels compute, composed of what JAX can differentiate.

    That is y, its mean and its variance; the last two are empty where they are not wanted.
    """
    z = Pending(x=x, norm=norm, activation=layer.activation).value()
    y = linear(z, kernel, layer, "auto")
    if layer.statistics:
        return tuple(part for part in measured(y) if part is not None)
    return y, jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.float32)


def finished(layer: Layer, x: Array, kernel: Array, bias: Array) -> Array:
    """The same for a layer with a bias, whose kernel may be panels."""
    if kernel.ndim == 1:
        kernel = panels.unpack(kernel, x.shape[-1], bias.shape[0])
    y = linear(x, kernel, layer, "auto")
    return Finish(bias=bias, activation=layer.activation).of(y)


@dataclass(frozen=True)
class Inverted:
    """What is static of an inverted residual: the activations of its layers, else as of `Layer`."""

    activations: tuple[Activation, Activation, Activation]
    geometry: Geometry


class Operands(NamedTuple):
    """What an inverted residual is computed of; what there is not is empty.

    Attributes:
      x: [b, h, w, c].
      expand: pointwise kernel [c, e] or its panels; empty where x is expanded already.
      expand_bias: [e]; empty likewise.
      kernel: depthwise, [k, k, e].
      bias: [e].
      project: pointwise kernel [e, n] or its panels.
      project_bias: [n].
      skip: [b, h', w', n], added to what is projected, which nothing activates then; or empty.
    """

    x: Array
    expand: Array
    expand_bias: Array
    kernel: Array
    bias: Array
    project: Array
    project_bias: Array
    skip: Array


def inverted(block: Inverted, of: Operands) -> Array:
    """The block [b, h', w', n], layer by layer."""
    widen, between, narrow = (
        Layer(activation, geometry, statistics=False)
        for activation, geometry in zip(
            block.activations, (None, block.geometry, None), strict=True
        )
    )
    x = finished(widen, of.x, of.expand, of.expand_bias) if of.expand.size else of.x
    x = finished(between, x, of.kernel, of.bias)
    y = finished(narrow, x, of.project, of.project_bias)
    return y + of.skip if of.skip.size else y
