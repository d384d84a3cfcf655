"""Draws what the rounding of networks costs, method by method, and the noise of each kernel."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mnet_jax.plots.style import BLACK, COLOURS, add_caption, label, new_figure
from mnet_jax.quantization.types import CORRECTED_ALONE
from mnet_jax.statistics.intervals import CONFIDENCE, Interval, mean_interval, share_interval

if TYPE_CHECKING:  # it imports JAX
    from mnet_jax.quantization import Ladder, Rung, Sensitivity

_KINDS = {"conv": BLACK, "depthwise": COLOURS[1], "pointwise": COLOURS[0], "dense": COLOURS[2]}
_COLOURS, _MARKERS = (*COLOURS, BLACK), "os^Dv*P"  # of 8 to 2 bits
_HEIGHT = 4.4  # inches of a row
_NUDGE = 0.09  # horizontal distance of the bits, so that their intervals do not cover each other


def draw(
    ladders: "Mapping[str, Sequence[Ladder]]",
    layers: "Mapping[str, Sequence[Sequence[Sensitivity]]]",
    rounding: str,
) -> Figure:
    """Draws a row for each network: its ladder for each number of bits, and its sensitivity.

    Args:
      ladders: for each network's name, the ladders of its models (such as one for each seed). If
        there are several models, their means are drawn.
      layers: for each name and model, the sensitivities of the layers.
      rounding: how the kernels in `layers` are rounded, such as `8 bits per tensor`.
    """
    figure = new_figure(12.0, _HEIGHT * len(ladders) + 0.6)
    panels = figure.subplots(len(ladders), 2, width_ratios=(1.25, 1), squeeze=False)
    for (left, right), name in zip(panels, ladders, strict=True):
        _draw_ladders(left, ladders[name])
        _draw_layers(right, layers[name])
        left.set_title(label(name), loc="left", fontsize=11)
        right.set_title(f"Each kernel alone in {rounding}", loc="left", fontsize=11)
    add_caption(figure, _caption(ladders))
    return figure


def _draw_ladders(axes: Axes, ladders: "Sequence[Ladder]") -> None:
    """Draws a line for each number of bits and granularity; `CORRECTED_ALONE` is a point."""
    rungs, images = [*zip(*(each.rungs for each in ladders), strict=True)], ladders[0].images
    rounded = [same for same in rungs if same[0].granularity]
    places = {key: i for i, key in enumerate(dict.fromkeys(_place(same) for same in rounded))}
    bits = [*dict.fromkeys(same[0].bits for same in rounded)]
    handles = []
    for i, (each, colour, marker) in enumerate(zip(bits, _COLOURS, _MARKERS, strict=False)):
        looks: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1}
        handles.append(Line2D([], [], label=f"{each} bits", **looks))
        lines: dict[tuple[str | None, bool], list[Sequence[Rung]]] = {}
        for same in rounded:
            if same[0].bits == each:
                is_alone = same[0].name == CORRECTED_ALONE
                lines.setdefault((same[0].granularity, is_alone), []).append(same)
        nudge = _NUDGE * (i - (len(bits) - 1) / 2)
        for line in lines.values():
            intervals = [_interval(same, images) for same in line]
            means = [100 * one.mean for one in intervals]
            x = [places[_place(same)] + nudge for same in line]
            axes.errorbar(x, means, yerr=_reaches(intervals), elinewidth=1, capsize=2, **looks)
            if len(ladders) > 1:  # an interval hides that one model of five collapses
                each_model = 100 * np.array([[_share(one) for one in same] for same in line])
                beside = [place - _NUDGE / 2 for place in x]
                axes.plot(beside, each_model, ".", color=colour, markersize=5, alpha=0.6)
    if rungs[0][0].accuracy is not None:
        accuracy = 100 * _interval(rungs[0], images).mean
        axes.axhline(accuracy, color=BLACK, linestyle=":", linewidth=1)
        handles.append(Line2D([], [], color=BLACK, linestyle=":", label="float"))
        axes.set_ylabel("accuracy (%)")
    else:
        axes.set_ylabel("images with the class as in float (%)")
    axes.set_ylim(-3, 103)
    axes.set_xticks([*places.values()], [name for _, name in places], rotation=30, ha="right")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(handles=handles, fontsize=8)


def _place(same: "Sequence[Rung]") -> tuple[str | None, str]:
    """Returns what identifies a place on the x axis."""
    return same[0].granularity, same[0].name


def _reaches(intervals: Sequence[Interval]) -> np.ndarray:
    """Returns the lengths of bars below and above the means in percent, [2, n]."""
    ends = [(one.mean - (one.low or 0.0), (one.high or 0.0) - one.mean) for one in intervals]
    return 100 * np.maximum(np.array(ends).T, 0)


def _interval(same: "Sequence[Rung]", images: int) -> Interval:
    """Returns the interval of a rung: over models, or over the images of one model."""
    values = [_share(one) for one in same]
    if len(values) == 1:
        return share_interval(round(values[0] * images), images)
    return mean_interval(values)


def _share(rung: "Rung") -> float:
    """Returns the accuracy of a rung, or its agreement with the network in float."""
    return rung.agreement if rung.accuracy is None else rung.accuracy


def _draw_layers(axes: Axes, models: "Sequence[Sequence[Sensitivity]]") -> None:
    """Draws the signal-to-noise ratio of each layer, coloured by its kind."""
    rows = [*zip(*models, strict=True)]
    for kind, colour in _KINDS.items():
        own = [
            (i, mean_interval(values))
            for i, same in enumerate(rows)
            if same[0].kind == kind
            and (values := [one.sqnr for one in same if one.sqnr is not None])
        ]
        if own:
            places, intervals = zip(*own, strict=True)
            axes.errorbar(
                places, [one.mean for one in intervals],
                yerr=[one.half_width or 0.0 for one in intervals], fmt="o", color=colour,
                markersize=4, elinewidth=1, label=kind,
            )  # fmt: skip
    axes.set_xlabel("layer, in the order of the network")
    axes.set_ylabel("signal-to-quantization-noise of the logits (dB)")
    axes.grid(alpha=0.25, linewidth=0.6)
    # Below the labels: within the axes it can cover intervals.
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)


def _caption(ladders: "Mapping[str, Sequence[Ladder]]") -> str:
    counts = {len(models) for models in ladders.values()}
    over = ["of one model over images (Wilson)"] * (1 in counts)
    over += ["of means over models (Student's t)"] * (counts != {1})
    return (
        "Networks rounded after training; each method with a plus adds to those on its left (arXiv "
        "1906.04721, 2004.10568). ReLU instead of ReLU6 is another function in float too. On the "
        "right, the lower a layer, the more noise its kernel causes. "
        f"Bars are {CONFIDENCE:.0%} intervals {' and '.join(over)}"
        f"{', dots single models' * (counts != {1})}."
    )
