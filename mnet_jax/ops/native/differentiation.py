"""The native kernels with their derivatives.

`convolve` computes a layer in training. One kernel computes the forward pass, and another kernel
computes the backward pass. JAX computes the second derivatives by differentiating the reference:
the same layer, computed with JAX operations in `ops.layer`. `finish` and `inverted_residual` are
for inference, and JAX computes all their derivatives by differentiating their references.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal as Primal
from jax.custom_derivatives import SymbolicZero

from mnet_jax.ops.distribution import match_varying_axes
from mnet_jax.ops.layer import (
    InvertedResidualLayer,
    InvertedResidualOperands,
    Layer,
    convolve_reference,
    finish_reference,
    inverted_residual_reference,
)
from mnet_jax.ops.native import calls
from mnet_jax.ops.native.calls import operation

Array = jax.Array
Function = Callable[..., Any]  # its arguments: (static properties, *arrays)


def _jitted(function: Function) -> Function:
    """Wraps a function in `jax.jit`, so that layers of equal shapes are traced once.

    The wrapped function also makes all arrays vary over the same manual mesh axes, as custom
    gradients require.
    """

    def compute(static: Any, *arrays: Array) -> Any:
        return function(static, *match_varying_axes(*arrays))

    return jax.jit(compute, static_argnums=0)


def _native_gradients(layer: Layer, *arguments: Array) -> tuple[Array, ...]:
    x, norm, kernel, y, mean, grad_y, grad_mean, grad_var = arguments
    if layer.statistics:
        count = y.size // y.shape[-1]
        correction = jnp.stack([mean, grad_mean / count, 2 * grad_var / count])
    else:
        correction = jnp.zeros((3, y.shape[-1]), jnp.float32)
    return calls.backward(layer, calls.BackwardOperands(x, norm, kernel, grad_y, y, correction))


def _reference_gradients(layer: Layer, *arguments: Array) -> tuple[Array, ...]:
    """Computes the results of `_native_gradients` with JAX operations.

    The function computes y and its mean again, from x, norm and kernel.
    """
    x, norm, kernel, _, _, *grad_outputs = arguments
    _, pull = jax.vjp(partial(convolve_reference, layer), x, norm, kernel)
    grad_x, grad_norm, grad_kernel = pull(tuple(grad_outputs))
    if layer.input_gradient:
        return grad_x, grad_norm, grad_kernel
    return jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.float32), grad_kernel


_forward_operation = operation("convolve", calls.forward, convolve_reference)
_gradients_operation = operation("gradients", _native_gradients, _reference_gradients)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(layer: Layer, x: Array, norm: Array, kernel: Array) -> tuple[Array, ...]:
    return _forward_operation(layer, x, norm, kernel)


def _convolve_forward(
    layer: Layer, x: Primal, norm: Primal, kernel: Primal
) -> tuple[tuple[Array, ...], tuple[Any, ...]]:
    y, mean, var = _convolve(layer, x.value, norm.value, kernel.value)
    # A full convolution computes the input gradient only if it is used. The gradient of a network's
    # images is not used. Residuals are a pytree of arrays, so the flag is a node without leaves.
    input_gradient = x.perturbed or norm.perturbed or kernel.value.ndim != 4
    flag = () if input_gradient else None
    return (y, mean, var), (flag, x.value, norm.value, kernel.value, y, mean)


def _convolve_backward(
    layer: Layer, residuals: tuple[Any, ...], gradients: tuple[Any, ...]
) -> tuple[Array | None, ...]:
    flag, *arguments = residuals
    layer = dataclasses.replace(layer, input_gradient=flag is not None)
    *_, y, mean = arguments
    grad_outputs = (
        jnp.zeros_like(output) if isinstance(g, SymbolicZero) else g
        for g, output in zip(gradients, (y, mean, mean), strict=True)
    )
    grad_x, grad_norm, grad_kernel = _gradients(layer, *arguments, *grad_outputs)
    return (grad_x, grad_norm, grad_kernel) if layer.input_gradient else (None, None, grad_kernel)


_convolve.defvjp(_convolve_forward, _convolve_backward, symbolic_zeros=True)
convolve = _jitted(_convolve)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(layer: Layer, *arguments: Array) -> tuple[Array, ...]:
    """Computes the gradients of x, norm and kernel.

    The gradients of x and norm are empty if the layer has no `input_gradient`.

    Args:
      layer: the static properties.
      arguments: x, norm, kernel, y, the mean of y, and the gradients of y, of y's mean and of y's
        variance.
    """
    return _gradients_operation(layer, *arguments)


def _gradients_forward(
    layer: Layer, *arguments: Array
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    return _gradients(layer, *arguments), arguments


def _gradients_backward(
    layer: Layer, arguments: tuple[Array, ...], gradients: tuple[Array, ...]
) -> tuple[Array, ...]:
    """Computes second derivatives by differentiating the reference, not the native kernel."""
    return jax.vjp(partial(_reference_gradients, layer), *arguments)[1](gradients)


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _for_inference(name: str, kernel: Function, reference: Function) -> Callable[..., Array]:
    """Returns an operation with one result, whose gradients are those of `reference`.

    Args:
      name: name of the primitive.
      kernel: maps (static properties, *arrays) to an array, on this process's CPU.
      reference: the same function, computed with JAX operations.
    """
    primitive = operation(
        name,
        lambda *arguments: (kernel(*arguments),),
        lambda *arguments: (reference(*arguments),),
    )

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def compute(static: Any, *arrays: Array) -> Array:
        (y,) = primitive(static, *arrays)
        return y

    def forward(static: Any, *arrays: Array) -> tuple[Array, tuple[Array, ...]]:
        return compute(static, *arrays), arrays

    def backward(static: Any, arrays: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
        return jax.vjp(partial(reference, static), *arrays)[1](gradient)

    compute.defvjp(forward, backward)
    return _jitted(compute)


def _native_inverted_residual(block: InvertedResidualLayer, *operands: Array) -> Array:
    return calls.inverted_residual(block, InvertedResidualOperands(*operands))


def _reference_inverted_residual(block: InvertedResidualLayer, *operands: Array) -> Array:
    return inverted_residual_reference(block, InvertedResidualOperands(*operands))


finish = _for_inference("finish", calls.finish, finish_reference)
inverted_residual = _for_inference(
    "inverted_residual", _native_inverted_residual, _reference_inverted_residual
)
