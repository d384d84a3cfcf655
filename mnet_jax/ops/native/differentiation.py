"""A layer by the kernels, with its first and second derivatives."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import CustomVJPPrimal as Primal
from jax.custom_derivatives import SymbolicZero

from mnet_jax.ops.layer import Inverted, Layer, Operands, composed, finished, inverted
from mnet_jax.ops.native import calls

Array = jax.Array


def _composed_gradients(layer: Layer, *arguments: Array) -> tuple[Array, ...]:
    """The same of their gradients, with y and its mean computed anew."""
    x, norm, kernel, _, _, *given = arguments
    of_x, of_norm, of_kernel = jax.vjp(partial(composed, layer), x, norm, kernel)[1](tuple(given))
    if layer.input_gradient:
        return of_x, of_norm, of_kernel
    return jnp.zeros(0), jnp.zeros(0), of_kernel


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(layer: Layer, x: Array, norm: Array, kernel: Array) -> tuple[Array, ...]:
    compute = partial(
        calls.forward,
        activation=layer.activation,
        geometry=layer.geometry,
        statistics=layer.statistics,
    )
    if not layer.portable:
        return compute(x, norm, kernel)
    return lax.platform_dependent(x, norm, kernel, cpu=compute, default=partial(composed, layer))


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
    given = (jnp.zeros(g.shape, g.dtype) if isinstance(g, SymbolicZero) else g for g in gradients)
    of_x, of_norm, of_kernel = _gradients(layer, *arguments, *given)
    return (of_x, of_norm, of_kernel) if layer.input_gradient else (None, None, of_kernel)


_convolve.defvjp(_convolve_forward, _convolve_backward, symbolic_zeros=True)
# Traced once a shape however many layers share it, and one computation outside of a jit too.
convolve = jax.jit(_convolve, static_argnums=0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(layer: Layer, *arguments: Array) -> tuple[Array, ...]:
    """Gradients of x, norm and kernel, given these, y, its mean and the gradients of results.

    Without an `input_gradient` the first two are empty.
    """

    def compute(
        x: Array,
        norm: Array,
        kernel: Array,
        y: Array,
        mean: Array,
        of_y: Array,
        of_mean: Array,
        of_var: Array,
    ) -> tuple[Array, ...]:
        count = y.size // y.shape[-1]
        if layer.statistics:
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

    if not layer.portable:
        return compute(*arguments)
    default = partial(_composed_gradients, layer)
    return lax.platform_dependent(*arguments, cpu=compute, default=default)


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


def _for_inference(
    kernel: Callable[..., Array], composition: Callable[..., Array]
) -> Callable[..., Array]:
    """A kernel of (what is static, arrays) as a function with gradients.

    They are the composition's, as inference is not where gradients are asked for often.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def compute(static: Any, *arrays: Any) -> Array:
        natively = partial(kernel, static)
        if not static.portable:
            return natively(*arrays)
        composed = partial(composition, static)
        return lax.platform_dependent(*arrays, cpu=natively, default=composed)

    def forward(static: Any, *arrays: Any) -> tuple[Array, tuple[Any, ...]]:
        return compute(static, *arrays), arrays

    def backward(static: Any, arrays: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
        return jax.vjp(partial(composition, static), *arrays)[1](gradient)

    compute.defvjp(forward, backward)
    return jax.jit(compute, static_argnums=0)


def _finish(layer: Layer, x: Array, kernel: Array, bias: Array) -> Array:
    activation, geometry = layer.activation, layer.geometry
    return calls.finish(x, kernel, bias, activation=activation, geometry=geometry)


def _invert(block: Inverted, operands: Operands) -> Array:
    return calls.invert(operands, activations=block.activations, geometry=block.geometry)


finish = _for_inference(_finish, finished)
invert = _for_inference(_invert, inverted)
