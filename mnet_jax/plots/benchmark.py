"""Draws a benchmark: time against multiply-adds, and the roofline."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from mnet_jax.analysis.cost import Machine
from mnet_jax.benchmark.contenders import CONTENDERS, LOWERINGS, QUANTIZED
from mnet_jax.benchmark.timing import BenchmarkResult
from mnet_jax.plots import style

COLOURS = (*style.COLOURS, style.BLACK, style.GREY)
MARKERS = "osD^vPX"  # one fewer than colours, so that pairs repeat only after 56
STYLES = {  # contenders and lowerings share styles, as no figure shows both
    contender.name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
    for several in ((*CONTENDERS, *QUANTIZED), LOWERINGS)
    for i, contender in enumerate(several)
}


def to_png(result: BenchmarkResult) -> bytes:
    """Draws time against multiply-adds, and every case on the roofline; returns PNG data."""
    figure = style.new_figure()
    left, right = figure.subplots(1, 2)
    _draw_times(left, result)
    _draw_roofline(right, result)
    for axes in (left, right):
        axes.grid(alpha=0.25, linewidth=0.6)
        for axis in (axes.xaxis, axes.yaxis):
            style.label_decades(axis)
    return style.to_png(figure)


def _points(result: BenchmarkResult, contender: str) -> list[tuple[float, float, float]]:
    """Returns (multiply-adds, bytes, seconds) of every case that the contender ran."""
    return [
        (comparison.madds, comparison.moved_bytes, timing.median_seconds)
        for comparison in result.comparisons
        for timing in comparison.timings
        if timing.contender == contender and timing.seconds
    ]


def _draw_times(axes: Axes, result: BenchmarkResult) -> None:
    for name, (colour, marker) in STYLES.items():
        points = _points(result, name)
        if points:
            x, y = [p[0] / 1e6 for p in points], [1000 * p[2] for p in points]
            axes.scatter(x, y, color=colour, marker=marker, s=28, alpha=0.75, label=name)
    axes.set(xscale="log", yscale="log", xlabel="multiply-adds (millions)", ylabel="time (ms)")
    axes.set_title(f"{result.suite}: multiply-adds against time", loc="left", fontsize=11)
    axes.legend(fontsize=8)


def _draw_roofline(axes: Axes, result: BenchmarkResult) -> None:
    machine = result.machine
    every = [p for name in STYLES for p in _points(result, name)]
    intensity = [2 * madds / moved for madds, moved, _ in every]
    draw_roof(axes, machine, intensity)
    for name, (colour, marker) in STYLES.items():
        points = _points(result, name)
        x = [2 * madds / moved for madds, moved, _ in points]
        y = [2 * madds / seconds / 1e9 for madds, _, seconds in points]
        axes.scatter(x, y, color=colour, marker=marker, s=28, alpha=0.75)
    axes.set(
        xscale="log", yscale="log", xlabel="operations per byte that must be moved",
        ylabel="GFLOP/s",
    )  # fmt: skip
    axes.set_title("The roofline, measured on this machine", loc="left", fontsize=11)


def draw_roof(axes: Axes, machine: Machine, intensities: Sequence[float]) -> None:
    """Draws a machine's roofline over a range of operations per byte around `intensities`."""
    low = min([*intensities, machine.ridge]) / 2
    high = max([*intensities, machine.ridge]) * 2
    roof = [low, machine.ridge, high]
    rates = [min(machine.flops_per_second, x * machine.bytes_per_second) / 1e9 for x in roof]
    axes.plot(roof, rates, color=style.BLACK, linewidth=1.5)
