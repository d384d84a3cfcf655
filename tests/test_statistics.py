"""Intervals agree with SciPy and a textbook, cover what they claim, and pair by seed."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mnet_jax.ablation.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    share_interval,
    verdict,
)

# Student (1908), "The probable error of a mean", Biometrika 6, section IX: additional hours of
# sleep that ten patients gained by each of two drugs, the first example of a paired comparison.
DEXTRO = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
LAEVO = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))

shares = st.integers(0, 10_000).map(lambda right: right / 10_000)
samples = st.lists(shares, min_size=2, max_size=12)
by_seed = st.dictionaries(st.integers(0, 20), shares, min_size=1, max_size=12)


def test_students_own_example():
    gain = paired_difference(LAEVO, DEXTRO)
    assert gain.mean == pytest.approx(1.58)
    # t(9; 0.975) = 2.262 from the printed table, s = 1.230 with n - 1, by hand.
    assert gain.half_width == pytest.approx(2.262 * 1.230 / math.sqrt(10), abs=1e-3)
    assert gain.count == 10
    assert verdict(gain) == "better"


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


@given(by_seed, by_seed, st.randoms(use_true_random=False))
def test_pairing_does_not_depend_on_the_order(arm, baseline, random):
    shuffled = [list(values.items()) for values in (arm, baseline)]
    for items in shuffled:
        random.shuffle(items)
    assert paired_difference(*map(dict, shuffled)) == paired_difference(arm, baseline)


@given(by_seed, by_seed)
def test_only_common_seeds_count(arm, baseline):
    common = arm.keys() & baseline.keys()
    difference = paired_difference(arm, baseline)
    if not common:
        assert difference is None
        return
    assert difference.count == len(common)
    assert difference.mean == pytest.approx(np.mean([arm[s] - baseline[s] for s in common]))


@given(by_seed)
def test_identical_arms_do_not_differ(values):
    difference = paired_difference(values, values)
    assert difference.mean == 0
    assert difference.low in (0, None)
    assert verdict(difference) == ("not separated" if len(values) > 1 else "one seed")


@given(by_seed, by_seed)
def test_swapping_the_arms_swaps_the_verdict(arm, baseline):
    there, back = paired_difference(arm, baseline), paired_difference(baseline, arm)
    if there:
        swapped = {"better": "worse", "worse": "better"}
        assert verdict(back) == swapped.get(verdict(there), verdict(there))


def test_pairing_cancels_what_seeds_have_in_common():
    """A constant gain under a noise that both share: invisible unpaired, plain paired."""
    noise = np.random.default_rng(0).normal(0, 0.02, 8)
    jitter = np.random.default_rng(1).normal(0, 0.0005, 8)
    baseline = {seed: 0.9 + common for seed, common in enumerate(noise)}
    arm = {seed: baseline[seed] + 0.003 + jitter[seed] for seed in baseline}
    assert verdict(paired_difference(arm, baseline)) == "better"
    unpaired = scipy.stats.ttest_ind(list(arm.values()), list(baseline.values()))
    assert unpaired.pvalue > 0.5


def test_every_seed_the_same_amount_apart_is_no_evidence_of_no_noise():
    """Two seeds, each with one image of 360 more: their spread of zero is chance."""
    difference = paired_difference({0: 351 / 360, 1: 340 / 360}, {0: 350 / 360, 1: 339 / 360})
    assert verdict(difference) == "no spread"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 0.3, "better"), (-0.3, -0.1, "worse"), (-0.1, 0.3, "not separated"),
     (0.0, 0.2, "not separated"), (None, None, "one seed")],
)  # fmt: skip
def test_verdicts(low, high, word):
    mean = 0.5 if low is None else (low + high) / 2
    assert verdict(Interval(mean=mean, low=low, high=high, count=3)) == word


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (1, 3), (480, 500), (9712, 10_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_share_interval_is_scipys_wilson_interval(hits, count, confidence):
    expected = scipy.stats.binomtest(hits, count).proportion_ci(confidence, method="wilson")
    found = share_interval(hits, count, confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.mean, found.count) == (hits / count, count)


@pytest.mark.parametrize(
    ("hits", "count", "confidence", "told"),
    [(0, 0, 0.95, "count: got 0"), (4, 3, 0.95, "hits: got 4"), (1, 3, 1.0, "confidence: got 1")],
)
def test_a_share_of_nothing_is_refused(hits, count, confidence, told):
    with pytest.raises(ValueError, match=told):
        share_interval(hits, count, confidence)
