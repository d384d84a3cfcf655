"""Draws V2's Fig. 1, and the errors that `analysis.manifold` measures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from mnet_jax.plots.style import BLACK, COLOURS, add_caption, new_figure
from mnet_jax.statistics.intervals import CONFIDENCE, mean_interval

if TYPE_CHECKING:  # they import JAX
    from mnet_jax.analysis.manifold import InformationLoss

POSITION = "viridis"  # perceptually uniform, and distinct to the colour-blind


def draw(
    points: np.ndarray,
    projected: Mapping[int, np.ndarray],
    losses: "Sequence[InformationLoss]",
    *,
    activation: str,
    distribution: str,
) -> Figure:
    """Draws a curve before and after an activation function, and the errors of reconstructing it.

    The activation function, act, is applied to T x, where x is a point of the curve and T is a
    random matrix [n, 2].

    Args:
      points: the points x, [p, 2], in order along the curve.
      projected: for each number of dimensions n, the points T^+ act(T x), [p, 2], for a single draw
        of T; T^+ is the pseudo-inverse of T.
      losses: for each n, the errors over many draws of T.
      activation: name of act.
      distribution: distribution of T.
    """
    figure = new_figure(12.0, 6.6)
    rows = figure.add_gridspec(2, 1, height_ratios=(1, 1.25))
    top, bottom = rows[0].subgridspec(1, 1 + len(projected)), rows[1].subgridspec(1, 2)
    panels = [figure.add_subplot(top[i]) for i in range(1 + len(projected))]
    _draw_points(panels[0], points, "input")
    panels[0].set_ylabel("x₂ (spreads of the input)")
    for axes, (dimensions, places) in zip(panels[1:], projected.items(), strict=True):
        _draw_points(axes, places, f"n = {dimensions}")
    left, right = (figure.add_subplot(bottom[i]) for i in (0, 1))
    _draw_errors(left, losses)
    _draw_collapse(right, losses, activation)
    draws = len(losses[0].collapsed)
    add_caption(
        figure,
        f"As Fig. 1 of the V2 paper (arXiv 1801.04381): a curve x, coloured by position, becomes "
        f"{activation}(T x) in n dimensions and is projected back by the pseudo-inverse of T. Top: "
        f"one T ({distribution}) for each n. Below: {draws} of them; bars are {CONFIDENCE:.0%} "
        "Student's t intervals of the mean. Error: root mean square after the best affine "
        "correction, over the curve's own spread.",
    )
    return figure


def _draw_points(axes: Axes, places: np.ndarray, title: str) -> None:
    order = np.linspace(0, 1, len(places))
    axes.scatter(places[:, 0], places[:, 1], c=order, cmap=POSITION, s=3, linewidths=0)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("x₁ (spreads)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_aspect("equal", "datalim")


def _draw_errors(axes: Axes, losses: "Sequence[InformationLoss]") -> None:
    kinds = {
        "projected back by the pseudo-inverse": [s.projection_error for s in losses],
        "read off all n dimensions": [s.readout_error for s in losses],
    }
    for (name, values), colour, marker in zip(kinds.items(), COLOURS, "os", strict=False):
        _draw_means(axes, losses, values, name, colour, marker)
    axes.set_ylabel("reconstruction error (spreads)")
    axes.set_title("Error of the reconstruction", loc="left", fontsize=11)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _draw_collapse(axes: Axes, losses: "Sequence[InformationLoss]", activation: str) -> None:
    values = [100 * s.collapsed for s in losses]
    _draw_means(axes, losses, values, f"measured, {activation}", COLOURS[1], "D")
    if activation == "relu":
        expected = [100 * s.relu_collapse for s in losses]
        dimensions = [s.dimensions for s in losses]
        axes.plot(dimensions, expected, ":", color=BLACK, label="ReLU, (n + 1) / 2ⁿ")
    axes.set_ylabel("points whose neighbourhood collapsed (%)")
    axes.set_title("Where a neighbourhood becomes a line or a point", loc="left", fontsize=11)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _draw_means(
    axes: Axes,
    losses: "Sequence[InformationLoss]",
    values: Sequence[np.ndarray],
    name: str,
    colour: str,
    marker: str,
) -> None:
    intervals = [mean_interval(sample) for sample in values]
    axes.errorbar(
        [s.dimensions for s in losses],
        [interval.mean for interval in intervals],
        yerr=[interval.half_width or 0 for interval in intervals],
        color=colour, marker=marker, markersize=5, capsize=3, linewidth=1.4, label=name,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([s.dimensions for s in losses])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("dimensions n of the embedding")
    axes.grid(alpha=0.25, linewidth=0.6)
