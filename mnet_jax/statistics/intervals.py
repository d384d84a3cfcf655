"""Means with confidence intervals, by Student's t or by the bootstrap, and paired differences.

Two arms with the same seed have the same data order and augmentation and, where the shapes agree,
the same initial weights. So differences are taken seed by seed, and these effects cancel.

The bootstrap is bias-corrected and accelerated (BCa). SciPy's implementation gives no p-value, and
importing it takes half a second. The tests compare this implementation with it.

Source: Efron (1987), "Better bootstrap confidence intervals", JASA 82.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import (
    ndtr,
    ndtri,
    stdtrit,  # scipy.stats would cost half a second at import
)

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
      method: `t` is Student's interval, mean ± t(n - 1) s / sqrt(n), which assumes values from one
        normal distribution. `bootstrap` is BCa (see `resample`), which assumes no distribution; for
        few values, its interval is too narrow.

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

    The interval stays within 0 and 1, and its width is positive even if every image is classified
    correctly. It describes the uncertainty from the number of test images, not the spread over
    seeds.

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


# Two differences of accuracies are equal if they are this close. An accuracy is a count divided by
# the number of test images: floats round at 1e-16, and no test split has a billion images.
ROUNDING = 1e-9


_RESAMPLES = 9999


# The fewest resamples in each tail outside an interval. With fewer, the ends of the interval would
# be extreme values rather than quantiles.
_FEWEST_BEYOND = 10


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """The means of a sample's resamples, with the two corrections of BCa.

    Attributes:
      means: [resamples], in ascending order.
      bias: z0, the bias correction: the share of the means below the sample's mean, as a quantile
        of the standard normal distribution.
      acceleration: a, the acceleration: a sixth of the skewness of the mean.
    """

    means: np.ndarray
    bias: float
    acceleration: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Returns the ends of the two-sided BCa interval."""
        tail = (1 - confidence) / 2
        reach = self.bias + ndtri(np.array([tail, 1 - tail]))
        levels = ndtr(self.bias + reach / (1 - self.acceleration * reach))
        low, high = np.quantile(self.means, levels)
        return float(low), float(high)

    def p_value(self) -> float:
        """Returns the two-sided p-value of the hypothesis that the mean is zero.

        `interval(confidence)` excludes zero if and only if 1 - confidence is above the p-value. The
        p-value is at least 2 / (resamples + 1), the smallest value that the resamples can show.
        """
        levels = _levels_of_zero(self.means)
        low, high = (self._tail_of(level) for level in levels)  # the probability below either end
        least = 2 / (len(self.means) + 1)
        return min(max(2 * min(low, 1 - high), least), 1.0)

    def _tail_of(self, level: float) -> float:
        """Returns the tail probability whose BCa-corrected level is `level`.

        `interval` computes corrected levels from tail probabilities; this function is the inverse.

        Args:
          level: the share of `means` below an end of an interval.
        """
        distance = ndtri(level) - self.bias
        if math.isinf(distance):
            return level
        return float(ndtr(distance / (1 + self.acceleration * distance) - self.bias))


def resample(sample: Sequence[float], confidence: float) -> Resampled:
    """Resamples a sample with replacement; the result does not depend on the order of its values.

    Args:
      sample: at least two values, not all equal.
      confidence: the confidence of the interval to be computed. The closer it is to 1, the more
        resamples are drawn.
    """
    values = np.sort(np.asarray(sample, dtype=np.float64))
    random = np.random.default_rng(0)
    blocks = math.ceil(max(2 * _FEWEST_BEYOND / (1 - confidence) / _RESAMPLES, 1))
    means = np.sort(np.concatenate([_means(values, random) for _ in range(blocks)]))
    deviations = values - values.mean()
    skew = (deviations**3).sum() / (deviations**2).sum() ** 1.5
    return Resampled(
        means=means,
        bias=float(ndtri(_share_below(means, values.mean()))),
        acceleration=float(skew / 6),
    )


def _means(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns the means of `_RESAMPLES` resamples; a mean that is zero up to rounding becomes 0."""
    picks = random.integers(len(values), size=(_RESAMPLES, len(values)))
    means = values[picks].mean(axis=1)
    return np.where(np.abs(means) < ROUNDING, 0.0, means)


def _share_below(means: np.ndarray, value: float) -> float:
    """Returns the share of the means below a value; means equal to the value count half."""
    below = np.searchsorted(means, value - ROUNDING, "left")
    not_above = np.searchsorted(means, value + ROUNDING, "right")
    return float(below + not_above) / (2 * len(means))


def _levels_of_zero(means: np.ndarray) -> tuple[float, float]:
    """Returns the largest level with a quantile <= 0, and the smallest level with a quantile >= 0.

    Quantiles are interpolated linearly, as `numpy.quantile` does by default. The first level is 0
    if no quantile is <= 0, the second 1 if none is >= 0.
    """
    not_above = int(np.searchsorted(means, 0.0, "right"))
    below = int(np.searchsorted(means, 0.0, "left"))
    last = len(means) - 1

    def crossing(index: int) -> float:
        """Returns the level of zero between the means at `index` and `index + 1`."""
        before, after = means[index], means[index + 1]
        return float((index - before / (after - before)) / last)

    first = not_above / len(means) if not_above in (0, last + 1) else crossing(not_above - 1)
    second = below / len(means) if below in (0, last + 1) else crossing(below - 1)
    return first, second
