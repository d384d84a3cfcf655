"""An image's random numbers: uniform, independent, and the same in whatever batch it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mnet_jax.data.draws import Draws

LIKELY = 1e-4  # a p-value below this would be a wonder, and these seeds are fixed


def draws(count=4096, seed=0, epoch=0, first=0):
    return Draws.of(seed, np.full(count, epoch), np.arange(first, first + count))


def test_a_stream_is_splitmix64():
    """The outputs for the seed 1234567, as Vigna's splitmix64.c prints them."""
    expected = np.array(
        [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431],
        np.uint64,
    )
    seeded = Draws(np.array([1234567], np.uint64))
    found = np.concatenate([seeded.fold(number).keys for number in range(4)])
    np.testing.assert_array_equal(found, expected)
    bits = (expected >> np.uint64(11)).astype(np.float64) / 2**53
    np.testing.assert_array_equal(seeded.uniforms(4), bits[None])
    np.testing.assert_array_equal([seeded.uniform(number)[0] for number in range(4)], bits)


# Neighbours along each of the four counters, one at a time, the others fixed.
ALONG = {
    "index": lambda: draws(20000).uniform(0),
    "epoch": lambda: Draws.of(5, np.arange(20000), np.full(20000, 7)).uniform(0),
    "number": lambda: draws(1).uniforms(20000)[0],
    "fold": lambda: np.concatenate([draws(1).fold(n).uniform(0) for n in range(5000)]),
    "seed": lambda: np.concatenate([draws(1, seed=seed).uniform(0) for seed in range(5000)]),
}


@pytest.mark.parametrize("along", ALONG)
def test_numbers_are_uniform_and_neighbours_independent(along):
    values = ALONG[along]()
    assert stats.kstest(values, "uniform").pvalue > LIKELY
    for lag in (1, 2, 16):
        assert stats.pearsonr(values[:-lag], values[lag:]).pvalue > LIKELY
    pairs = np.histogram2d(values[0::2], values[1::2], bins=8, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(pairs.ravel()).pvalue > LIKELY


@pytest.mark.parametrize("count", [2, 3, 7, 1000])
def test_integers_are_uniform_and_in_range(count):
    found = draws(20000).integers(3, count)
    assert stats.chisquare(np.bincount(found, minlength=count)).pvalue > LIKELY
    assert len(np.bincount(found)) == count
    each = np.arange(1, 4097)
    assert (draws().integers(0, each) < each).all() and draws().integers(0, 1).max() == 0


def test_a_chance_is_as_likely_as_it_says():
    hits = [int(draws(20000).chance(1, share).sum()) for share in (0.0, 0.3, 1.0)]
    assert hits[0] == 0 and hits[2] == 20000
    assert stats.binomtest(hits[1], 20000, 0.3).pvalue > LIKELY


def test_uses_of_one_image_are_independent():
    drawn = draws(20000)
    columns = [drawn.uniform(0), drawn.uniform(1), *(drawn.fold(n).uniform(0) for n in range(3))]
    for i, one in enumerate(columns):
        for other in columns[:i]:
            assert stats.pearsonr(one, other).pvalue > LIKELY


@given(
    st.integers(0, 2**64), st.lists(st.integers(0, 2**40), min_size=1, max_size=20), st.randoms()
)
def test_a_number_does_not_depend_on_the_batch(seed, indices, random):
    whole = Draws.of(seed, np.full(len(indices), 3), np.array(indices))
    order = list(range(len(indices)))
    random.shuffle(order)
    other = Draws.of(seed, np.full(len(order), 3), np.array(indices)[order])
    for one, same in ((whole.uniform(2), other.uniform(2)), (whole.uniforms(3), other.uniforms(3))):
        np.testing.assert_array_equal(one[order], same)
    alone = Draws.of(seed, np.array([3]), np.array(indices[:1]))
    np.testing.assert_array_equal(alone.fold(1).uniform(0), whole.fold(1).uniform(0)[:1])
