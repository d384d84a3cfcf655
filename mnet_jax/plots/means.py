"""Draws means over models with bands of their confidence intervals."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mnet_jax.statistics.intervals import CONFIDENCE, mean_interval


def draw_means(
    axes: Axes,
    places: Sequence[float],
    samples: Iterable[Sequence[float]],
    style: str,
    **looks: Any,
) -> None:
    """Draws a line through the means of samples, with a band of their Student's t intervals.

    A sample of one number has no interval.

    Args:
      axes: the axes to draw on.
      places: x positions of the means.
      samples: the numbers at each position.
      style: Matplotlib's format string for the line and its markers.
      **looks: other options of Matplotlib's `plot`; must contain `color`.
    """
    intervals = [mean_interval(sample) for sample in samples]
    axes.plot(places, [interval.mean for interval in intervals], style, **looks)
    halves = np.array([interval.half_width or 0 for interval in intervals])
    if halves.any():
        means = np.array([interval.mean for interval in intervals])
        axes.fill_between(
            places, means - halves, means + halves, color=looks["color"], alpha=0.2, linewidth=0
        )


def bands_note(samples: Iterable[Sequence[Any]]) -> str:
    """Returns a caption's sentence on the bands of `draw_means`; "" if there are no bands."""
    if all(len(sample) < 2 for sample in samples):
        return ""
    return f" Bands are {CONFIDENCE:.0%} Student's t intervals of means over models."
