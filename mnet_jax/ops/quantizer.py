"""Uniform quantization of arrays, and its simulation in floating point with gradients.

A quantizer maps a real number x to an integer, and the integer back to a real number:

    q = clip(round(x / step) + zero, low, high)
    x' = (q - zero) * step

`round` rounds halves to even. A `step` of 0 stands for a quantizer that is off: x' = x.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnet_jax.validation import require

Array = jax.Array


class IntegerRange(NamedTuple):
    """The smallest and the largest integer of a quantizer."""

    low: int
    high: int


def integer_range(bits: int, *, narrow: bool = False) -> IntegerRange:
    """Returns the smallest and the largest integer of `bits` bits in two's complement.

    Args:
      bits: 2 to 8.
      narrow: whether the smallest integer is left out, so that the range is symmetric about zero,
        as LiteRT requires of weights.

    Raises:
      ValueError: bits is not legal.
    """
    require(2 <= bits <= 8, "bits", bits, "2 to 8")
    half = 2 ** (bits - 1)
    return IntegerRange(narrow - half, half - 1)


def quantize(x: Array, step: Array, zero: Array, bounds: IntegerRange) -> Array:
    """Returns the integers that represent x, as int32 of x's shape.

    Args:
      x: floating point.
      step: above 0; broadcasts to x.
      zero: the integer that represents 0, in floating point; broadcasts to x.
      bounds: the quantizer's smallest and largest integer.
    """
    return jnp.clip(jnp.round(x / step) + zero, *bounds).astype(jnp.int32)


def dequantize(q: Array, step: Array, zero: Array) -> Array:
    """Returns the float32 numbers that integers represent; see `quantize` for the arguments."""
    return (q.astype(jnp.float32) - zero) * step


@jax.custom_vjp
def fake_quantize(x: Array, step: Array, zero: Array, low: Array, high: Array) -> Array:
    """Rounds x to the numbers that a quantizer represents: `dequantize(quantize(x))`.

    The gradient with respect to x is that of the straight-through estimator (arXiv 1308.3432):
    `round` counts as the identity, so the gradient passes where x is in the quantizer's range and
    is 0 outside. The gradient with respect to the step is that of LSQ (arXiv 1902.08153, equation
    3), without LSQ's scaling of this gradient. There is no gradient with respect to `zero`, `low`
    and `high`.

    Args:
      x: floating point.
      step: (), or [1, ..., 1, c] of x's rank; where it is 0, the result is x.
      zero: integer in floating point, of the step's shape.
      low: smallest integer of the quantizer, in floating point.
      high: largest integer.

    Returns:
      An array of x's shape and dtype.
    """
    return _rounded(x, step, zero, low, high)[0]


def _rounded(
    x: Array, step: Array, zero: Array, low: Array, high: Array
) -> tuple[Array, Array, Array]:
    """Returns the result of `fake_quantize`, x / step, and the quantized integer minus zero."""
    ratio = x.astype(jnp.float32) / jnp.where(step == 0, 1, step)
    centred = jnp.clip(jnp.round(ratio), low - zero, high - zero)
    return jnp.where(step == 0, x, (centred * step).astype(x.dtype)), ratio, centred


def _forward(x: Array, step: Array, zero: Array, low: Array, high: Array) -> tuple[Array, tuple]:
    return fake_quantize(x, step, zero, low, high), (x, step, zero, low, high)


def _backward(saved: tuple, gradient: Array) -> tuple[Array | None, ...]:
    x, step, zero, low, high = saved
    _, ratio, centred = _rounded(x, step, zero, low, high)
    inside = (ratio >= low - zero) & (ratio <= high - zero)
    of_step = jnp.where(inside, centred - ratio, centred) * gradient
    # First over all axes but the last: XLA's CPU compiler vectorizes this, and not a sum over all.
    of_step = jnp.sum(of_step, tuple(range(x.ndim - 1)), keepdims=True)
    if step.size == 1:
        of_step = jnp.sum(of_step, keepdims=True)
    of_step = jnp.where(step == 0, 0, of_step.reshape(step.shape))
    of_x = jnp.where(inside | (step == 0), gradient, 0)
    return of_x, of_step.astype(step.dtype), jnp.zeros_like(zero), None, None


fake_quantize.defvjp(_forward, _backward)
