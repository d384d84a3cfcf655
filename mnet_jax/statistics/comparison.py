"""Compares arms with a baseline: differences and verdicts, corrected for multiple comparisons.

Intervals, p-values and verdicts come from one procedure, so they never contradict each other. For m
comparisons the procedure is Bonferroni's: each interval has confidence 1 - (1 - confidence) / m, so
that all intervals hold simultaneously with at least `confidence`. An arm is separated from the
baseline if and only if its interval excludes zero. An interval excludes zero if and only if m times
the p-value is below 1 - confidence. Holm's step-down procedure would sometimes separate more
arms, but gives no intervals. A single comparison is not corrected.

Source: Dunn (1961), "Multiple comparisons among means", JASA 56.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.special import stdtr

from mnet_jax.statistics.intervals import (
    CONFIDENCE,
    FEWEST,
    ROUNDING,
    Interval,
    Method,
    mean_interval,
    resample,
    seed_differences,
)
from mnet_jax.statistics.power import Power, power_of

Verdict = Literal["better", "worse", "not separated", "one seed", "few seeds", "no spread"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of an arm with the baseline.

    Attributes:
      difference: mean of arm minus baseline over the seeds that both have, with its simultaneous
        interval. There is no interval if there are too few seeds, or if the difference is nonzero
        and the same for all seeds.
      p_value: p-value of the hypothesis of no difference, corrected for the number of comparisons;
        None if there are too few seeds or their differences have no spread.
      verdict: see `compare`.
      power: the power of the test; None where `p_value` is None.
    """

    difference: Interval
    p_value: float | None
    verdict: Verdict
    power: Power | None


def compare(
    arms: Sequence[Mapping[int, float]],
    baseline: Mapping[int, float],
    *,
    method: Method = "t",
    confidence: float = CONFIDENCE,
) -> list[Comparison | None]:
    """Compares every arm with the baseline, as one family of comparisons.

    The verdicts are:

    - `better`, `worse`: the interval excludes zero, and the p-value is below 1 - confidence.
    - `not separated`: the interval includes zero.
    - `one seed`, `few seeds`: there are too few seeds for an interval.
    - `no spread`: the difference is nonzero and the same for all seeds. With few seeds and a small
      test split this happens by chance, and does not mean that the true spread is zero. So there is
      no interval.

    Args:
      arms: for each arm a value, such as the test accuracy, by seed.
      baseline: the values of the baseline, by seed.
      method: how intervals and p-values are computed.
      confidence: the simultaneous confidence of all intervals.

    Returns:
      The comparison of each arm; None for an arm that shares no seed with the baseline.

    Raises:
      ValueError: under the conditions of `mean_interval`.
    """
    samples = [list(seed_differences(arm, baseline).values()) for arm in arms]
    family = count_comparisons(arms, baseline, method)
    return [_compared(sample, method, confidence, family) if sample else None for sample in samples]


def _compared(
    sample: Sequence[float], method: Method, confidence: float, family: int
) -> Comparison:
    """Compares an arm, given its differences for all seeds, as one of `family` comparisons."""
    level = simultaneous(confidence, family)
    difference = mean_interval(sample, level, method)
    if difference.low is None:
        few: Verdict = "one seed" if difference.count == 1 else "few seeds"
        return Comparison(difference=difference, p_value=None, verdict=few, power=None)
    if max(sample) - min(sample) >= ROUNDING:
        verdict = _verdict(difference)
        p_value = bonferroni(_p_value(sample, method, level), family)
        return Comparison(
            difference=difference,
            p_value=_agreeing(p_value, verdict, confidence),
            verdict=verdict,
            power=power_of(sample, level),
        )
    if abs(difference.mean) <= ROUNDING:
        nothing = replace(difference, mean=0.0, low=0.0, high=0.0)
        return Comparison(difference=nothing, p_value=None, verdict="not separated", power=None)
    unknown = replace(difference, low=None, high=None)
    return Comparison(difference=unknown, p_value=None, verdict="no spread", power=None)


def count_comparisons(
    arms: Sequence[Mapping[int, float]], baseline: Mapping[int, float], method: Method = "t"
) -> int:
    """Counts the arms that share enough seeds with the baseline for an interval."""
    return sum(len(arm.keys() & baseline.keys()) >= FEWEST[method] for arm in arms)


def simultaneous(confidence: float, family: int) -> float:
    """Returns the confidence that each of `family` simultaneous intervals needs (Bonferroni)."""
    return 1 - (1 - confidence) / max(family, 1)


def bonferroni(p_value: float, family: int) -> float:
    """Corrects a p-value for a family of `family` comparisons (Bonferroni)."""
    return min(1.0, max(family, 1) * p_value)


def _p_value(sample: Sequence[float], method: Method, level: float) -> float:
    """Returns the two-sided p-value of the hypothesis that the mean is zero.

    The p-value is one minus the confidence of the interval that ends at zero.
    """
    if method == "bootstrap":
        return resample(sample, level).p_value()
    error = statistics.stdev(sample) / math.sqrt(len(sample))
    return float(2 * stdtr(len(sample) - 1, -abs(statistics.mean(sample)) / error))


def _verdict(difference: Interval) -> Verdict:
    """Returns the verdict for an interval with both ends."""
    if difference.low is not None and difference.low > 0:
        return "better"
    if difference.high is not None and difference.high < 0:
        return "worse"
    return "not separated"


def _agreeing(p_value: float, verdict: Verdict, confidence: float) -> float:
    """Returns the p-value, corrected if rounding errors make it contradict the verdict."""
    alpha = round(1 - confidence, 12)  # 1 - 0.95 is a little above 0.05
    if verdict == "not separated":
        return max(p_value, alpha)
    return min(p_value, math.nextafter(alpha, 0))
