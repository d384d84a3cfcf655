"""Layers in differentiable JAX operations: the reference that the native kernels must match."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mnet_jax.architectures.spec import Activation
from mnet_jax.ops import panels
from mnet_jax.ops.activations import activate
from mnet_jax.ops.distribution import sharded_axes
from mnet_jax.ops.lowering import convolve_depthwise
from mnet_jax.ops.shifted import Geometry
from mnet_jax.ops.types import Lowering
from mnet_jax.validation import require

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A feature map `act((x - mean) * scale + bias)` that is not yet computed. A pytree.

    Once the statistics are known, batch normalization is one multiplication and one addition per
    value. As a separate operation, batch normalization would read and write the whole feature map
    for almost no arithmetic. Instead, the next convolution can normalize the values while it reads
    them.

    Attributes:
      x: output of a convolution, [..., c].
      norm: float32 [3, c], the rows mean, scale and bias; None if x is not normalized.
      activation: applied after the normalization.
    """

    x: Array
    norm: Array | None = None
    activation: Activation = "linear"

    def value(self) -> Array:
        """Returns the feature map in x's dtype; the normalization is in float32 or wider."""
        if self.norm is None:
            return activate(self.x, self.activation)
        mean, scale, bias = (over_channels(row, self.x) for row in self.norm)
        return activate((self.x - mean) * scale + bias, self.activation).astype(self.x.dtype)


jax.tree_util.register_dataclass(Pending, data_fields=["x", "norm"], meta_fields=["activation"])


@dataclass(frozen=True, kw_only=True)
class Finish:
    """A bias and an activation to apply to a convolution's output y: `act(y + bias)`. A pytree.

    Attributes:
      bias: float32 [n].
      activation: applied after the bias.
    """

    bias: Array
    activation: Activation = "linear"

    def of(self, y: Array) -> Array:
        """Returns `act(y + bias)` in y's dtype, for y [..., n]; computes in float32 or wider."""
        return activate(y + over_channels(self.bias, y), self.activation).astype(y.dtype)


jax.tree_util.register_dataclass(Finish, data_fields=["bias"], meta_fields=["activation"])


class Convolved(NamedTuple):
    """The output of a convolution, with its mean and variance if they were requested.

    Attributes:
      y: the feature map, [..., n].
      mean: float32 [n], over all axes of y but the last; None if not requested.
      var: biased variance, float32 [n], over the same axes; None if not requested.
    """

    y: Array
    mean: Array | None = None
    var: Array | None = None


@dataclass(frozen=True)
class Layer:
    """The properties of a layer that are static under `jax.jit`: all but its arrays.

    Attributes:
      activation: applied before the convolution; in a layer with a bias, after the bias.
      geometry: rows and columns of a depthwise or full convolution (the rank of the kernel decides
        which of the two); None for a pointwise convolution.
      statistics: whether to compute the mean and the variance of the output.
      input_gradient: whether to compute the gradients of the layer's `x` and `norm` (`Pending`).
    """

    activation: Activation
    geometry: Geometry | None
    statistics: bool
    input_gradient: bool = True


@dataclass(frozen=True)
class InvertedResidualLayer:
    """The properties of an inverted residual that are static under `jax.jit`: all but its arrays.

    Attributes:
      activations: of the expansion, the depthwise convolution and the projection.
      geometry: rows and columns of the depthwise convolution.
    """

    activations: tuple[Activation, Activation, Activation]
    geometry: Geometry


class InvertedResidualOperands(NamedTuple):
    """The arrays of an inverted residual; arrays of missing parts are empty.

    Panels hold a pointwise kernel in the order in which the native kernels read it (`ops.panels`).

    Attributes:
      x: [b, h, w, c].
      expand: pointwise kernel [c, e] or panels; empty without an expansion.
      expand_bias: [e]; empty without an expansion.
      kernel: depthwise kernel [k, k, e].
      bias: of the depthwise convolution, [e].
      project: pointwise kernel [e, n] or panels.
      project_bias: [n].
      skip: [b, h', w', n], added to the output of the projection, whose activation must be linear;
        empty without a shortcut.
    """

    x: Array
    expand: Array
    expand_bias: Array
    kernel: Array
    bias: Array
    project: Array
    project_bias: Array
    skip: Array


def convolve_reference(layer: Layer, x: Array, norm: Array, kernel: Array) -> tuple[Array, ...]:
    """Computes a layer in training with JAX operations; the reference for `native.convolve`.

    Returns:
      y, its mean and its variance. Without `layer.statistics`, mean and variance are arrays of
      size 0.
    """
    z = Pending(x=x, norm=norm, activation=layer.activation).value()
    y = linear(z, kernel, layer, "auto")
    if layer.statistics:
        return tuple(part for part in with_statistics(y) if part is not None)
    return y, jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.float32)


def finish_reference(layer: Layer, x: Array, kernel: Array, bias: Array) -> Array:
    """Computes a layer in inference with JAX operations.

    A pointwise kernel may be given as panels, the order in which the native kernels read it; see
    `ops.panels`.
    """
    if kernel.ndim == 1:
        kernel = panels.unpack(kernel, x.shape[-1], bias.shape[0])
    y = linear(x, kernel, layer, "auto")
    return Finish(bias=bias, activation=layer.activation).of(y)


def inverted_residual_reference(
    block: InvertedResidualLayer, of: InvertedResidualOperands
) -> Array:
    """Returns the output [b, h', w', n] of an inverted residual, computed with JAX operations."""
    widen, between, narrow = (
        Layer(activation, geometry, statistics=False)
        for activation, geometry in zip(
            block.activations, (None, block.geometry, None), strict=True
        )
    )
    x = finish_reference(widen, of.x, of.expand, of.expand_bias) if of.expand.size else of.x
    x = finish_reference(between, x, of.kernel, of.bias)
    y = finish_reference(narrow, x, of.project, of.project_bias)
    return y + of.skip if of.skip.size else y


def linear(z: Array, kernel: Array, layer: Layer, lowering: Lowering) -> Array:
    """Returns the convolution of z, without activation and bias, computed with JAX operations."""
    if layer.geometry and kernel.ndim == 3:
        return convolve_depthwise(z, kernel, layer.geometry, lowering)
    if layer.geometry:
        # JAX cannot derive how the result is sharded.
        legal = "neither of them sharded over channels"
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
    # Flattened: with three batch axes, the kernel's gradient is up to 2.5 times slower in XLA's CPU
    # compiler.
    return (z.reshape(-1, z.shape[-1]) @ kernel).reshape(*z.shape[:-1], kernel.shape[-1])


def with_statistics(y: Array) -> Convolved:
    """Returns a feature map with its mean and variance, computed in float32."""
    wide, axes = y.astype(jnp.float32), tuple(range(y.ndim - 1))
    mean = jnp.mean(wide, axes)
    return Convolved(y, mean, jnp.maximum(jnp.mean(wide * wide, axes) - mean * mean, 0))


def over_channels(values: Array, x: Array) -> Array:
    """Reshapes per-channel values [c] to [1, ..., 1, c], with as many axes as x [..., c].

    JAX itself would broadcast [c] to x, but a program can forbid this (`jax_numpy_rank_promotion`).
    """
    return jnp.expand_dims(values, range(x.ndim - 1))


def identity_norm(channels: int) -> Array:
    """Returns the `Pending.norm` [3, channels] that leaves a feature map unchanged."""
    return jnp.zeros((3, channels), jnp.float32).at[1].set(1)
