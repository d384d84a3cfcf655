"""The arithmetic of LiteRT's int8 operations in 32-bit integers.

An `Affine` says for which real numbers an int8 tensor stands. An operation rescales an accumulator
by a real number, such as the product of two steps divided by a third. In most operations this
number is a `Multiplier`: a 31-bit mantissa and a power of two (arXiv 1712.05877, section 2.2). In
the matrix product it is a float64 (`Double`). JAX has neither 64-bit integers nor float64 unless
they are enabled for the whole process, so products are computed as words of 32 bits.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnet_jax.validation import require

Array = jax.Array

LOWEST, HIGHEST = -128, 127
INT32_RANGE = -(2**31), 2**31 - 1
LARGEST_WEIGHT = 127  # the range of weights is symmetric
MANTISSA_BITS = 31
DOUBLE_BITS = 53
SMALLEST_EXPONENT = -31  # TFLite makes smaller multipliers 0
SMALLEST_DOUBLE = 2.0**-33  # smaller numbers give 0 for every int32


class Affine(NamedTuple):
    """The map from int8 to real numbers: the integer q stands for (q - zero) * step.

    Attributes:
      step: distance of neighbouring numbers, a float32 above 0.
      zero: the integer that stands for 0.
    """

    step: Any
    zero: Any


def quantize(x: Array, affine: Affine) -> Array:
    """Rounds real numbers to int8, halves away from zero (LiteRT's `QUANTIZE`)."""
    steps = lax.round(x.astype(jnp.float32) / affine.step, lax.RoundingMethod.AWAY_FROM_ZERO)
    # Limited as floats, since int32 cannot hold all of them.
    limited = jnp.clip(steps, LOWEST - HIGHEST, HIGHEST - LOWEST)
    return to_int8(limited.astype(jnp.int32) + affine.zero)


def dequantize(x: Array, affine: Affine) -> Array:
    """Returns the float32 numbers for which int8 numbers stand (LiteRT's `DEQUANTIZE`)."""
    return (x.astype(jnp.int32) - affine.zero).astype(jnp.float32) * affine.step


def quantize_weights(kernel: Any, step: Any) -> np.ndarray:
    """Returns int8 weights from -127 to 127; `step` is () or, for each output channel, [n]."""
    steps = round_away(as_double(kernel) / as_double(step))
    return np.clip(steps, -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)


def quantize_bias(bias: Any, kernel_step: Any, input_step: Any) -> np.ndarray:
    """Returns an int32 bias [n] in the unit of the accumulator, the product of the two steps.

    Args:
      bias: real [n]; it saturates at 32 bits.
      kernel_step: of the layer's kernel, () or [n].
      input_step: of the layer's input.
    """
    units = round_away(as_double(bias) / (as_double(input_step) * as_double(kernel_step)))
    return np.clip(units, *INT32_RANGE).astype(np.int32)


def round_away(x: np.ndarray) -> np.ndarray:
    """Rounds to nearest, halves away from zero, as LiteRT's converter does."""
    whole = np.trunc(x)
    return whole + np.sign(x) * (np.abs(x - whole) >= 0.5)


def as_double(x: Any) -> np.ndarray:
    """Rounds to float32, the type in LiteRT's files, and returns the result as float64."""
    return np.asarray(x, np.float32).astype(np.float64)


def to_int8(x: Array, low: Any = LOWEST, high: Any = HIGHEST) -> Array:
    """Clips integers to the range from `low` to `high`, and returns them as int8."""
    return jnp.clip(x, low, high).astype(jnp.int8)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Multiplier:
    """A number of 0 or more: mantissa * 2^(exponent - 31).

    Attributes:
      mantissa: int32, 0 or 2^30 to 2^31 - 1; a scalar or one for each channel.
      exponent: int32, of the same shape.
    """

    mantissa: Any
    exponent: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Double:
    """A float64 of 0 or more: (high * 2^32 + low) * 2^(exponent - 53).

    Attributes:
      high: uint32, 0 or 2^20 to 2^21 - 1; a scalar or one for each channel.
      low: uint32, of the same shape.
      exponent: int32, of the same shape.
    """

    high: Any
    low: Any
    exponent: Any


def quantize_multiplier(real: Any) -> Multiplier:
    """Returns the multipliers nearest to real numbers, as TFLite's `QuantizeMultiplier`.

    Args:
      real: a number or array of numbers, 0 or more, in float64.

    Raises:
      ValueError: a number is negative, infinite or NaN.
    """
    numbers = np.asarray(real, np.float64)
    legal = bool((np.isfinite(numbers) & (numbers >= 0)).all())
    require(legal, "multiplier", numbers.tolist(), "finite and 0 or more")
    fraction, exponent = np.frexp(numbers)
    mantissa = np.floor(fraction * 2.0**MANTISSA_BITS + 0.5).astype(np.int64)  # halves go up
    carried = mantissa == 1 << MANTISSA_BITS
    mantissa, exponent = np.where(carried, mantissa // 2, mantissa), exponent + carried
    vanishes = exponent < SMALLEST_EXPONENT
    mantissa = np.where(vanishes, 0, mantissa).astype(np.int32)
    return Multiplier(mantissa, np.where(vanishes, 0, exponent).astype(np.int32))


def split_double(real: Any) -> Double:
    """Converts float64 numbers to `Double`; numbers below `SMALLEST_DOUBLE` become 0.

    Args:
      real: a number or array of numbers from 0 to below 2^8.

    Raises:
      ValueError: a number is outside this range.
    """
    numbers = np.asarray(real, np.float64)
    legal = bool(((numbers >= 0) & (numbers < 2.0**8)).all())
    require(legal, "multiplier", numbers.tolist(), "0 to below 2^8")
    fraction, exponent = np.frexp(np.where(numbers < SMALLEST_DOUBLE, 0, numbers))
    mantissa = (fraction * 2.0**DOUBLE_BITS).astype(np.int64)
    return Double(
        (mantissa >> 32).astype(np.uint32),
        (mantissa & 0xFFFFFFFF).astype(np.uint32),
        exponent.astype(np.int32),
    )


def multiply(x: Array, multiplier: Multiplier) -> Array:
    """Multiplies int32 by a multiplier, as TFLite's `MultiplyByQuantizedMultiplier`.

    Like TFLite, rounds twice: once after multiplying by mantissa / 2^31, and once after dividing by
    the remaining power of two.

    Args:
      x: int32 [..., c].
      multiplier: of shape () or [c].

    Returns:
      int32 of the shape of x.
    """
    exponent = jnp.asarray(multiplier.exponent, jnp.int32)
    left, right = jnp.maximum(exponent, 0), jnp.maximum(-exponent, 0)
    high, low = _signed_product(x << left, jnp.asarray(multiplier.mantissa, jnp.int32))
    # The product plus 2^30, divided by 2^31: halves are rounded up.
    carry = low >= jnp.uint32(2**32 - 2**30)
    rounded = low + jnp.uint32(2**30)
    return divide_by_power((high + carry << 1) | (rounded >> 31).astype(jnp.int32), right)


def multiply_double(x: Array, factor: Double) -> Array:
    """Returns C's `round((double)x * factor)`.

    The product is rounded to float64, and then to an integer, halves away from zero.

    Args:
      x: int32 [..., c].
      factor: of shape () or [c].

    Returns:
      int32 of the shape of x; results beyond 32 bits are wrong.
    """
    low, middle, high = _wide_product(jnp.abs(x).astype(jnp.uint32), factor)
    # Rounding to 53 bits takes a product to the next integer and a half if it is at most half a
    # unit in the last place below it. So adding half a unit does the same as this rounding.
    bits = jnp.where(high > 0, 96 - _leading_zeros(high), 64 - _leading_zeros(middle))
    half = (jnp.uint32(1) << jnp.maximum(bits - DOUBLE_BITS, 0).astype(jnp.uint32)) >> 1
    carry = (low + half < half).astype(jnp.uint32)
    middle, high = middle + carry, high + (middle + carry < carry)
    # All but one of the bits to drop, of which `low` has 32; the last one decides the rounding.
    drop = (DOUBLE_BITS - 33 - jnp.asarray(factor.exponent, jnp.int32)).astype(jnp.uint32)
    beyond, within = drop >= 32, drop & 31
    lower, upper = jnp.where(beyond, high, middle), jnp.where(beyond, 0, high)
    # upper << (32 - within) in two steps, because a shift by 32 is not defined.
    twice = (lower >> within) | (upper << (31 - within) << 1)
    return jnp.sign(x) * ((twice >> 1) + (twice & 1)).astype(jnp.int32)


def divide_by_power(x: Array, exponent: Any) -> Array:
    """Divides int32 by 2^exponent (0 to 31) and rounds to nearest, halves away from zero."""
    exponent = jnp.asarray(exponent, jnp.int32)
    # The mask of 31 bits is 2^31 - 1, by wrapping.
    mask = jnp.where(exponent == 0, 0, (2 << jnp.maximum(exponent - 1, 0)) - 1)
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + ((x & mask) > threshold)


def _signed_product(x: Array, y: Array) -> tuple[Array, Array]:
    """Returns the high word (int32) and the low word (uint32) of the 64-bit product of int32.

    From Hacker's Delight, section 8-2.
    """
    x_low, x_high, y_low, y_high = x & 0xFFFF, x >> 16, y & 0xFFFF, y >> 16
    lowest = x_low.astype(jnp.uint32) * y_low.astype(jnp.uint32)
    middle = x_high * y_low + (lowest >> 16).astype(jnp.int32)
    other = x_low * y_high + (middle & 0xFFFF)
    high = x_high * y_high + (middle >> 16) + (other >> 16)
    return high, x.astype(jnp.uint32) * y.astype(jnp.uint32)


def _product(x: Array, y: Array) -> tuple[Array, Array]:
    """Returns the high and the low word (both uint32) of the 64-bit product of uint32."""
    x_low, x_high, y_low, y_high = x & 0xFFFF, x >> 16, y & 0xFFFF, y >> 16
    middle = x_high * y_low + (x_low * y_low >> 16)
    other = x_low * y_high + (middle & 0xFFFF)
    return x_high * y_high + (middle >> 16) + (other >> 16), x * y


def _wide_product(x: Array, factor: Double) -> tuple[Array, Array, Array]:
    """Returns x times the mantissa of a `Double` as three uint32 words, the lowest first."""
    high, low = (jnp.asarray(word, jnp.uint32) for word in (factor.high, factor.low))
    carried, lowest = _product(x, low)
    highest, middle = _product(x, high)
    middle = middle + carried
    return lowest, middle, highest + (middle < carried)


def _leading_zeros(x: Array) -> Array:
    return lax.clz(x).astype(jnp.int32)
