"""The charts over seeds: learning curves, and what every seed found."""

import itertools
from collections.abc import Sequence

from mnet_jax.ablation import wording
from mnet_jax.ablation.arms import ArmResult, Report
from mnet_jax.ablation.page import plot
from mnet_jax.ablation.page.looks import Styles, reads, short_name, styles
from mnet_jax.ablation.page.markup import Markup, tag
from mnet_jax.ablation.statistics import CONFIDENCE, Interval, mean_interval

MOST_COLUMNS = 100  # epochs that can be pointed at; of more, evenly spaced ones
CURVES_HEIGHT, ROW_HEIGHT = 300.0, 46.0


def curves(report: Report) -> Markup | None:
    """Validation accuracy after each epoch: the mean over seeds, and its interval as a band."""
    means = {i: _epochs(arm, report) for i, arm in enumerate(report.arms) if arm.outcomes}
    means = {i: found for i, found in means.items() if found}
    if not means:
        return None
    looks = styles(report)
    count = max(map(len, means.values()))
    x = plot.Scale(low=1, high=max(count, 2), start=plot.LEFT + 6, end=plot.WIDTH - plot.RIGHT)
    late = [
        100 * end
        for found in means.values()
        for point in found[len(found) // 3 :]
        for end in (point.low, point.mean, point.high)
        if end is not None
    ]
    # The first epochs' rise would leave the arms' differences a hair's breadth: cut it off.
    bottom = CURVES_HEIGHT - plot.BOTTOM
    y = plot.padded(late, bottom, plot.TOP)
    y = plot.Scale(low=max(y.low, 0), high=min(y.high, 101), start=bottom, end=plot.TOP)
    lines = [_band(found, x, y, looks[i]) for i, found in means.items()]
    lines += [_line(found, x, y, looks[i]) for i, found in means.items()]
    window = tag("svg", *lines, x=plot.LEFT, y=plot.TOP, width=plot.WIDTH - plot.LEFT,
                 height=bottom - plot.TOP,
                 viewBox=f"{plot.LEFT:g} {plot.TOP:g} {plot.WIDTH - plot.LEFT:g} "
                         f"{bottom - plot.TOP:g}")  # fmt: skip
    epochs = [tick for tick in x.ticks() if tick == int(tick) and 1 <= tick <= count]
    return plot.chart(
        "Learning curves",
        "validation accuracy in %; line: mean over seeds, band: its "
        f"{CONFIDENCE:.0%} {wording.METHODS[report.method]} interval at each epoch",
        CURVES_HEIGHT,
        plot.x_axis(x, CURVES_HEIGHT, "epoch", [1, *[e for e in epochs if e > 1]]),
        plot.y_axis(y),
        window,
        *_columns(report, means, x, y, looks),
        kind="columns",
    )


def _epochs(arm: ArmResult, report: Report) -> list[Interval]:
    """The mean over seeds after each epoch that all seeds have."""
    curves = [outcome.validation_accuracy for outcome in arm.outcomes]
    return [mean_interval(values, method=report.method) for values in zip(*curves, strict=False)]


def _band(found: Sequence[Interval], x: plot.Scale, y: plot.Scale, look: str) -> Markup:
    ends = [(i, p.low, p.high) for i, p in enumerate(found, 1) if p.low is not None]
    if len(ends) < 2:
        return Markup()
    there = [f"{x(i):.2f},{y(100 * high):.2f}" for i, _, high in ends if high is not None]
    back = [f"{x(i):.2f},{y(100 * low):.2f}" for i, low, _ in reversed(ends) if low is not None]
    return tag("path", class_=f"band {look}", d=f"M{' L'.join(there + back)}Z")


def _line(found: Sequence[Interval], x: plot.Scale, y: plot.Scale, look: str) -> Markup:
    places = [f"{x(i):.2f},{y(100 * point.mean):.2f}" for i, point in enumerate(found, start=1)]
    if len(places) == 1:
        across, down = map(float, places[0].split(","))
        return tag("circle", class_=f"dot {look}", cx=across, cy=down, r=4)
    return tag("path", class_=f"curve {look}", d=f"M{' L'.join(places)}")


def _columns(
    report: Report,
    means: dict[int, list[Interval]],
    x: plot.Scale,
    y: plot.Scale,
    looks: Styles,
) -> list[Markup]:
    """For each epoch a strip that can be pointed at, and says where all arms are."""
    count = max(map(len, means.values()))
    stride = -(-count // MOST_COLUMNS)
    epochs = sorted({*range(1, count + 1, stride), count})
    edges = [plot.LEFT, *((x(a) + x(b)) / 2 for a, b in itertools.pairwise(epochs)),
             plot.WIDTH]  # fmt: skip
    columns = []
    for epoch, (left, right) in zip(epochs, itertools.pairwise(edges), strict=True):
        rows = [
            (looks[i], short_name(report, report.arms[i]), reads(found[epoch - 1], report))
            for i, found in means.items()
            if epoch <= len(found)
        ]
        title = f"epoch {epoch}"
        strip = tag("rect", class_="hit", x=left, y=plot.TOP, width=right - left,
                    height=y.start - plot.TOP)  # fmt: skip
        guide = tag("line", class_="guide", x1=x(epoch), x2=x(epoch), y1=plot.TOP, y2=y.start)
        columns.append(
            tag("g", strip, guide, class_="column", data_tip=plot.tip(title, rows), role="img",
                aria_label=plot.spoken(title, rows))
        )  # fmt: skip
    return columns


def outcomes(report: Report) -> Markup | None:
    """Differences to the baseline, or accuracies where none is compared: each seed, mean, bar."""
    compared = any(arm.difference for arm in report.arms)
    looks = styles(report)
    rows = [
        (looks[i], arm, interval)
        for i, arm in enumerate(report.arms)
        if (interval := arm.difference if compared else arm.accuracy)
    ]
    if not rows:
        return None
    values = [0.0] if compared else []
    for _, arm, interval in rows:
        values += [*_seeds(arm, compared).values(), 100 * interval.mean]
        values += [100 * end for end in (interval.low, interval.high) if end is not None]
    height = plot.TOP + ROW_HEIGHT * len(rows) + plot.BOTTOM
    x = plot.padded(values, plot.RIGHT, plot.WIDTH - plot.RIGHT)
    label = "percentage points of test accuracy" if compared else "test accuracy in %"
    marks = [plot.x_axis(x, height, label)]
    for row, (look, arm, interval) in enumerate(rows):
        marks.append(_row(report, arm, interval, look, x, plot.TOP + ROW_HEIGHT * row, compared))
    several = (
        f", the {report.family} of them corrected to hold together"
        if compared and report.family > 1
        else ""
    )
    return plot.chart(
        "Difference to the baseline" if compared else "Test accuracy",
        f"{'paired by seed; ' if compared else ''}dots: each seed, bar and diamond: "
        f"{CONFIDENCE:.0%} interval and mean{several}",
        height,
        *marks,
    )


def _seeds(arm: ArmResult, compared: bool) -> dict[int, float]:
    """In percent or points, for each seed."""
    values = {o.seed: o.difference if compared else o.accuracy for o in arm.outcomes}
    return {seed: 100 * value for seed, value in values.items() if value is not None}


def _row(
    report: Report, arm: ArmResult, interval: Interval, look: str, x: plot.Scale, top: float,
    compared: bool,
) -> Markup:  # fmt: skip
    """Name and verdict, below them bar and diamond, below those a dot for each seed."""
    unit = "points" if compared else "%"
    sign = "+" if compared else ""
    seeds = _seeds(arm, compared)
    rows = [(look, "mean", f"{reads(interval, report, sign)} {unit}")]
    rows += [("", f"seed {seed}", f"{value:{sign}z.2f} {unit}") for seed, value in seeds.items()]
    said = wording.judgement(report, arm)
    name, end = short_name(report, arm), plot.WIDTH - plot.RIGHT
    parts = [
        tag("rect", class_="hit", x=0, y=top, width=plot.WIDTH, height=ROW_HEIGHT),
        tag("text", name, class_="name beside", x=plot.RIGHT, y=top + 13),
        tag("text", said, class_="beside", x=end, y=top + 13, text_anchor="end"),
    ]
    if compared:  # in each row below the words, which it would strike through
        parts.append(tag("line", class_="zero", x1=x(0), x2=x(0), y1=top + 18, y2=top + 43))
    if interval.low is not None and interval.high is not None:
        left, right = x(100 * interval.low), x(100 * interval.high)
        parts.append(
            tag("rect", class_=f"bar {look}", x=left, y=top + 21, width=max(right - left, 1.0),
                height=7, rx=1)
        )  # fmt: skip
    parts += [
        tag("circle", class_=f"seed {look}", cx=x(value), cy=top + 37, r=3.2)
        for value in seeds.values()
    ]
    middle, line = x(100 * interval.mean), top + 24.5
    diamond = f"M{middle - 5:.2f},{line} l5,-5 l5,5 l-5,5Z"
    parts.append(tag("path", class_=f"dot {look}", d=diamond))
    return tag("g", *parts, class_="mark", tabindex="0", role="img",
               data_tip=plot.tip(report.name_of(arm), rows),
               aria_label=plot.spoken(report.name_of(arm), rows))  # fmt: skip
