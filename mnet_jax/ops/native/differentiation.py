"""The native kernels with their derivatives.

`convolve` is a layer in training. One kernel computes its forward pass, another its backward pass.
JAX computes the second derivatives by differentiating the composition: the same layer, composed of
JAX operations in `ops.layer`. `finish` and `invert` are for inference, and JAX computes all their
derivatives by differentiating their compositions.
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
from mnet_jax.ops.layer import Inverted, Layer, Operands, composed, finished, inverted
from mnet_jax.ops.native import calls
from mnet_jax.ops.native.calls import operation

Array = jax.Array
Function = Callable[..., Any]  # its arguments: (static properties, *arrays)


def _jitted(function: Function) -> Function:
    """Wraps a function in `jax.jit`, so that layers of equal shapes are traced once.

    The result also makes all arrays vary over the same manual mesh axes, as custom gradients
    require.
    """

    def compute(static: Any, *arrays: Array) -> Any:
        return function(static, *match_varying_axes(*arrays))

    return jax.jit(compute, static_argnums=0)


def _native_gradients(layer: Layer, *arguments: Array) -> tuple[Array, ...]:
    x, norm, kernel, y, mean, of_y, of_mean, of_var = arguments
    if layer.statistics:
        count = y.size // y.shape[-1]
        correction = jnp.stack([mean, of_mean / count, 2 * of_var / count])
    else:
        correction = jnp.zeros((3, y.shape[-1]), jnp.float32)
    return calls.backward(layer, calls.BackwardOperands(x, norm, kernel, of_y, y, correction))


def _composed_gradients(layer: Layer, *arguments: Array) -> tuple[Array, ...]:
    """Computes the results of `_native_gradients` with JAX; y and its mean are computed again."""
    x, norm, kernel, _, _, *of_outputs = arguments
    _, pull = jax.vjp(partial(composed, layer), x, norm, kernel)
    of_x, of_norm, of_kernel = pull(tuple(of_outputs))
    if layer.input_gradient:
        return of_x, of_norm, of_kernel
    return jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.float32), of_kernel


_forward_operation = operation("convolve", calls.forward, composed)
_gradients_operation = operation("gradients", _native_gradients, _composed_gradients)


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
    of_outputs = (
        jnp.zeros_like(output) if isinstance(g, SymbolicZero) else g
        for g, output in zip(gradients, (y, mean, mean), strict=True)
    )
    of_x, of_norm, of_kernel = _gradients(layer, *arguments, *of_outputs)
    return (of_x, of_norm, of_kernel) if layer.input_gradient else (None, None, of_kernel)


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
    """Computes second derivatives by differentiating the composition, not the native kernel."""
    return jax.vjp(partial(_composed_gradients, layer), *arguments)[1](gradients)


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _for_inference(name: str, kernel: Function, composition: Function) -> Callable[..., Array]:
    """Returns an operation with one result, whose gradients are those of `composition`.

    Args:
      name: name of the primitive.
      kernel: maps (static properties, *arrays) to an array, on this process's CPU.
      composition: the same function, composed of JAX operations.
    """
    primitive = operation(
        name,
        lambda *arguments: (kernel(*arguments),),
        lambda *arguments: (composition(*arguments),),
    )

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def compute(static: Any, *arrays: Array) -> Array:
        (y,) = primitive(static, *arrays)
        return y

    def forward(static: Any, *arrays: Array) -> tuple[Array, tuple[Array, ...]]:
        return compute(static, *arrays), arrays

    def backward(static: Any, arrays: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
        return jax.vjp(partial(composition, static), *arrays)[1](gradient)

    compute.defvjp(forward, backward)
    return _jitted(compute)


def _native_inverted(block: Inverted, *operands: Array) -> Array:
    return calls.invert(block, Operands(*operands))


def _composed_inverted(block: Inverted, *operands: Array) -> Array:
    return inverted(block, Operands(*operands))


finish = _for_inference("finish", calls.finish, finished)
invert = _for_inference("invert", _native_inverted, _composed_inverted)
