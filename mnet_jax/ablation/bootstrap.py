"""The bootstrap of a mean, bias-corrected and accelerated (BCa).

Source: Efron (1987), "Better bootstrap confidence intervals", JASA 82. SciPy's own gives no
p-value, and importing it costs half a second; the tests hold this one to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

RESAMPLES = 9999


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """The means of a sample's resamples, and what BCa makes of them.

    Attributes:
      means: [RESAMPLES], in rising order.
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
        """One minus the confidence of the interval that ends at zero; never quite none."""
        share = _share_below(self.means, 0.0)
        if share in (0.0, 1.0):  # no interval reaches zero
            return 2 / (len(self.means) + 1)  # what so many resamples cannot tell from nothing
        distance = ndtri(share) - self.bias
        tail = ndtr(distance / (1 + self.acceleration * distance) - self.bias)
        return float(2 * min(tail, 1 - tail))


def resample(sample: Sequence[float]) -> Resampled:
    """Draws the resamples, the same ones for the same values in any order.

    Args:
      sample: two values or more, not all equal.
    """
    values = np.sort(np.asarray(sample, dtype=np.float64))
    picks = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    means = np.sort(values[picks].mean(axis=1))
    deviations = values - values.mean()
    skew = (deviations**3).sum() / (deviations**2).sum() ** 1.5
    return Resampled(
        means=means,
        bias=float(ndtri(_share_below(means, values.mean()))),
        acceleration=float(skew / 6),
    )


def _share_below(means: np.ndarray, value: float) -> float:
    """The share of the means below a value; those that are the value itself count half."""
    sides = np.searchsorted(means, value, "left"), np.searchsorted(means, value, "right")
    return float(sum(sides)) / (2 * len(means))
