"""A layer by the kernels, with its first and second derivatives."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal as Primal
from jax.custom_derivatives import SymbolicZero

from mnet_jax.ops.distribution import alike
from mnet_jax.ops.layer import Inverted, Layer, Operands, composed, finished, inverted
from mnet_jax.ops.native import calls
from mnet_jax.ops.native.operation import operation

Array = jax.Array
Function = Callable[..., Any]  # of what is static, and arrays


def _once_a_shape(function: Function) -> Function:
    """Traced once a shape however many layers share it, and one computation without a jit too."""

    def compute(static: Any, *arrays: Array) -> Any:
        return function(static, *alike(*arrays))

    return jax.jit(compute, static_argnums=0)


def _forward_call(layer: Layer, x: Array, norm: Array, kernel: Array) -> tuple[Array, ...]:
    return calls.forward(
        x,
        norm,
        kernel,
        activation=layer.activation,
        geometry=layer.geometry,
        statistics=layer.statistics,
    )


def _gradients_call(layer: Layer, *arguments: Array) -> tuple[Array, ...]:
    x, norm, kernel, y, mean, of_y, of_mean, of_var = arguments
    if layer.statistics:
        count = y.size // y.shape[-1]
        pull = jnp.stack([mean, of_mean / count, 2 * of_var / count])
    else:
        pull = jnp.zeros((3, y.shape[-1]), jnp.float32)
    return calls.backward(
        x,
        norm,
        kernel,
        of_y,
        y,
        pull,
        activation=layer.activation,
        geometry=layer.geometry,
        input_gradient=layer.input_gradient,
    )


def _composed_gradients(layer: Layer, *arguments: Array) -> tuple[Array, ...]:
    """As `_gradients_call`, with y and its mean computed anew."""
    x, norm, kernel, _, _, *given = arguments
    of_x, of_norm, of_kernel = jax.vjp(partial(composed, layer), x, norm, kernel)[1](tuple(given))
    if layer.input_gradient:
        return of_x, of_norm, of_kernel
    return jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.float32), of_kernel


_forward_operation = operation("convolve", _forward_call, composed)
_gradients_operation = operation("gradients", _gradients_call, _composed_gradients)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(layer: Layer, x: Array, norm: Array, kernel: Array) -> tuple[Array, ...]:
    return _forward_operation(layer, x, norm, kernel)


def _convolve_forward(
    layer: Layer, x: Primal, norm: Primal, kernel: Primal
) -> tuple[tuple[Array, ...], tuple[Any, ...]]:
    y, mean, var = _convolve(layer, x.value, norm.value, kernel.value)
    # Images have no gradient to compute. That is no array to keep, but a tree without leaves.
    wanted = x.perturbed or norm.perturbed or kernel.value.ndim != 4
    has_gradient = () if wanted else None
    return (y, mean, var), (has_gradient, x.value, norm.value, kernel.value, y, mean)


def _convolve_backward(
    layer: Layer, kept: tuple[Any, ...], gradients: tuple[Any, ...]
) -> tuple[Array | None, ...]:
    has_gradient, *arguments = kept
    layer = dataclasses.replace(layer, input_gradient=has_gradient is not None)
    *_, y, mean = arguments
    given = (
        jnp.zeros_like(result) if isinstance(g, SymbolicZero) else g
        for g, result in zip(gradients, (y, mean, mean), strict=True)
    )
    of_x, of_norm, of_kernel = _gradients(layer, *arguments, *given)
    return (of_x, of_norm, of_kernel) if layer.input_gradient else (None, None, of_kernel)


_convolve.defvjp(_convolve_forward, _convolve_backward, symbolic_zeros=True)
convolve = _once_a_shape(_convolve)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(layer: Layer, *arguments: Array) -> tuple[Array, ...]:
    """Gradients of x, norm and kernel, given these, y, its mean and the gradients of results.

    Without an `input_gradient` the first two are empty.
    """
    return _gradients_operation(layer, *arguments)


def _gradients_forward(
    layer: Layer, *arguments: Array
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    return _gradients(layer, *arguments), arguments


def _gradients_backward(
    layer: Layer, arguments: tuple[Array, ...], gradients: tuple[Array, ...]
) -> tuple[Array, ...]:
    """Second derivatives, by way of the composition."""
    return jax.vjp(partial(_composed_gradients, layer), *arguments)[1](gradients)


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _for_inference(name: str, kernel: Function, composition: Function) -> Callable[..., Array]:
    """A kernel of (what is static, *arrays) that returns one array, as a function with gradients.

    They are the composition's, as inference is not where gradients are asked for often.
    """
    either = operation(
        name, lambda *given: (kernel(*given),), lambda *given: (composition(*given),)
    )

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def compute(static: Any, *arrays: Array) -> Array:
        (y,) = either(static, *arrays)
        return y

    def forward(static: Any, *arrays: Array) -> tuple[Array, tuple[Array, ...]]:
        return compute(static, *arrays), arrays

    def backward(static: Any, arrays: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
        return jax.vjp(partial(composition, static), *arrays)[1](gradient)

    compute.defvjp(forward, backward)
    return _once_a_shape(compute)


def _finish(layer: Layer, x: Array, kernel: Array, bias: Array) -> Array:
    activation, geometry = layer.activation, layer.geometry
    return calls.finish(x, kernel, bias, activation=activation, geometry=geometry)


def _invert(block: Inverted, *operands: Array) -> Array:
    activations, geometry = block.activations, block.geometry
    return calls.invert(Operands(*operands), activations=activations, geometry=geometry)


def _inverted(block: Inverted, *operands: Array) -> Array:
    return inverted(block, Operands(*operands))


finish = _for_inference("finish", _finish, finished)
invert = _for_inference("invert", _invert, _inverted)
