"""Means with confidence intervals, and differences paired by seed; `comparison` judges them.

Two arms with the same seed have the same data order and augmentation and, where the shapes agree,
the same initial weights. So differences are taken seed by seed, and these effects cancel.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from scipy.special import ndtri, stdtrit  # scipy.stats would cost half a second at import

from mnet_jax.ablation.bootstrap import resample
from mnet_jax.validation import require, require_choice

Method = Literal["t", "bootstrap"]

ALPHA = 0.05
CONFIDENCE = 1 - ALPHA
# The fewest values for an interval. The bootstrap's intervals are too narrow for few values: for
# normal values, a 95 % interval covers the true mean for 71 % of samples of 3, 84 % of 5, 91 % of
# 10.
FEWEST = {"t": 2, "bootstrap": 5}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values.

    Attributes:
      mean: the mean of the values.
      low: the lower end of the interval; None if there are too few values for one.
      high: the upper end; None if there are too few values.
      count: the number of values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def half_width(self) -> float | None:
        """Half of the interval's length; for a symmetric interval the number after the ± sign."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(
    values: Iterable[float], confidence: float = CONFIDENCE, method: Method = "t"
) -> Interval:
    """Returns the mean of some values with its two-sided confidence interval.

    If all values are equal, the interval has zero width.

    Args:
      values: independent values.
      confidence: the confidence level, between 0 and 1.
      method: `t` is Student's interval, mean ± t(n - 1) s / sqrt(n). It assumes values from one
        normal distribution. `bootstrap` is BCa (see `bootstrap`). It assumes no distribution, and
        is too narrow for few values.

    Raises:
      ValueError: there are no values, a value is not finite, the confidence is not between 0 and 1,
        or the method is unknown.

    Source: Student (1908), "The probable error of a mean", Biometrika 6.
    """
    sample = [float(value) for value in values]
    require(bool(sample), "values", sample, "one or more")
    require(all(map(math.isfinite, sample)), "values", sample, "finite numbers")
    require(0 < confidence < 1, "confidence", confidence, "above 0 and below 1")
    require_choice("interval", method, Method)
    count = len(sample)
    mean = statistics.mean(sample)  # exact, so that the mean of equal values is that value
    if count < FEWEST[method]:
        return Interval(mean=mean, low=None, high=None, count=count)
    if min(sample) == max(sample):
        return Interval(mean=mean, low=mean, high=mean, count=count)
    if method == "bootstrap":
        low, high = resample(sample, confidence).interval(confidence)
        return Interval(mean=mean, low=low, high=high, count=count)
    error = statistics.stdev(sample) / math.sqrt(count)
    reach = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    return Interval(mean=mean, low=mean - reach, high=mean + reach, count=count)


def share_interval(hits: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """Returns the accuracy of one model on `count` images, with Wilson's two-sided score interval.

    The interval stays within 0 and 1, and has a width even if every image is classified correctly.
    It describes the uncertainty from the number of test images, not the spread over seeds.

    Raises:
      ValueError: there are no images, `hits` is not in 0 to `count`, or the confidence is not
        between 0 and 1.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference",
    JASA 22.
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
    """Returns arm minus baseline for every seed that both have, in the order of the seeds."""
    return {seed: arm[seed] - baseline[seed] for seed in sorted(arm.keys() & baseline.keys())}
