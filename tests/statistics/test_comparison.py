"""Arms are paired by seed, corrected for their number, and judged as textbooks do."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet_jax.statistics.comparison import compare, count_comparisons, simultaneous
from mnet_jax.statistics.intervals import mean_interval
from mnet_jax.statistics.power import MOST_SEEDS, detectable_difference, power_at, seeds_needed

# Student (1908), "The probable error of a mean", Biometrika 6, section IX: additional hours of
# sleep that ten patients gained by each of two drugs, the first example of a paired comparison.
DEXTRO = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
LAEVO = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))

shares = st.integers(0, 10_000).map(lambda right: right / 10_000)
by_seed = st.dictionaries(st.integers(0, 20), shares, min_size=1, max_size=12)


def single(arm, baseline, **options):
    (found,) = compare([arm], baseline, **options)
    return found


def arm_of(values):
    return dict(enumerate(values))


def test_students_own_example():
    (gain,) = compare([LAEVO], DEXTRO)
    assert gain.difference.mean == pytest.approx(1.58)
    # t(9; 0.975) = 2.262 from the printed table, s = 1.230 with n - 1, by hand.
    assert gain.difference.half_width == pytest.approx(2.262 * 1.230 / math.sqrt(10), abs=1e-3)
    assert gain.difference.count == 10
    assert gain.verdict == "better"


@pytest.mark.parametrize("method", ["t", "bootstrap"])
def test_one_comparison_is_scipys_paired_test(method):
    rng = np.random.default_rng(3)
    for gain in (0.0, 0.002, 0.004):
        baseline = rng.normal(0.9, 0.01, 12)
        arm = baseline + rng.normal(gain, 0.004, 12)
        oracle = scipy.stats.ttest_rel(arm, baseline)
        found = single(arm_of(arm), arm_of(baseline), method=method)
        if method == "t":
            assert found.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
            ends = oracle.confidence_interval(0.95)
            assert (found.difference.low, found.difference.high) == pytest.approx(tuple(ends))
        expected = "not separated" if oracle.pvalue >= 0.05 else "better"
        assert found.verdict == expected


@given(by_seed, by_seed, st.randoms(use_true_random=False))
def test_pairing_does_not_depend_on_the_order(arm, baseline, random):
    shuffled = [list(values.items()) for values in (arm, baseline)]
    for items in shuffled:
        random.shuffle(items)
    assert single(*map(dict, shuffled)) == single(arm, baseline)


@given(by_seed, by_seed)
def test_only_common_seeds_count(arm, baseline):
    common = arm.keys() & baseline.keys()
    found = single(arm, baseline)
    if not common:
        assert found is None
        return
    assert found.difference.count == len(common)
    expected = np.mean([arm[seed] - baseline[seed] for seed in common])
    assert found.difference.mean == pytest.approx(expected)


@given(by_seed)
def test_identical_arms_do_not_differ(values):
    found = single(values, values)
    assert found.difference.mean == 0 and found.difference.low in (0, None)
    assert found.verdict == ("not separated" if len(values) > 1 else "one seed")
    assert found.p_value is None and found.power is None


@given(by_seed, by_seed)
def test_swapping_the_arms_swaps_the_verdict(arm, baseline):
    there, back = single(arm, baseline), single(baseline, arm)
    if there:
        swapped = {"better": "worse", "worse": "better"}
        assert back.verdict == swapped.get(there.verdict, there.verdict)


def test_pairing_cancels_what_seeds_have_in_common():
    """A constant gain under a noise that both share: invisible unpaired, plain paired."""
    noise = np.random.default_rng(0).normal(0, 0.02, 8)
    jitter = np.random.default_rng(1).normal(0, 0.0005, 8)
    baseline = {seed: 0.9 + common for seed, common in enumerate(noise)}
    arm = {seed: baseline[seed] + 0.003 + jitter[seed] for seed in baseline}
    assert single(arm, baseline).verdict == "better"
    unpaired = scipy.stats.ttest_ind(list(arm.values()), list(baseline.values()))
    assert unpaired.pvalue > 0.5


def test_every_seed_the_same_amount_apart_is_no_evidence_of_no_noise():
    """Two seeds, each with one image of 360 more: their spread of zero is chance."""
    found = single({0: 351 / 360, 1: 340 / 360}, {0: 350 / 360, 1: 339 / 360})
    assert found.verdict == "no spread" and found.p_value is None
    assert found.difference.mean == pytest.approx(1 / 360) and found.difference.low is None


def test_a_bootstrap_of_four_seeds_has_no_verdict():
    arm, baseline = arm_of([0.91, 0.92, 0.93, 0.94]), arm_of([0.9, 0.9, 0.9, 0.9])
    assert single(arm, baseline, method="bootstrap").verdict == "few seeds"
    assert single(arm, baseline).verdict == "better"


differences = st.one_of(
    st.lists(shares, min_size=1, max_size=9),
    st.lists(st.sampled_from([-0.002, 0.0, 0.001, 0.003]), min_size=2, max_size=9),  # ties
    st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=9),
    st.builds(lambda value, count: [value] * count, st.floats(-0.5, 0.5), st.integers(2, 6)),
)
families = st.lists(differences, min_size=1, max_size=4)


@pytest.mark.parametrize("method", ["t", "bootstrap"])
@settings(deadline=None, max_examples=60)
@given(family=families, confidence=st.sampled_from([0.8, 0.95, 0.999]))
def test_verdict_interval_and_p_value_never_contradict(method, family, confidence):
    arms = [arm_of([0.5 + gain for gain in gains]) for gains in family]
    found = compare(arms, arm_of([0.5] * 9), method=method, confidence=confidence)
    for comparison in found:
        low, high = comparison.difference.low, comparison.difference.high
        separated = comparison.verdict in ("better", "worse")
        excludes = low is not None and (low > 0 or high < 0)
        p_value = comparison.p_value
        assert separated == excludes
        assert separated == (p_value is not None and p_value < round(1 - confidence, 12))
        if separated:
            assert (comparison.verdict == "better") == (low > 0)


@settings(deadline=None)
@given(families)
def test_p_values_and_intervals_are_scipys_corrected_by_hand(family):
    """Dunn (1961): each interval at 1 - 0.05 / m, each p-value times m."""
    arms, baseline = [arm_of([0.5 + gain for gain in gains]) for gains in family], [0.5] * 9
    count = count_comparisons(arms, arm_of(baseline))
    for arm, found in zip(arms, compare(arms, arm_of(baseline)), strict=True):
        if found.p_value is None:
            continue
        oracle = scipy.stats.ttest_rel(list(arm.values()), baseline[: len(arm)])
        assert found.p_value == pytest.approx(min(1, count * oracle.pvalue), rel=1e-6)
        ends = oracle.confidence_interval(1 - 0.05 / count)
        near = pytest.approx(tuple(ends), rel=1e-6, abs=1e-9)
        assert (found.difference.low, found.difference.high) == near


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-9, 20).map(lambda n: n / 1_000), min_size=5, max_size=9))
def test_a_bootstrap_p_value_is_where_the_interval_ends_at_zero(gains):
    """By bisection on the intervals, which become wider with the confidence."""
    found = single(arm_of([0.5 + gain for gain in gains]), arm_of([0.5] * 9), method="bootstrap")
    if found.p_value is None:
        return
    low, high = 0.0, 0.99  # intervals of more confidence have more resamples
    for _ in range(14):
        middle = (low + high) / 2
        ends = mean_interval(gains, middle, "bootstrap")
        low, high = (middle, high) if ends.low > 1e-9 or ends.high < -1e-9 else (low, middle)
    assert max(found.p_value, 0.01) == pytest.approx(1 - low, abs=2e-4)


@pytest.mark.parametrize("count", [1, 2, 260])
def test_the_bootstrap_of_a_large_family_has_the_resamples_for_it(count):
    """Where no resample reaches zero, the p-value is small enough for any number of arms."""
    arms = [arm_of([0.51, 0.52, 0.53, 0.54, 0.55])] * count
    for found in compare(arms, arm_of([0.5] * 5), method="bootstrap")[:1]:
        assert found.verdict == "better" and 0 < found.p_value < 0.05


def test_simultaneous_intervals_are_as_wide_as_their_number_says():
    rng = np.random.default_rng(5)
    baseline = rng.normal(0.9, 0.01, 5)
    arms = [arm_of(baseline + rng.normal(gain, 0.004, 5)) for gain in np.linspace(-0.02, 0.02, 9)]
    found = compare(arms, arm_of(baseline))
    assert count_comparisons(arms, arm_of(baseline)) == 9
    for arm, comparison in zip(arms, found, strict=True):
        half = scipy.stats.t.ppf(1 - 0.05 / 9 / 2, 4)
        alone = single(arm, arm_of(baseline)).difference.half_width
        expected = alone * half / scipy.stats.t.ppf(0.975, 4)
        assert comparison.difference.half_width == pytest.approx(expected)
    assert {"better", "worse", "not separated"} == {c.verdict for c in found}


@pytest.mark.parametrize("count", [2, 5, 9])
def test_more_seeds_are_told_at_the_level_of_the_verdicts(count):
    """The power is of the test that yields the verdict: each of m at 1 - 0.05 / m."""
    rng = np.random.default_rng(7)
    arms = [arm_of(0.5 + rng.normal(0.001, 0.004, 6)) for _ in range(count)]
    for arm, found in zip(arms, compare(arms, arm_of([0.5] * 6)), strict=True):
        gains = np.array(list(arm.values())) - 0.5
        expected = seeds_needed(abs(gains.mean()), gains.std(ddof=1), 1 - 0.05 / count)
        assert found.power.seeds_needed == expected


def test_bootstrap_verdicts_where_the_differences_are_skewed_towards_zero():
    """Also where no resample reaches zero."""
    baseline = arm_of([0.9] * 5)
    for gains, count in (([0.0005, 0.02, 0.021, 0.022, 0.023], 4), ([0.01, *[0.03] * 3, 0.033], 6)):
        arms = [arm_of([0.9 + gain for gain in gains])] * count
        for comparison in compare(arms, baseline, method="bootstrap"):
            assert comparison.difference.low > 0 and comparison.verdict == "better"


def test_many_arms_that_do_not_differ_are_rarely_separated():
    """Eight arms equal to the baseline, 300 times: all eight intervals hold, and no verdict falls,
    in 95 % or more, up to 4 standard errors. Uncorrected it would be far less."""
    repeats, right, covered = 300, 0, 0
    draws = np.random.default_rng(11).normal(0.9, 0.01, (repeats, 9, 4))
    for baseline, *arms in draws:
        found = compare([arm_of(arm) for arm in arms], arm_of(baseline))
        right += all(c.verdict == "not separated" for c in found)
        covered += all(c.difference.low <= 0 <= c.difference.high for c in found)
    raw = scipy.stats.ttest_rel(draws[:, 1:], draws[:, :1], axis=2).pvalue
    bound = 0.95 - 4 * math.sqrt(0.05 * 0.95 / repeats)
    assert right / repeats > bound and covered / repeats > bound
    assert np.mean((raw >= 0.05).all(axis=1)) < bound


def test_arms_without_enough_seeds_are_no_part_of_the_family():
    baseline = arm_of([0.9, 0.91, 0.92])
    full, short = arm_of([0.93, 0.95, 0.94]), {0: 0.95}
    alone, beside = single(full, baseline), compare([full, short, {}], baseline)
    assert beside[0] == alone
    assert beside[1].verdict == "one seed" and beside[2] is None


@pytest.mark.parametrize(
    ("difference", "spread", "seeds"),
    # Cohen's d of 0.5, 0.8 and 0.2 at 5 % and power 0.8: n = 34, 15 and 199 pairs, as G*Power
    # and R's power.t.test(type = "paired") give.
    [(0.5, 1.0, 34), (0.8, 1.0, 15), (0.2, 1.0, 199)],
)
def test_published_sample_sizes(difference, spread, seeds):
    assert seeds_needed(difference, spread) == seeds


@pytest.mark.parametrize("count", [2, 5, 20])
@pytest.mark.parametrize("difference", [0.3, 1.0, 3.0])
def test_power_against_scipys_noncentral_t(count, difference):
    critical = scipy.stats.t.ppf(0.975, count - 1)
    oracle = scipy.stats.nct.sf(critical, count - 1, difference * math.sqrt(count))
    assert power_at(difference, 1.0, count, 0.95) == pytest.approx(oracle, abs=1e-9)


def test_power_against_a_simulation():
    """Of 4000 experiments of 6 seeds, as many separate as the power says, to 4 standard errors."""
    repeats = 4_000
    draws = np.random.default_rng(2).normal(1.0, 1.0, (repeats, 6))
    tests = scipy.stats.ttest_1samp(draws, 0, axis=1)
    separated = np.mean((tests.pvalue < 0.05) & (tests.statistic > 0))
    expected = power_at(1.0, 1.0, 6, 0.95)
    allowed = 4 * math.sqrt(expected * (1 - expected) / repeats)
    assert separated == pytest.approx(expected, abs=allowed)


@given(st.integers(2, 200), st.floats(1e-6, 10), st.sampled_from([0.9, 0.95, 0.995]))
def test_what_so_many_seeds_detect_needs_so_many(count, spread, confidence):
    detectable = detectable_difference(count, spread, confidence)
    assert power_at(detectable, spread, count, confidence) == pytest.approx(0.8, abs=1e-3)
    assert seeds_needed(detectable * 1.001, spread, confidence) <= count
    fewer = seeds_needed(detectable * 0.999, spread, confidence)
    assert fewer is not None and fewer >= count


def test_no_number_of_seeds_is_enough_for_nothing():
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-6, 1.0) is None and MOST_SEEDS == 10_000


def test_one_comparison_needs_no_correction():
    assert simultaneous(0.95, 1) == pytest.approx(0.95) == simultaneous(0.95, 0)
    assert simultaneous(0.95, 5) == pytest.approx(0.99)
