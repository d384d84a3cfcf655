"""Draws a network's layers on the roofline, and each layer's measured and predicted times.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52 (2009).
"""

import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from mnet_jax.analysis.cost import Machine
from mnet_jax.benchmark.layers import TimedLayer
from mnet_jax.plots.benchmark import draw_roof
from mnet_jax.plots.style import COLOURS, GREY, add_caption, label, label_decades, new_figure

MARKERS = "osD^"


def draw(title: str, machine: Machine, layers: Sequence[TimedLayer]) -> Figure:
    """Draws each layer as a point below the roof, and compares its measured and predicted times.

    Args:
      title: the network and its size.
      machine: the machine's measured peak and bandwidth.
      layers: the timed layers.
    """
    figure = new_figure(12.0, 5.6)
    figure.suptitle(label(title), x=0.01, ha="left", fontsize=12)
    left, right = figure.subplots(1, 2)
    draw_roof(left, machine, [2 * layer.madds / layer.moved_bytes for layer in layers])
    for kind, colour, marker in zip(
        dict.fromkeys(layer.kind for layer in layers), COLOURS, MARKERS, strict=False
    ):
        own = [layer for layer in layers if layer.kind == kind]
        seconds = [statistics.median(layer.seconds) for layer in own]
        style = {"color": colour, "marker": marker, "s": 30, "alpha": 0.8, "label": kind}
        left.scatter(
            [2 * layer.madds / layer.moved_bytes for layer in own],
            [2 * layer.madds / s / 1e9 for layer, s in zip(own, seconds, strict=True)],
            **style,
        )
        right.scatter(
            [1000 * _bound(machine, layer) for layer in own], [1000 * s for s in seconds], **style
        )
    least = 1000 * min(_bound(machine, layer) for layer in layers)
    most = 1000 * max(statistics.median(layer.seconds) for layer in layers)
    right.plot([least, most], [least, most], color=GREY, linewidth=1, label="as predicted")
    left.set(xlabel="floating point operations per byte moved", ylabel="GFLOP/s")
    left.set_title("Roofline, measured on this machine", loc="left", fontsize=11)
    right.set(xlabel="time that the roofline predicts (ms)", ylabel="time measured (ms)")
    right.set_title("Predicted and measured time of one call", loc="left", fontsize=11)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.25, linewidth=0.6)
        for axis in (axes.xaxis, axes.yaxis):
            label_decades(axis)
    add_caption(
        figure,
        "Why multiply-adds are not time: left of the roof's edge, memory is the limit, and the "
        "depthwise layers are there (the V4 paper uses the roofline model in section 3, arXiv "
        "2404.10518). Bytes: each tensor once. Maps that fit into caches can be above the roof.",
    )
    return figure


def _bound(machine: Machine, layer: TimedLayer) -> float:
    return machine.bound_seconds(madds=layer.madds, moved_bytes=layer.moved_bytes)
