"""Intervals agree with SciPy and by hand, and cover what they claim."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mnet_jax.statistics.intervals import Interval, mean_interval, share_interval

shares = st.integers(0, 10_000).map(lambda right: right / 10_000)
samples = st.lists(shares, min_size=2, max_size=12)


def test_two_values_by_hand():
    """With one degree of freedom t is Cauchy: its 0.975 quantile is tan(0.475 pi)."""
    interval = mean_interval([0.90, 0.94])
    assert interval.mean == pytest.approx(0.92)
    assert interval.high - interval.mean == pytest.approx(math.tan(0.475 * math.pi) * 0.02)


@given(samples, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_agrees_with_scipy(values, confidence):
    interval = mean_interval(values, confidence)
    if len(set(values)) == 1:
        assert interval.low == interval.mean == interval.high == values[0]
        return
    oracle = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    assert interval.low == pytest.approx(oracle.low, rel=1e-9, abs=1e-12)
    assert interval.high == pytest.approx(oracle.high, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_covers_as_often_as_it_says(count):
    """8000 samples of a normal: the share covered is within 4 standard errors of 95 %."""
    repeats, truth = 8_000, 0.97
    draws = np.random.default_rng(count).normal(truth, 0.004, (repeats, count))
    intervals = [mean_interval(draw) for draw in draws]
    covered = np.mean([i.low <= truth <= i.high for i in intervals])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repeats)


def test_close_to_the_bootstrap_for_many_seeds():
    """A method without the normal assumption says the same once there are enough values."""
    values = np.random.default_rng(0).beta(90, 3, 200)
    oracle = scipy.stats.bootstrap((values,), np.mean, random_state=np.random.default_rng(1))
    interval = mean_interval(values)
    width = interval.high - interval.low
    assert interval.low == pytest.approx(oracle.confidence_interval.low, abs=0.1 * width)
    assert interval.high == pytest.approx(oracle.confidence_interval.high, abs=0.1 * width)


@pytest.mark.parametrize("count", [5, 10, 40])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_bootstrap_is_scipys(count, confidence):
    """SciPy's BCa draws other resamples: the ends agree to a few of their standard errors."""
    values = np.random.default_rng(count).gamma(2.0, 1.0, count)  # skewed, so that BCa has to act
    oracle = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=99_999,
        random_state=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    interval = mean_interval(values, confidence, "bootstrap")
    tolerance = 0.06 * (oracle.high - oracle.low)
    assert interval.low == pytest.approx(oracle.low, abs=tolerance)
    assert interval.high == pytest.approx(oracle.high, abs=tolerance)
    assert interval == mean_interval(sorted(values), confidence, "bootstrap")


def test_the_bootstrap_of_few_values_is_as_narrow_as_the_report_says():
    """The captions say 84 % of five normal values: within 4 standard errors of 1500 samples."""
    draws = np.random.default_rng(0).normal(0, 1, (1_500, 5))
    intervals = [mean_interval(draw, method="bootstrap") for draw in draws]
    covered = np.mean([i.low <= 0 <= i.high for i in intervals])
    assert abs(covered - 0.84) < 4 * math.sqrt(0.84 * 0.16 / len(draws))


def test_the_bootstrap_has_no_interval_from_four_values():
    few = mean_interval([0.1, 0.2, 0.3, 0.4], method="bootstrap")
    assert (few.low, few.high, few.count) == (None, None, 4)
    assert mean_interval([0.5] * 5, method="bootstrap").half_width == 0


def test_another_method_is_refused():
    with pytest.raises(ValueError, match=r"^interval: got 'normal', legal: t, bootstrap$"):
        mean_interval([0.5, 0.6], method="normal")


@given(samples, st.floats(-10, 10), st.floats(0.01, 100))
def test_shifts_and_scales_with_the_values(values, shift, scale):
    before = mean_interval(values)
    after = mean_interval([scale * value + shift for value in values])
    for end in ("mean", "low", "high"):
        expected = scale * getattr(before, end) + shift
        assert getattr(after, end) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(samples)
def test_the_mean_lies_within(values):
    interval = mean_interval(values)
    assert interval.low <= interval.mean <= interval.high
    assert interval.count == len(values)


@given(shares, st.integers(2, 50))
def test_equal_values_have_no_width(value, count):
    expected = Interval(mean=value, low=value, high=value, count=count)
    assert mean_interval([value] * count) == expected


def test_one_value_has_no_interval():
    assert mean_interval([0.5]) == Interval(mean=0.5, low=None, high=None, count=1)
    assert mean_interval([0.5]).half_width is None


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf]])
def test_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError, match=r"^values: "):
        mean_interval(values)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_refuses_confidence_in_percent(confidence):
    with pytest.raises(ValueError, match=r"^confidence: got .*legal: above 0 and below 1$"):
        mean_interval([0.5, 0.6], confidence)


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (1, 3), (480, 500), (9712, 10_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_share_interval_is_scipys_wilson_interval(hits, count, confidence):
    expected = scipy.stats.binomtest(hits, count).proportion_ci(confidence, method="wilson")
    found = share_interval(hits, count, confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.mean, found.count) == (hits / count, count)


@pytest.mark.parametrize(
    ("hits", "count", "confidence", "message"),
    [(0, 0, 0.95, "count: got 0"), (4, 3, 0.95, "hits: got 4"), (1, 3, 1.0, "confidence: got 1")],
)
def test_a_share_of_nothing_is_refused(hits, count, confidence, message):
    with pytest.raises(ValueError, match=message):
        share_interval(hits, count, confidence)
