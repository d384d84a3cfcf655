"""The quantizer against its definition in NumPy, and its gradients against the papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet_jax.ops.quantizer import dequantize, fake_quantize, integer_range, quantize


@pytest.mark.parametrize("bits", range(2, 9))
def test_n_bits_are_two_to_the_n_levels(bits):
    low, high = integer_range(bits)
    x = np.linspace(-3, 3, 10_001, dtype=np.float32)
    found = quantize(x, jnp.float32(1.5 / 2 ** (bits - 1)), jnp.float32(0), integer_range(bits))
    assert np.array_equal(np.unique(found), np.arange(low, high + 1))
    assert high - low + 1 == 2**bits
    assert integer_range(bits, narrow=True) == (-high, high)


@pytest.mark.parametrize("bits", [-1, 1, 9])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match=rf"bits: got {bits}, legal: 2 to 8"):
        integer_range(bits)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8),
    step=st.floats(1e-3, 2.0),
    zero=st.integers(-100, 100),
    seed=st.integers(0, 2**16),
)
def test_fake_quantization_is_quantization_and_back(bits, step, zero, seed):
    bounds = integer_range(bits)
    zero = np.clip(zero, *bounds)
    x = np.random.default_rng(seed).normal(0, 2, (4, 5)).astype(np.float32)
    step = np.float32(step)
    expected = (np.clip(np.round(x / step) + zero, *bounds) - zero) * step
    arguments = jnp.float32(step), jnp.float32(zero)
    there = dequantize(quantize(x, *arguments, bounds), *arguments)
    np.testing.assert_allclose(there, expected, rtol=1e-6)
    np.testing.assert_allclose(
        fake_quantize(x, *arguments, *map(float, bounds)), expected, rtol=1e-6
    )


def test_a_step_of_zero_rounds_nothing():
    x = jnp.linspace(-3, 3, 100)
    step = jnp.zeros(())
    y, pull = jax.vjp(lambda x, s: fake_quantize(x, s, jnp.zeros(()), -8.0, 7.0), x, step)
    of_x, of_step = pull(jnp.ones_like(x))
    assert np.array_equal(y, x)
    assert np.array_equal(of_x, jnp.ones_like(x))
    assert of_step == 0


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("zero", [0, 3])
def test_the_gradients_are_those_of_the_papers(per_channel, zero):
    low, high = integer_range(4)
    generator = np.random.default_rng(0)
    x = generator.normal(0, 2, (7, 5)).astype(np.float32)
    step = generator.uniform(0.1, 0.6, (1, 5) if per_channel else ()).astype(np.float32)
    pulled = generator.normal(size=x.shape).astype(np.float32)
    _, pull = jax.vjp(lambda x, s: fake_quantize(x, s, jnp.float32(zero), low, high), x, step)
    of_x, of_step = pull(pulled)
    # arXiv 1902.08153, equations 3 and 5, with the integers moved by `zero`
    ratio = x / step
    inside = (ratio > low - zero) & (ratio < high - zero)
    slope = np.where(inside, np.round(ratio) - ratio, np.clip(ratio, low - zero, high - zero))
    np.testing.assert_allclose(of_x, np.where(inside, pulled, 0), rtol=1e-6)
    expected = (pulled * slope).sum(0, keepdims=True) if per_channel else (pulled * slope).sum()
    np.testing.assert_allclose(of_step, expected, rtol=1e-4)
