"""The bootstrap of a mean, bias-corrected and accelerated (BCa).

Source: Efron (1987), "Better bootstrap confidence intervals", JASA 82. SciPy's own gives no
p-value, and importing it costs half a second; the tests hold this one to it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

RESAMPLES = 9999
# Differences of accuracies, which are counts over test images, that should be equal are equal up
# to this: floats round at 1e-16, and no test split has a billion images.
ROUNDING = 1e-9
FEWEST_BEYOND = 10  # resamples in each tail outside an interval, or its ends are mere extremes


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """The means of a sample's resamples, and what BCa makes of them.

    Attributes:
      means: [resamples], in rising order.
      bias: z0, how far their median is from the sample's mean, in normal quantiles.
      acceleration: a, a sixth of the skewness of the mean.
    """

    means: np.ndarray
    bias: float
    acceleration: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """The ends of the two-sided BCa interval."""
        tail = (1 - confidence) / 2
        reach = self.bias + ndtri(np.array([tail, 1 - tail]))
        levels = ndtr(self.bias + reach / (1 - self.acceleration * reach))
        low, high = np.quantile(self.means, levels)
        return float(low), float(high)

    def p_value(self) -> float:
        """One minus the confidence of the largest `interval` that excludes zero; never quite none.

        An interval excludes zero if and only if one minus its confidence is above this.
        """
        levels = _levels_of_zero(self.means)
        low, high = (self._tail_of(level) for level in levels)  # the mass below either end
        least = 2 / (len(self.means) + 1)  # what so many resamples cannot tell from nothing
        return min(max(2 * min(low, 1 - high), least), 1.0)

    def _tail_of(self, level: float) -> float:
        """The mass beside an interval whose end is this quantile of the means."""
        distance = ndtri(level) - self.bias
        if math.isinf(distance):
            return level
        return float(ndtr(distance / (1 + self.acceleration * distance) - self.bias))


def resample(sample: Sequence[float], confidence: float) -> Resampled:
    """Draws the resamples, the same ones for the same values in any order.

    Args:
      sample: two values or more, not all equal.
      confidence: of the interval to make of them; the smaller its tails, the more are drawn.
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
    """The means of `RESAMPLES` resamples; a mean of zero is zero, whatever rounding left of it."""
    picks = random.integers(len(values), size=(RESAMPLES, len(values)))
    means = values[picks].mean(axis=1)
    return np.where(np.abs(means) < ROUNDING, 0.0, means)


def _share_below(means: np.ndarray, value: float) -> float:
    """The share of the means below a value; those that are the value itself count half."""
    below = np.searchsorted(means, value - ROUNDING, "left")
    not_above = np.searchsorted(means, value + ROUNDING, "right")
    return float(below + not_above) / (2 * len(means))


def _levels_of_zero(means: np.ndarray) -> tuple[float, float]:
    """The largest level whose quantile is zero or less, and the smallest whose is zero or more.

    Quantiles are interpolated linearly, as `numpy.quantile` does by default. Where no quantile is,
    the first is 0 and the second 1.
    """
    not_above = int(np.searchsorted(means, 0.0, "right"))
    below = int(np.searchsorted(means, 0.0, "left"))
    last = len(means) - 1

    def crossing(index: int) -> float:
        """The level of zero between two neighbours on either side of it."""
        before, after = means[index], means[index + 1]
        return float((index - before / (after - before)) / last)

    first = not_above / len(means) if not_above in (0, last + 1) else crossing(not_above - 1)
    second = below / len(means) if below in (0, last + 1) else crossing(below - 1)
    return first, second
