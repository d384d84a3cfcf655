"""The charts of accuracy against cost."""

from collections.abc import Sequence

from mnet_jax.ablation import pareto
from mnet_jax.ablation.arms import Report
from mnet_jax.ablation.page import plot
from mnet_jax.ablation.page.looks import reads, short_name, styles
from mnet_jax.ablation.page.markup import Markup, join, tag
from mnet_jax.ablation.statistics import CONFIDENCE

HEIGHT = 300.0
LETTER_WIDTH = 7.5  # of a name, about
MOST_LABELS = 8  # points with their names beside them


def costs(report: Report) -> Markup:
    """Accuracy against each cost in which the arms differ, with the frontier."""
    return join(drawn for cost in pareto.COSTS if (drawn := _pareto(report, cost)))


def _pareto(report: Report, cost: pareto.Cost) -> Markup | None:
    found = pareto.points(report, cost)
    if len({point.cost for point in found}) < 2:
        return None
    bottom = HEIGHT - plot.BOTTOM
    make = plot.padded_log if pareto.is_wide(found) else plot.padded
    x = make([p.cost for p in found], plot.LEFT + 4, plot.WIDTH - plot.RIGHT, 0.1)
    ends = [
        100 * end
        for point in found
        for end in (point.accuracy.mean, point.accuracy.low, point.accuracy.high)
        if end is not None
    ]
    y = plot.padded(ends, bottom, plot.TOP)
    best = pareto.frontier(found)
    path = f"M{x(best[0].cost):.2f},{y(100 * best[0].accuracy.mean):.2f}"
    path += "".join(f" H{x(p.cost):.2f} V{y(100 * p.accuracy.mean):.2f}" for p in best[1:])
    path += f" H{plot.WIDTH - plot.RIGHT:g}"
    looks = {id(arm): look for arm, look in zip(report.arms, styles(report).values(), strict=True)}
    return plot.chart(
        cost.title,
        f"test accuracy in %; bar: {CONFIDENCE:.0%} interval; line: the frontier, no arm is above "
        "and left of it",
        HEIGHT,
        plot.x_axis(x, HEIGHT, cost.unit),
        plot.y_axis(y),
        tag("path", class_="frontier", d=path),
        *(_point(report, point, looks[id(point.arm)], cost, x, y) for point in found),
        *(_labels(report, found, x, y) if len(found) <= MOST_LABELS else ()),
    )


def _point(
    report: Report, point: pareto.Point, look: str, cost: pareto.Cost, x: plot.Scale, y: plot.Scale
) -> Markup:
    """A dot with its interval, and a patch to point at that a finger can hit."""
    across, down = x(point.cost), y(100 * point.accuracy.mean)
    rows = [
        (look, "accuracy", f"{reads(point.accuracy, report)} %"),
        ("", cost.unit, f"{point.cost:.4g}"),
        ("", "on the frontier" if point.on_frontier else "not on the frontier", ""),
    ]
    parts = [tag("circle", class_="hit", cx=across, cy=down, r=16)]
    low, high = point.accuracy.low, point.accuracy.high
    if low is not None and high is not None:
        parts.append(
            tag("line", class_=f"whisker {look}", x1=across, x2=across, y1=y(100 * low),
                y2=y(100 * high))
        )  # fmt: skip
    parts.append(tag("circle", class_=f"dot {look}", cx=across, cy=down, r=5.5))
    name = report.name_of(point.arm)
    return tag("g", *parts, class_="mark", tabindex="0", role="img",
               data_tip=plot.tip(name, rows), aria_label=plot.spoken(name, rows))  # fmt: skip


def _labels(
    report: Report, found: Sequence[pareto.Point], x: plot.Scale, y: plot.Scale
) -> list[Markup]:
    """Names beside the points, each as much lower as it takes not to cover another."""
    labels, taken = [], list[tuple[float, float, float]]()
    for point in sorted(found, key=lambda p: -p.accuracy.mean):
        name = short_name(report, point.arm)
        across, down = x(point.cost), y(100 * point.accuracy.mean) - 7
        wide = LETTER_WIDTH * len(name)
        left = across + 9 + wide > plot.WIDTH
        start = across - 9 - wide if left else across + 9
        while any(start < b and a < start + wide and abs(down - d) < 13 for a, b, d in taken):
            down += 13
        taken.append((start, start + wide, down))
        labels.append(
            tag("text", name, class_="name beside", x=across - 9 if left else across + 9, y=down,
                text_anchor="end" if left else "start")
        )  # fmt: skip
    return labels
