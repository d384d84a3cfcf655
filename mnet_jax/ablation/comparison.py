"""Arms against a baseline: differences and verdicts, corrected for how many there are.

With m comparisons the intervals are simultaneous (Bonferroni's: each at 1 - (1 - confidence) / m,
so that all hold together), and the verdicts are from Holm's p-values, which separate all that those
intervals do and sometimes one more. With one comparison nothing is corrected.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtr

from mnet_jax.ablation.bootstrap import resample
from mnet_jax.ablation.power import Power, power_of
from mnet_jax.ablation.statistics import (
    CONFIDENCE,
    FEWEST,
    ROUNDING,
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
      difference: arm minus baseline over the seeds that both have, with its simultaneous interval.
      p_value: of no difference, adjusted by Holm's method; None without a spread to judge by.
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

    The verdicts. `better`, `worse`: the adjusted p-value is below 1 - confidence. `not separated`:
    it is not. `one seed`, `few seeds`: too few for an interval. `no spread`: every seed differs by
    the same amount, not zero; a few seeds on a small test split do so by chance, and then say
    nothing about the spread.

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
    level = simultaneous(confidence, family)
    tested = [s if len(s) >= FEWEST[method] and _spreads(s) else None for s in samples]
    raw = [_p_value(sample, method) if sample else None for sample in tested]
    adjusted = iter(holm([p for p in raw if p is not None], family))
    found: list[Comparison | None] = []
    for sample, spread, p in zip(samples, tested, raw, strict=True):
        if not sample:
            found.append(None)
            continue
        difference = mean_interval(sample, level, method)
        p_value = None if p is None else next(adjusted)
        found.append(
            Comparison(
                difference=difference,
                p_value=p_value,
                verdict=_verdict(difference, p_value, 1 - confidence),
                power=power_of(spread, level) if spread else None,
            )
        )
    return found


def count_comparisons(
    arms: Sequence[Mapping[int, float]], baseline: Mapping[int, float], method: Method = "t"
) -> int:
    """How many arms share seeds enough with the baseline for an interval: the family's size."""
    return sum(len(arm.keys() & baseline.keys()) >= FEWEST[method] for arm in arms)


def simultaneous(confidence: float, family: int) -> float:
    """The confidence of each of `family` intervals that hold together (Bonferroni)."""
    return 1 - (1 - confidence) / max(family, 1)


def holm(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """The adjusted p-values, in the order given.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6.

    Args:
      p_values: one for each hypothesis.
      family: how many hypotheses there are, where some have no p-value; those count as kept.
    """
    family = len(p_values) if family is None else family
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (family - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def _spreads(sample: Sequence[float]) -> bool:
    return bool(sample) and max(sample) - min(sample) >= ROUNDING


def _p_value(sample: Sequence[float], method: Method) -> float:
    """Of a mean of zero, two-sided: Student's, or the bootstrap interval's that ends at zero."""
    if method == "bootstrap":
        return resample(sample).p_value()
    error = statistics.stdev(sample) / math.sqrt(len(sample))
    return float(2 * stdtr(len(sample) - 1, -abs(statistics.mean(sample)) / error))


def _verdict(difference: Interval, p_value: float | None, alpha: float) -> Verdict:
    if difference.low is None:
        return "one seed" if difference.count == 1 else "few seeds"
    if p_value is None:
        return "no spread" if abs(difference.mean) > ROUNDING else "not separated"
    if p_value >= alpha:
        return "not separated"
    return "better" if difference.mean > 0 else "worse"
