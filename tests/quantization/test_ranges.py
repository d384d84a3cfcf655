"""Steps and zeros from values: what is representable, and which choice has the smaller error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet_jax.ops.quantizer import integer_range
from mnet_jax.quantization import ranges

BITS = st.integers(2, 8)
SEEDS = st.integers(0, 2**16)
each = settings(max_examples=60, deadline=None, derandomize=True)
METHODS = ("min-max", "percentile", "mse")


def kernel_of(seed, spread=2.0):
    """[3, 3, 16, 6]; the deviation differs between channels by a power of ten to `spread`."""
    rng = np.random.default_rng(seed)
    deviations = 10 ** rng.uniform(-spread / 2, spread / 2, 6)
    return (rng.normal(0, 1, (3, 3, 16, 6)) * deviations).astype(np.float32)


def rounded_by_definition(values, step, zero, bounds):
    """clip(round(x / step) + zero, low, high), back as a real number."""
    q = np.clip(np.round(values / step) + zero, *bounds)
    return (q - zero) * step


def error(values, bounds, **how):
    step, zero = ranges.choose(values, bounds, **how)
    return ((ranges.rounded(values, step, zero, bounds) - values) ** 2).mean(axis=(0, 1, 2))


@each
@given(bits=BITS, seed=SEEDS, symmetric=st.booleans(), per_channel=st.booleans())
def test_min_max_rounds_every_value_by_half_a_step_at_most(bits, seed, symmetric, per_channel):
    bounds = integer_range(bits, narrow=symmetric)
    values = kernel_of(seed) + (0 if symmetric else np.float32(0.3))
    step, zero = ranges.choose(values, bounds, symmetric=symmetric, per_channel=per_channel)
    assert step.shape == zero.shape == ((6,) if per_channel else ())
    expected = rounded_by_definition(np.float64(values), np.float64(step), zero, bounds)
    found = ranges.rounded(values, step, zero, bounds)
    # A value in the middle between two levels may fall to either side.
    assert np.mean(np.abs(found - expected) > 1e-3 * step) < 1e-3
    # The zero of an asymmetric quantizer is rounded, which moves the range by half a step.
    assert np.all(np.abs(found - values) <= step * ((0.5 if symmetric else 1) + 1e-3))
    assert np.all(ranges.rounded(np.zeros(6, np.float32), step, zero, bounds) == 0)
    again = ranges.rounded(found, step, zero, bounds)
    np.testing.assert_allclose(again, found, rtol=1e-6)


@each
@given(bits=BITS, seed=SEEDS, symmetric=st.booleans(), method=st.sampled_from(METHODS))
def test_a_step_per_channel_is_never_larger_and_its_error_neither(bits, seed, symmetric, method):
    bounds, values = integer_range(bits, narrow=symmetric), kernel_of(seed)
    how = {"symmetric": symmetric, "method": method}
    if method == "min-max":
        steps = [
            ranges.choose(values, bounds, **how, per_channel=each)[0] for each in (True, False)
        ]
        assert np.all(steps[0] <= steps[1] * (1 + 1e-6))
    alone, together = (error(values, bounds, **how, per_channel=each) for each in (True, False))
    assert alone.mean() <= together.mean() * (1 + 1e-6)


@each
@given(bits=BITS, seed=SEEDS, symmetric=st.booleans(), per_channel=st.booleans())
def test_the_range_of_least_squared_error_has_no_larger_error_than_the_whole(
    bits, seed, symmetric, per_channel
):
    bounds, values = integer_range(bits, narrow=symmetric), kernel_of(seed)
    how = {"symmetric": symmetric, "per_channel": per_channel}
    best, whole = (error(values, bounds, **how, method=m) for m in ("mse", "min-max"))
    assert best.mean() <= whole.mean() * (1 + 1e-6)
    if per_channel:
        assert np.all(best <= whole * (1 + 1e-6))


def test_a_percentile_leaves_out_what_is_rare():
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    values[7] = 1000
    step, _ = ranges.choose(values, integer_range(8), symmetric=False, method="percentile")
    low, high = np.percentile(values, [0.01, 99.99])
    np.testing.assert_allclose(step, (high - low) / 255, rtol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_empty_range_switches_the_quantizer_off(symmetric):
    values = np.stack([np.zeros(9), np.linspace(-1, 1, 9)], axis=-1)
    step, zero = ranges.choose(values, integer_range(4), symmetric=symmetric, per_channel=True)
    assert step[0] == zero[0] == 0 < step[1]


def test_other_methods_are_refused():
    with pytest.raises(ValueError, match="method: got 'best', legal: min-max, percentile, mse"):
        ranges.choose(np.ones(3), integer_range(8), symmetric=True, method="best")
