"""The picture of a report: learning curves, and what every seed says about every arm."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mnet_jax import drawing
from mnet_jax.ablation import pareto
from mnet_jax.ablation.arms import ArmResult, Report
from mnet_jax.ablation.statistics import CONFIDENCE, Interval
from mnet_jax.drawing import BLACK, COLOURS, MUTED, new_figure
from mnet_jax.lettering import label

BASELINE_COLOUR = BLACK
DASHES = ("-", "--", ":")  # once round the colours each
LONGEST_NAME = 28  # letters
FEWEST_ROWS = 4  # a single row is no higher than one of four


def to_png(report: Report) -> bytes:
    """The picture as a PNG of 1200 x 500 pixels.

    Left: validation accuracy after each epoch, the mean over seeds and thin lines for each seed.
    Right: the difference to the baseline of each seed and their mean with its interval; where no
    arm has one, the test accuracies instead.
    """
    figure = new_figure()
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    styles = _styles(report.arms)
    _draw_curves(left, report, styles)
    _draw_outcomes(right, report, styles)
    return drawing.to_png(figure)


def pareto_to_png(report: Report) -> bytes:
    """Accuracy with its interval against each cost of `pareto.COSTS`, 1200 x 500 pixels."""
    figure = new_figure()
    styles = _styles(report.arms)
    for axes, cost in zip(figure.subplots(1, 2), pareto.COSTS, strict=True):
        _draw_pareto(axes, report, cost, styles)
    return drawing.to_png(figure)


def _styles(arms: Sequence[ArmResult]) -> list[tuple[str, str]]:
    """A colour and a dash for each arm."""
    styles, others = [], 0
    for arm in arms:
        if arm.baseline:
            styles.append((BASELINE_COLOUR, DASHES[0]))
            continue
        cycle, colour = divmod(others, len(COLOURS))
        styles.append((COLOURS[colour], DASHES[cycle % len(DASHES)]))
        others += 1
    return styles


def _name(report: Report, arm: ArmResult) -> str:
    name = report.name_of(arm)
    return label(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…")


def _draw_curves(axes: Axes, report: Report, styles: Sequence[tuple[str, str]]) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy (%)")
    _title(axes, "Learning curves", "thick: mean over seeds; thin: each seed")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn, late = 0, []
    for arm, (colour, dash) in zip(report.arms, styles, strict=True):
        curves = [outcome.validation_accuracy for outcome in arm.outcomes]
        epochs = range(1, 1 + min(map(len, curves), default=0))
        if not epochs:
            continue
        mean = [100 * math.fsum(curve[i - 1] for curve in curves) / len(curves) for i in epochs]
        marker = "o" if len(epochs) == 1 else ""
        if len(curves) > 1:
            for curve in curves:
                percents = [100 * accuracy for accuracy in curve[: len(epochs)]]
                axes.plot(epochs, percents, color=colour, linewidth=0.7, alpha=0.35)
        axes.plot(
            epochs, mean, dash, color=colour, linewidth=1.9, marker=marker, markersize=5,
            label=_name(report, arm), zorder=3,
        )  # fmt: skip
        drawn += 1
        late += [100 * value for curve in curves for value in curve[len(epochs) // 3 :]]
    if not drawn:
        axes.text(0.5, 0.5, "no trial has finished", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
        return
    # The first epochs' rise would leave the arms' differences a hair's breadth: cut it off.
    reach = max(max(late) - min(late), 0.5)
    axes.set_ylim(min(late) - 0.2 * reach, max(late) + 0.1 * reach)
    if report.columns:
        axes.legend(
            title=", ".join(report.columns), loc="lower right", fontsize=8 if drawn > 6 else 9,
            title_fontsize=9, ncols=1 if drawn < 7 else 2, frameon=True, framealpha=0.9,
        )  # fmt: skip


def _draw_outcomes(axes: Axes, report: Report, styles: Sequence[tuple[str, str]]) -> None:
    """One row for each arm, the first on top."""
    compared = any(arm.difference for arm in report.arms)
    rows = [
        (arm, colour)
        for arm, (colour, _) in zip(report.arms, styles, strict=True)
        if not (compared and arm.baseline)
    ]
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.set_yticks(range(len(rows)), [_row_name(report, arm) for arm, _ in rows])
    middle, half = (len(rows) - 1) / 2, max(len(rows), FEWEST_ROWS) / 2
    axes.set_ylim(middle + half, middle - half)
    axes.margins(x=0.06)
    axes.tick_params(axis="y", length=0)
    if compared:
        axes.axvline(0, color=BASELINE_COLOUR, linewidth=1.2)
        axes.set_xlabel("percentage points of test accuracy")
        its = f", {_name(report, report.anchor)}" if report.anchor else ""
        title = f"Difference to the baseline{its}, paired by seed"
    else:
        axes.set_xlabel("test accuracy (%)")
        title = "Test accuracy"
    several = ", corrected for their number" if compared and report.family > 1 else ""
    _title(axes, title, f"dots: each seed; bar: mean and {CONFIDENCE:.0%} interval{several}")
    if not any(arm.outcomes for arm, _ in rows):
        axes.set_xticks([])
    for row, (arm, colour) in enumerate(rows):
        if compared:
            values = [o.difference for o in arm.outcomes if o.difference is not None]
        else:
            values = [outcome.accuracy for outcome in arm.outcomes]
        interval = arm.difference if compared else arm.accuracy
        if interval:
            _draw_row(axes, row, [100 * value for value in values], interval, colour)
        if arm.verdict:
            _say_beside(axes, row, arm.verdict)
        elif not values:
            _say_beside(axes, row, "no common seed" if arm.outcomes else "nothing finished")


def _draw_pareto(
    axes: Axes, report: Report, cost: pareto.Cost, styles: Sequence[tuple[str, str]]
) -> None:
    """A dot and an interval for each arm, and steps along the frontier."""
    axes.set_xlabel(cost.unit)
    axes.set_ylabel("test accuracy (%)")
    _title(axes, cost.title, f"bar: {CONFIDENCE:.0%} interval; line: no arm is above and left")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.margins(x=0.12, y=0.12)
    found = pareto.points(report, cost)
    if not found:
        axes.text(0.5, 0.5, "no trial has finished", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
        return
    if pareto.is_wide(found):
        axes.set_xscale("log")
        drawing.label_decades(axes.xaxis)
    best = pareto.frontier(found)
    axes.step(
        [p.cost for p in best],
        [100 * p.accuracy.mean for p in best],
        where="post",
        color="0.6",
        zorder=1,
    )
    colours = {id(arm): colour for arm, (colour, _) in zip(report.arms, styles, strict=True)}
    for point in found:
        interval, colour = point.accuracy, colours[id(point.arm)]
        if interval.low is not None and interval.high is not None:
            ends = [100 * interval.low, 100 * interval.high]
            axes.plot([point.cost] * 2, ends, color=colour, linewidth=4, alpha=0.4, zorder=2)
        axes.plot(
            [point.cost], [100 * point.accuracy.mean], "o", color=colour, markersize=7, zorder=3
        )
        axes.annotate(
            _name(report, point.arm), (point.cost, 100 * point.accuracy.mean), (7, 5),
            textcoords="offset points", fontsize=8, color=colour,
        )  # fmt: skip


def _row_name(report: Report, arm: ArmResult) -> str:
    """The arm's name, with the number of its seeds where some are not there."""
    tried = len(arm.outcomes) + len(arm.failures) + len(arm.not_run)
    counts = "" if tried == len(arm.outcomes) else f"\n{len(arm.outcomes)} of {tried} seeds"
    return _name(report, arm) + counts


def _draw_row(
    axes: Axes, row: int, percents: Sequence[float], interval: Interval, colour: str
) -> None:
    """Dots for the seeds below the line of the row, mean and interval (of shares) on it."""
    axes.scatter(
        percents, [row + 0.24] * len(percents), s=26, color=colour, alpha=0.6,
        linewidth=0, zorder=3,
    )  # fmt: skip
    if interval.low is not None and interval.high is not None:
        ends = [100 * interval.low, 100 * interval.high]
        axes.plot(
            ends, [row, row], color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt", zorder=2
        )
        axes.plot([100 * interval.mean], [row], marker="D", markersize=6, color=colour, zorder=4)


def _say_beside(axes: Axes, row: int, text: str) -> None:
    axes.text(
        1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8,
        color=MUTED,
    )  # fmt: skip


def _title(axes: Axes, title: str, legend: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, pad=20)
    axes.annotate(
        legend, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=8.5,
        color=MUTED,
    )  # fmt: skip
