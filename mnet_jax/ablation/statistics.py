"""Means, Student's t intervals and differences paired by seed.

Two arms that share a seed share the data order, the augmentation and, where their shapes agree, the
first weights. The difference is therefore taken seed by seed: what both have in common cancels.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy.special import (
    ndtri,
    stdtrit,
)  # scipy.stats would cost the parent half a second at import

from mnet_jax.validation import require

CONFIDENCE = 0.95
# Differences of accuracies, which are counts over test images, that should be equal are equal up
# to this: floats round at 1e-16, and no test split has a billion images.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values.

    Attributes:
      mean: of the values.
      low: the lower end; None where a single value leaves the spread unknown.
      high: the upper end, or None.
      count: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def half_width(self) -> float | None:
        """What stands after a plus-minus sign: the interval is symmetric."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean and its two-sided Student's t interval, mean ± t(n - 1) s / sqrt(n).

    Source: Student (1908), "The probable error of a mean", Biometrika 6. It assumes independent
    values from one normal distribution. Equal values give an interval of no width.

    Raises:
      ValueError: no values, one that is not finite, or a confidence outside 0 to 1.
    """
    sample = [float(value) for value in values]
    require(bool(sample), "values", sample, "one or more")
    require(all(map(math.isfinite, sample)), "values", sample, "finite numbers")
    require(0 < confidence < 1, "confidence", confidence, "above 0 and below 1")
    count = len(sample)
    if count == 1:
        return Interval(mean=sample[0], low=None, high=None, count=1)
    mean = statistics.mean(sample)  # exact, so that the mean of equal values is that value
    error = statistics.stdev(sample) / math.sqrt(count)
    reach = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    return Interval(mean=mean, low=mean - reach, high=mean + reach, count=count)


def share_interval(hits: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """A share of successes and its two-sided score interval, for one model on `count` images.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference",
    JASA 22. It stays within 0 and 1 and has a width even where every image is right; it says how
    well the images determine the accuracy, and nothing of how another seed would do.

    Raises:
      ValueError: no images, hits outside 0 to `count`, or a confidence outside 0 to 1.
    """
    require(count >= 1, "count", count, "1 or more")
    require(0 <= hits <= count, "hits", hits, f"0 to {count}")
    require(0 < confidence < 1, "confidence", confidence, "above 0 and below 1")
    share, z = hits / count, float(ndtri((1 + confidence) / 2))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    reach = spread / (1 + z * z / count)
    low, high = max(middle - reach, 0.0), min(middle + reach, 1.0)
    return Interval(mean=share, low=low, high=high, count=count)


def seed_differences(arm: Mapping[int, float], baseline: Mapping[int, float]) -> dict[int, float]:
    """Arm minus baseline for every seed that both have, in the order of the seeds."""
    return {seed: arm[seed] - baseline[seed] for seed in sorted(arm.keys() & baseline.keys())}


def paired_difference(
    arm: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Interval | None:
    """The mean of arm minus baseline over the seeds that both have; None where they share none.

    Args:
      arm: a value for each seed, such as the test accuracy.
      baseline: the same of the arm to compare with.
      confidence: of the interval.

    Raises:
      ValueError: as `mean_interval`.
    """
    differences = seed_differences(arm, baseline)
    return mean_interval(differences.values(), confidence) if differences else None


def verdict(difference: Interval) -> str:
    """What a difference of accuracies shows, in a word or two.

    `better` and `worse`: zero lies outside the interval. `not separated`: it does not. `one seed`:
    there is no interval. `no spread`: every seed differs by the same amount, not zero; a few
    seeds on a small test split do so by chance, and then say nothing about the spread.
    """
    if difference.low is None or difference.high is None:
        return "one seed"
    if difference.high - difference.low < ROUNDING:
        return "no spread" if abs(difference.mean) > ROUNDING else "not separated"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "not separated"
