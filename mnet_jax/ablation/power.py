"""How many seeds separate a difference: the power of Student's paired test, from noncentral t."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import nctdtr, stdtrit

from mnet_jax.ablation.statistics import CONFIDENCE

POWER = 0.8  # Cohen (1988), "Statistical power analysis for the behavioral sciences", section 2.4
MOST_SEEDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Power:
    """What so many seeds can separate, from the spread of the paired differences so far.

    Attributes:
      detectable: the difference that as many seeds as there are separate with power `POWER`.
      seeds_needed: how many separate a difference as large as the mean so far; None above
        `MOST_SEEDS`, and where the mean is zero.
    """

    detectable: float
    seeds_needed: int | None


def power_of(sample: Sequence[float], confidence: float) -> Power:
    """What Student's paired test of this confidence separates, given the sample's spread."""
    spread = statistics.stdev(sample)
    return Power(
        detectable=detectable_difference(len(sample), spread, confidence),
        seeds_needed=seeds_needed(abs(statistics.mean(sample)), spread, confidence),
    )


def power_at(difference: float, spread: float, count: int, confidence: float) -> float:
    """The chance that the two-sided paired t-test separates a difference, by its sign too.

    Args:
      difference: true mean of the paired differences.
      spread: their standard deviation.
      count: number of seeds, 2 or more.
      confidence: of the test.
    """
    critical = stdtrit(count - 1, (1 + confidence) / 2)
    shift = abs(difference) / spread * math.sqrt(count)
    missed = float(nctdtr(count - 1, shift, critical))
    return 1.0 if math.isnan(missed) else 1 - missed  # SciPy has no value for the far tail, 1e-100


def seeds_needed(
    difference: float, spread: float, confidence: float = CONFIDENCE, power: float = POWER
) -> int | None:
    """The fewest seeds with which the test has that power; None for more than `MOST_SEEDS`."""

    def enough(count: int) -> bool:
        return power_at(difference, spread, count, confidence) >= power

    if not enough(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS  # the power rises with the seeds
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable_difference(
    count: int, spread: float, confidence: float = CONFIDENCE, power: float = POWER
) -> float:
    """The smallest difference that so many seeds separate with that power."""
    low, high = 0.0, spread
    while power_at(high, spread, count, confidence) < power:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        separated = power_at(middle, spread, count, confidence) >= power
        low, high = (low, middle) if separated else (middle, high)
    return high
