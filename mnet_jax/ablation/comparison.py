"""Arms against a baseline: differences and verdicts, corrected for how many there are.

One procedure yields intervals, p-values and verdicts, so that they never contradict each other.
With m comparisons it is Bonferroni's: each interval is at 1 - (1 - confidence) / m, so that all
hold together; an arm is separated if and only if its interval excludes zero, which is where m times
its p-value is below 1 - confidence. Holm's step-down would sometimes separate one arm more, but has
no intervals to show for it. With one comparison nothing is corrected.

Source: Dunn (1961), "Multiple comparisons among means", JASA 56.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.special import stdtr

from mnet_jax.ablation.bootstrap import ROUNDING, resample
from mnet_jax.ablation.power import Power, power_of
from mnet_jax.ablation.statistics import (
    CONFIDENCE,
    FEWEST,
    Interval,
    Method,
    mean_interval,
    seed_differences,
)

Verdict = Literal["better", "worse", "not separated", "one seed", "few seeds", "no spread"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm against the baseline.

    Attributes:
      difference: arm minus baseline over the seeds that both have, with its simultaneous interval;
        without an interval where there are too few seeds, or they differ without a spread.
      p_value: of no difference, corrected for the number of comparisons; None without a spread.
      verdict: see `compare`.
      power: None where there is no spread.
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
    """Every arm against the baseline, as one family of comparisons.

    The verdicts. `better`, `worse`: the interval excludes zero, and the p-value is below
    1 - confidence. `not separated`: neither. `one seed`, `few seeds`: too few for an interval.
    `no spread`: every seed differs by the same amount, not zero; a few seeds on a small test split
    do so by chance, and then say nothing about the spread, so there is no interval.

    Args:
      arms: for each a value by seed, such as the test accuracy.
      baseline: the same of the arm to compare with.
      method: of the intervals and the p-values.
      confidence: of all intervals together.

    Returns:
      For each arm its comparison, or None where it shares no seed with the baseline.

    Raises:
      ValueError: as `mean_interval`.
    """
    samples = [list(seed_differences(arm, baseline).values()) for arm in arms]
    family = count_comparisons(arms, baseline, method)
    return [_compared(sample, method, confidence, family) if sample else None for sample in samples]


def _compared(
    sample: Sequence[float], method: Method, confidence: float, family: int
) -> Comparison:
    """One of `family` comparisons, from the differences of its seeds."""
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
    """How many arms share seeds enough with the baseline for an interval: the family's size."""
    return sum(len(arm.keys() & baseline.keys()) >= FEWEST[method] for arm in arms)


def simultaneous(confidence: float, family: int) -> float:
    """The confidence of each of `family` intervals that hold together (Bonferroni)."""
    return 1 - (1 - confidence) / max(family, 1)


def bonferroni(p_value: float, family: int) -> float:
    """A p-value corrected for a family of so many comparisons."""
    return min(1.0, max(family, 1) * p_value)


def _p_value(sample: Sequence[float], method: Method, level: float) -> float:
    """One minus the confidence of the interval that ends at zero: a two-sided test of its mean."""
    if method == "bootstrap":
        return resample(sample, level).p_value()
    error = statistics.stdev(sample) / math.sqrt(len(sample))
    return float(2 * stdtr(len(sample) - 1, -abs(statistics.mean(sample)) / error))


def _verdict(difference: Interval) -> Verdict:
    """Of an interval that is there."""
    if difference.low is not None and difference.low > 0:
        return "better"
    if difference.high is not None and difference.high < 0:
        return "worse"
    return "not separated"


def _agreeing(p_value: float, verdict: Verdict, confidence: float) -> float:
    """The p-value on the verdict's side of the border, where rounding may part them."""
    alpha = round(1 - confidence, 12)  # 1 - 0.95 is a little above 0.05
    if verdict == "not separated":
        return max(p_value, alpha)
    return min(p_value, math.nextafter(alpha, 0))
