"""The bootstrap of a mean, bias-corrected and accelerated (BCa).

Source: Efron (1987), "Better bootstrap confidence intervals", JASA 82. SciPy's implementation gives
no p-value, and importing it takes half a second. The tests compare this implementation with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

RESAMPLES = 9999
# Two differences of accuracies are equal if they are this close. An accuracy is a count divided by
# the number of test images: floats round at 1e-16, and no test split has a billion images.
ROUNDING = 1e-9
# The fewest resamples in each tail outside an interval. With fewer, the ends of the interval would
# be extreme values rather than quantiles.
FEWEST_BEYOND = 10


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
        """Returns the nominal probability below an interval's end, for the end's level in `means`.

        This inverts the BCa correction in `interval`.
        """
        distance = ndtri(level) - self.bias
        if math.isinf(distance):
            return level
        return float(ndtr(distance / (1 + self.acceleration * distance) - self.bias))


def resample(sample: Sequence[float], confidence: float) -> Resampled:
    """Resamples a sample with replacement; the result does not depend on the order of its values.

    Args:
      sample: two values or more, not all equal.
      confidence: the confidence of the interval to be computed. The closer it is to 1, the more
        resamples are drawn.
    """
    values = np.sort(np.asarray(sample, dtype=np.float64))
    random = np.random.default_rng(0)
    blocks = math.ceil(max(2 * FEWEST_BEYOND / (1 - confidence) / RESAMPLES, 1))
    means = np.sort(np.concatenate([_means(values, random) for _ in range(blocks)]))
    deviations = values - values.mean()
    skew = (deviations**3).sum() / (deviations**2).sum() ** 1.5
    return Resampled(
        means=means,
        bias=float(ndtri(_share_below(means, values.mean()))),
        acceleration=float(skew / 6),
    )


def _means(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns the means of `RESAMPLES` resamples; a mean that is zero up to rounding becomes 0."""
    picks = random.integers(len(values), size=(RESAMPLES, len(values)))
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
