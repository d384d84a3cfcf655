"""The power of Student's paired t-test, from the noncentral t distribution.

A test *separates* a difference if the difference is significant.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import nctdtr, stdtrit

from mnet_jax.statistics.intervals import CONFIDENCE

POWER = 0.8  # Cohen (1988), "Statistical power analysis for the behavioral sciences", section 2.4
MOST_SEEDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Power:
    """The power of a comparison, estimated from the standard deviation of its paired differences.

    Attributes:
      detectable: the smallest difference that the test, with the present number of seeds, separates
        with power `POWER`.
      seeds_needed: the number of seeds with which the test has power `POWER` for a difference as
        large as the observed mean. None above `MOST_SEEDS`, or if the mean is zero.
    """

    detectable: float
    seeds_needed: int | None


def power_of(sample: Sequence[float], confidence: float) -> Power:
    """Returns the power of Student's paired t-test, given paired differences and a confidence."""
    spread = statistics.stdev(sample)
    return Power(
        detectable=detectable_difference(len(sample), spread, confidence),
        seeds_needed=seeds_needed(abs(statistics.mean(sample)), spread, confidence),
    )


def power_at(difference: float, spread: float, count: int, confidence: float) -> float:
    """Returns the probability that the two-sided paired t-test separates a difference.

    A significant result with the wrong sign does not count.

    Args:
      difference: the true mean of the paired differences.
      spread: the standard deviation of the paired differences.
      count: the number of seeds, 2 or more.
      confidence: the confidence of the test.
    """
    critical = stdtrit(count - 1, (1 + confidence) / 2)
    shift = abs(difference) / spread * math.sqrt(count)
    missed = float(nctdtr(count - 1, shift, critical))
    return 1.0 if math.isnan(missed) else 1 - missed  # SciPy returns NaN in the far tail, 1e-100


def seeds_needed(
    difference: float, spread: float, confidence: float = CONFIDENCE, power: float = POWER
) -> int | None:
    """Returns the fewest seeds with which the test has power `power`; None above `MOST_SEEDS`."""

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
    """Returns the smallest difference for which the test of `count` seeds has power `power`."""
    low, high = 0.0, spread
    while power_at(high, spread, count, confidence) < power:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        separated = power_at(middle, spread, count, confidence) >= power
        low, high = (low, middle) if separated else (middle, high)
    return high
