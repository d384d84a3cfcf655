"""Fixed-point products equal those of Python's integers, Fractions and NumPy's float64."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest

from mnet_jax.quantization.integer_arithmetic import (
    divide_by_power,
    multiply,
    multiply_double,
    quantize_multiplier,
    split_double,
)

INT32 = np.iinfo(np.int32)
EDGES = [0, 1, -1, 2, -2, 3, -3, INT32.max, INT32.min + 1]


def numbers(count, largest=2**31 - 1):
    """int32 of all magnitudes, with the edges of the range first."""
    rng = np.random.default_rng(0)
    magnitudes = np.exp2(rng.uniform(0, math.log2(largest), count - len(EDGES)))
    drawn = (rng.choice([-1, 1], len(magnitudes)) * magnitudes).astype(np.int64)
    edges = np.clip(EDGES, -largest, largest)
    return np.concatenate([edges, drawn]).astype(np.int32)


def nearest(value):
    """A Fraction rounded to an integer, halves up."""
    return math.floor(value + Fraction(1, 2))


def away(value):
    """A Fraction rounded to an integer, halves away from zero."""
    return nearest(value) if value >= 0 else -nearest(-value)


def test_a_multiplier_is_the_nearest_one_of_31_bits():
    real = np.exp2(np.random.default_rng(0).uniform(-31, 5, 1000))
    multiplier = quantize_multiplier(real)
    assert (multiplier.mantissa >= 2**30).all()
    scale = [Fraction(2) ** (int(e) - 31) for e in multiplier.exponent]
    found = [int(m) * s for m, s in zip(multiplier.mantissa, scale, strict=True)]
    errors = [abs(f - Fraction(r)) / s for f, r, s in zip(found, real, scale, strict=True)]
    assert max(errors) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("real", "mantissa", "exponent"),
    [(0, 0, 0), (1, 2**30, 1), (0.5, 2**30, 0), (1 - 2.0**-40, 2**30, 1), (2.0**-33, 0, 0)],
)
def test_multipliers_at_the_edges(real, mantissa, exponent):
    multiplier = quantize_multiplier(real)
    assert (multiplier.mantissa, multiplier.exponent) == (mantissa, exponent)


@pytest.mark.parametrize("make", [quantize_multiplier, split_double])
@pytest.mark.parametrize("real", [-1.0, math.nan, math.inf])
def test_what_is_no_multiplier_is_refused_in_a_line(make, real):
    with pytest.raises(ValueError, match=r"^multiplier: got .*, legal: .*$"):
        make(real)


def test_a_product_is_rounded_to_its_high_word_and_then_shifted():
    x = numbers(4000)
    real = np.exp2(np.random.default_rng(1).uniform(-31, 0, len(x)))
    real[:1000] = np.exp2(np.floor(np.log2(real[:1000])))  # powers of two, which make halves
    multiplier = quantize_multiplier(real)
    expected = [
        away(Fraction(nearest(Fraction(int(n) * int(m), 2**31)), 2 ** -int(e)))
        if e <= 0
        else nearest(Fraction(int(n) * 2 ** int(e) * int(m), 2**31))
        for n, m, e in zip(x, multiplier.mantissa, multiplier.exponent, strict=True)
        if abs(int(n)) << max(int(e), 0) <= INT32.max
    ]
    fits = np.abs(x.astype(np.int64)) << np.maximum(multiplier.exponent, 0) <= INT32.max
    np.testing.assert_array_equal(np.asarray(jax.jit(multiply)(x, multiplier))[fits], expected)


@pytest.mark.parametrize("nudge", [0, -1, 1], ids=["exact", "below", "above"])
def test_a_product_with_a_double_is_that_of_float64(nudge):
    """With products at halves, and one float64 beside them, which float64 may round to halves."""
    x = numbers(6000)
    rng = np.random.default_rng(2)
    real = np.exp2(rng.uniform(-34, 8, len(x)))
    real[:1000] = np.exp2(np.floor(np.log2(real[:1000])))
    halves = (rng.integers(0, 2**10, 4000) + 0.5) / np.maximum(np.abs(x[1000:5000]), 1)
    real[1000:5000] = np.clip(halves, 2.0**-34, 2**7)
    real = real if nudge == 0 else np.nextafter(real, nudge * np.inf)
    product = x.astype(np.float64) * real
    whole = np.trunc(product)
    expected = whole + np.sign(product) * (np.abs(product - whole) >= 0.5)
    fits = np.abs(expected) < 2**31
    found = np.asarray(jax.jit(multiply_double)(x, split_double(real)))
    np.testing.assert_array_equal(found[fits], expected[fits])


def test_a_product_with_a_tiny_double_is_zero():
    for exponent in (-33, -34, -100, -1000):
        factor = split_double(2.0**exponent)
        assert not np.asarray(multiply_double(numbers(100), factor)).any()


def test_division_by_powers_rounds_halves_away_from_zero():
    x = numbers(500)
    for exponent in (0, 1, 2, 15, 30, 31):
        expected = [away(Fraction(int(n), 2**exponent)) for n in x]
        np.testing.assert_array_equal(divide_by_power(x, exponent), expected)
