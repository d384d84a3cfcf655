"""Lines of means over several networks, in bands of their intervals."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mnet_jax.ablation.statistics import CONFIDENCE, mean_interval


def draw_means(
    axes: Axes,
    places: Sequence[float],
    samples: Iterable[Sequence[float]],
    style: str,
    **looks: Any,
) -> None:
    """A line through the means of samples, in a band of their t intervals where they have some.

    Args:
      axes: where.
      places: of the means along the x axis.
      samples: numbers at each of the places.
      style: of the line and its marks, as Matplotlib writes it.
      **looks: the rest, `color` among it.
    """
    intervals = [mean_interval(sample) for sample in samples]
    axes.plot(places, [interval.mean for interval in intervals], style, **looks)
    halves = np.array([interval.half_width or 0 for interval in intervals])
    if halves.any():
        means = np.array([interval.mean for interval in intervals])
        axes.fill_between(
            places, means - halves, means + halves, color=looks["color"], alpha=0.2, linewidth=0
        )


def said_of_bands(samples: Iterable[Sequence[Any]]) -> str:
    """What a caption adds where `draw_means` has drawn bands: where a sample has several values."""
    if all(len(sample) < 2 for sample in samples):
        return ""
    return f" Bands are {CONFIDENCE:.0%} Student's t intervals of means over models."
