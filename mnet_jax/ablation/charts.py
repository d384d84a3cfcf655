"""The charts of a report, each defined once in Vega-Lite; `figure` and `page` render them.

Accuracies are in percent here, differences in percentage points. The data of a chart are rows, one
for each mark. A row's field `tooltip` is the tooltip of the mark, and also the mark's description
for screen readers.
"""

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from mnet_jax.ablation import pareto, wording
from mnet_jax.ablation.arms import ArmResult, Report
from mnet_jax.ablation.themes import Theme
from mnet_jax.statistics import formatting
from mnet_jax.statistics.intervals import CONFIDENCE, Interval, mean_interval

HEIGHT = 300  # pixels; height of a plot with two axes
LETTER_WIDTH, LINE_HEIGHT = 6.6, 15  # pixels, approximately, at a font size of 12 pixels
ROW_HEIGHT = 36  # pixels; height of an arm's interval and seeds, below its name
MOST_STRIPS = 100  # epochs with a tooltip; in longer runs, evenly spaced epochs have one
MOST_BANDS = 6  # arms with an interval around their curve; more bands would hide each other
MOST_LABELS = 8  # points labelled with their names; a chart with more has a legend instead
DASHES = ([1, 0], [7, 4], [2, 3])  # line patterns; each is combined with every hue

LABEL_LIMIT = 120  # pixels; widest label of a point, so that it fits on a phone
SHIFTS = [LINE_HEIGHT * step for step in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5)]  # tried in turn
AIR = 0.07  # margin at both ends of an axis, as a share of the range
ENDS = ("mean", "low", "high")

Rows = list[dict[str, Any]]
Look = dict[str, str]  # the fields `arm` (its name) and `hue` of an arm's rows


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its title and legend.

    Attributes:
      title: the title.
      legend: what the marks mean, in words.
      plot: the Vega-Lite chart, without title, width and theme.
      plane: whether the vertical axis is quantitative. If it is, the plot may have any height.
    """

    title: str
    legend: str
    plot: alt.LayerChart
    plane: bool = True


def over_seeds(report: Report, theme: Theme) -> list[Chart]:
    """Returns charts of the learning curves and of each seed's result; [] if no seed finished."""
    found = (_curves(report, theme), _outcomes(report, theme))
    return [chart for chart in found if chart]


def against_costs(report: Report, theme: Theme) -> list[Chart]:
    """Returns one chart for each cost in which the arms differ: test accuracy against the cost."""
    found = (_tradeoff(report, cost, theme) for cost in pareto.COSTS)
    return [chart for chart in found if chart]


def configuration(theme: Theme) -> dict[str, Any]:
    """Returns Vega-Lite's `config`: the style of axes, legends and titles."""
    text = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "background": None,
        "font": theme.font,
        "view": {"stroke": None},
        "axis": {
            **text, "domain": False, "ticks": False, "gridColor": theme.hair,
            "labelColor": theme.soft, "titleColor": theme.soft, "labelPadding": 7,
            "titlePadding": 8,
        },
        "legend": {
            **text, "orient": "bottom", "labelColor": theme.ink, "titleColor": theme.soft,
            "labelLimit": theme.narrowest, "titleLimit": theme.narrowest, "symbolSize": 400,
            "symbolStrokeWidth": 2.2, "rowPadding": 4, "columnPadding": 18,
        },
        "title": {
            "color": theme.ink, "subtitleColor": theme.soft, "anchor": "start", "frame": "group",
            "fontSize": 15, "subtitleFontSize": 12, "subtitlePadding": 5, "offset": 24,
        },
    }  # fmt: skip


def hue_indices(report: Report, count: int) -> list[int]:
    """Returns each arm's index among `count` hues; only the baseline has index 0."""
    others = itertools.count()
    return [0 if arm.baseline else 1 + next(others) % (count - 1) for arm in report.arms]


def _looks(report: Report, theme: Theme) -> list[Look]:
    """Returns each arm's name and colour, as the fields `arm` and `hue` of rows."""
    hues = hue_indices(report, len(theme.hues))
    return [
        {"arm": _name(report, arm, theme), "hue": theme.hues[index]}
        for arm, index in zip(report.arms, hues, strict=True)
    ]


def _name(report: Report, arm: ArmResult, theme: Theme) -> str:
    return theme.letters(report.name_of(arm) + (" (baseline)" if arm.baseline else ""))


def _key(report: Report, theme: Theme, symbol: str) -> dict[str, Any]:
    """Returns the encoding of colour and dash by arm, with a legend.

    `symbol` is the shape of the legend's marks. Only one layer of a chart has this encoding.
    """
    looks, others = _looks(report, theme), itertools.count()
    names = [look["arm"] for look in looks]
    cycles = [0 if arm.baseline else next(others) // (len(theme.hues) - 1) for arm in report.arms]
    legend = alt.Legend(
        title=theme.letters(", ".join(report.columns)) or None,
        columns=max(1, int((theme.narrowest + 30) / (50 + LETTER_WIDTH * max(map(len, names))))),
        symbolType=symbol,
    )
    hues = alt.Scale(domain=names, range=[look["hue"] for look in looks])
    dashes = alt.Scale(domain=names, range=[DASHES[cycle % len(DASHES)] for cycle in cycles])
    return {
        "color": alt.Color("arm:N", scale=hues, legend=legend),
        "strokeDash": alt.StrokeDash("arm:N", scale=dashes, legend=legend),
    }


def _of_row() -> alt.Color:
    """Returns the encoding of colour by the row's field `hue`, for layers without a legend."""
    return alt.Color("hue:N", scale=None)


def _layer(rows: Iterable[Mapping[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.Data(values=[*rows]))


def _texts(rows: Rows, theme: Theme, **mark: Any) -> list[alt.Chart]:
    """Returns text marks with an outline in the background colour, so that no line crosses them."""
    return [
        _layer(rows).mark_text(
            fontSize=12, fontWeight=600, color=theme.ink, stroke=theme.ground, strokeWidth=width,
            strokeJoin="round", aria=False, **mark,
        )
        for width in (4, 0)
    ]  # fmt: skip


def _tooltip() -> dict[str, Any]:
    """Returns the encoding by which a mark shows its row's field `tooltip`.

    Marks without this encoding have neither a tooltip nor a description.
    """
    return {"tooltip": alt.Tooltip("tooltip:N"), "description": alt.Description("tooltip:N")}


def _y(field: str, title: str, scale: alt.Scale) -> alt.Y:
    """Returns a vertical axis with its title above it, which saves width on a phone."""
    axis = alt.Axis(
        title=title, titleAngle=0, titleAlign="left", titleAnchor="end", titleX=-34, titleY=-14,
        tickCount=6,
    )  # fmt: skip
    return alt.Y(f"{field}:Q", axis=axis, scale=scale)


def _percent(share: float) -> float:
    return round(100 * share, 4)


def _ends(interval: Interval) -> dict[str, float]:
    """Returns the field `mean` and, if the interval has ends, `low` and `high`, in percent."""
    found = {"mean": _percent(interval.mean)}
    if interval.low is not None and interval.high is not None:
        found |= {"low": _percent(interval.low), "high": _percent(interval.high)}
    return found


def _bounded(rows: Rows) -> Rows:
    return [row for row in rows if "low" in row]


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """The range of an axis, with a margin at both ends."""

    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def around(cls, values: Sequence[float], *, logarithmic: bool = False) -> "_Axis":
        low, high = min(values), max(values)
        if logarithmic:
            factor = (high / low) ** AIR
            return cls(low=low / factor, high=high * factor, logarithmic=True)
        air = AIR * (high - low) or 0.5
        return cls(low=low - air, high=high + air)

    def share(self, value: float) -> float:
        """Returns the position of a value on the axis: 0 at the low end, 1 at the high end."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def scale(self) -> alt.Scale:
        domain = [self.low, self.high]
        if self.logarithmic:
            return alt.Scale(type="log", domain=domain, nice=False)
        return alt.Scale(domain=domain, nice=False, zero=False)

    def axis(self, title: str) -> alt.Axis:
        """Returns the axis, with ticks at 1, 2 and 5 of each decade if it is logarithmic."""
        look = alt.Axis(title=title, format=",.6~r", tickCount=5)
        if not self.logarithmic:
            return look
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
        ticks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
        look.values = [tick for tick in ticks if self.low <= tick <= self.high]
        return look


def _curves(report: Report, theme: Theme) -> Chart | None:
    """Makes a chart of the mean validation accuracy after each epoch, with its interval."""
    looks = _looks(report, theme)
    means = {i: found for i, arm in enumerate(report.arms) if (found := _epochs(arm, report))}
    if not means:
        return None
    rows = {
        i: [looks[i] | _ends(mean) | {"epoch": e} for e, mean in enumerate(found, start=1)]
        for i, found in means.items()
    }
    drawn = [row for arm in rows.values() for row in arm]
    single = [arm[0] for arm in rows.values() if len(arm) == 1]
    last = max(map(len, means.values()))
    x = alt.X(
        "epoch:Q",
        axis=alt.Axis(title="epoch", values=_round_epochs(last), format="d"),
        scale=alt.Scale(domain=[1, max(last, 2)], nice=False, zero=False, padding=6),
    )
    y = _y("mean", "validation accuracy (%)", _late(report).scale())
    line = _layer(drawn).mark_line(clip=True, strokeWidth=2.2, strokeJoin="round", aria=False)
    dot = _layer(single).mark_circle(size=70, opacity=1, aria=False)
    strips = _layer(_strips(report, looks, means))
    hit = strips.mark_rect(fillOpacity=0, fill=theme.soft, clip=True)
    layers = [
        line.encode(x=x, y=y, **_key(report, theme, "stroke")),
        dot.encode(x, y, _of_row()),
        hit.encode(
            x=alt.X("left:Q"), x2="right:Q", y=alt.value(0), y2=alt.value("height"), **_tooltip()
        ),
    ]
    legend = "line: mean over seeds"
    bounded = _bounded(drawn)
    if bounded and len(means) <= MOST_BANDS:
        band = _layer(bounded).mark_area(clip=True, fillOpacity=0.15, opacity=1, aria=False)
        layers.insert(
            0, band.encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), _of_row(), alt.Detail("arm:N"))
        )
        method = wording.METHODS[report.method]
        legend += f", band: its {CONFIDENCE:.0%} {method} interval at each epoch"
    return Chart(
        title="Learning curves",
        legend=legend,
        plot=alt.LayerChart(layer=layers).properties(height=HEIGHT),
    )


def _round_epochs(last: int) -> list[int]:
    """Returns the ticks of the epoch axis: the first epoch, and about five round numbers."""
    steps = (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))
    step = next(step for step in steps if 6 * step >= last)
    return [1, *(epoch for epoch in range(step, last + 1, step) if epoch > 1)]


def _epochs(arm: ArmResult, report: Report) -> list[Interval]:
    """Returns an arm's mean validation accuracy after each epoch that all seeds have reached."""
    curves = [outcome.validation_accuracy for outcome in arm.outcomes]
    return [mean_interval(values, method=report.method) for values in zip(*curves, strict=False)]


def _late(report: Report) -> _Axis:
    """Returns an accuracy axis that covers the accuracies after the first third of the epochs.

    In the first third, accuracy rises so much that an axis for these epochs too would hide
    the differences between arms.
    """
    curves = [outcome.validation_accuracy for arm in report.arms for outcome in arm.outcomes]
    late = [100 * value for curve in curves for value in curve[len(curve) // 3 :]]
    axis = _Axis.around(late)
    return _Axis(low=max(axis.low, 0), high=min(axis.high, 100.5))


def _strips(report: Report, looks: Sequence[Look], means: Mapping[int, Sequence[Interval]]) -> Rows:
    """Returns the rows of invisible vertical strips, whose tooltips give the arms' accuracies."""
    last = max(map(len, means.values()))
    epochs = sorted({*range(1, last + 1, -(-last // MOST_STRIPS)), last})
    edges = [0.5, *((a + b) / 2 for a, b in itertools.pairwise(epochs)), last + 0.5]
    strips = []
    for epoch, (left, right) in zip(epochs, itertools.pairwise(edges), strict=True):
        lines = [
            f"{looks[i]['arm']}: {formatting.percent(found[epoch - 1], report.method)} %"
            for i, found in means.items()
            if epoch <= len(found)
        ]
        tooltip = "\n".join([f"epoch {epoch}", *lines])
        strips.append({"left": left, "right": right, "tooltip": tooltip})
    return strips


def _outcomes(report: Report, theme: Theme) -> Chart | None:
    """Makes a chart of each arm's difference from the baseline: seeds, mean, interval, verdict.

    If no arm is compared with the baseline, the chart shows the test accuracies.
    """
    compared = any(arm.difference for arm in report.arms)
    shown = [
        (look, arm)
        for look, arm in zip(_looks(report, theme), report.arms, strict=True)
        if not (compared and arm.baseline)
    ]
    if not any(arm.outcomes for _, arm in shown):
        return None
    rows, seeds, bottom = Rows(), Rows(), 0
    for look, arm in shown:
        parts = filter(None, (look["arm"], _verdict(report, arm, compared)))
        words = textwrap.wrap(": ".join(parts), int(theme.narrowest / LETTER_WIDTH))
        top, bottom = bottom, bottom + LINE_HEIGHT * len(words) + ROW_HEIGHT
        places = {"top": top, "words": top + 4, "bar": bottom - 25, "bottom": bottom - 4}
        row = look | places | {"text": words, "tooltip": _row_tooltip(report, arm, look, compared)}
        interval = arm.difference if compared else arm.accuracy
        rows.append(row | (_ends(interval) if interval else {}))
        seeds += [
            look | {"value": value, "y": bottom - 12} for value in _seeds(arm, compared).values()
        ]
    several = ", corrected for their number" if compared and report.family > 1 else ""
    paired = ", paired" if compared else ""
    return Chart(
        title=_outcomes_title(report, theme, compared),
        legend=f"dot: a seed{paired}; diamond, bar: mean, {CONFIDENCE:.0%} interval{several}",
        plot=_outcomes_plot(rows, seeds, theme, compared).properties(height=bottom),
        plane=False,
    )


def _outcomes_title(report: Report, theme: Theme, compared: bool) -> str:
    if not compared:
        return "Test accuracy"
    its = f", {theme.letters(report.name_of(report.anchor))}" if report.anchor else ""
    return f"Difference to the baseline{its}"


def _outcomes_plot(rows: Rows, seeds: Rows, theme: Theme, compared: bool) -> alt.LayerChart:
    """Returns the chart with a row for each arm; vertical positions are in pixels."""
    height = rows[-1]["bottom"] + 4
    y_scale = alt.Scale(domain=[0, height], reverse=True, nice=False, zero=False)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", axis=None, scale=y_scale)

    title = "difference in test accuracy (percentage points)" if compared else "test accuracy (%)"
    values = [row[end] for row in rows for end in ENDS if end in row]
    values += [seed["value"] for seed in seeds] + ([0] if compared else [])
    scale = _Axis.around(values).scale()
    mean = alt.X("mean:Q", axis=alt.Axis(title=title, tickCount=6), scale=scale)
    known = [row for row in rows if "mean" in row]
    texts = _texts(rows, theme, align="left", baseline="top", lineHeight=LINE_HEIGHT)
    layers = [
        _layer(_bounded(rows)).mark_rule(strokeWidth=7, strokeOpacity=0.4, aria=False)
        .encode(alt.X("low:Q"), alt.X2("high:Q"), y("bar"), _of_row()),
        _layer(seeds).mark_circle(size=40, fillOpacity=0.65, opacity=1, aria=False)
        .encode(alt.X("value:Q"), y("y"), _of_row()),
        _layer(known).mark_point(shape="diamond", size=110, filled=True, opacity=1, aria=False,
                                 stroke=theme.ground, strokeWidth=1)
        .encode(x=mean, y=y("bar"), fill=alt.Fill("hue:N", scale=None)),
        *(words.encode(alt.XValue(2), y("words"), alt.Text("text:N")) for words in texts),
        _layer(rows).mark_rect(fillOpacity=0, fill=theme.soft)
        .encode(x=alt.value(0), x2=alt.value("width"), y=y("top"), y2="bottom:Q", **_tooltip()),
    ]  # fmt: skip
    if compared:  # the zero line, only at the height of the intervals, as it would cross the names
        zero = _layer({"zero": 0, "from": row["bar"] - 8, "to": row["bottom"]} for row in rows)
        layers.insert(0, zero.mark_rule(color=theme.soft, strokeWidth=1.5, aria=False).encode(
            alt.X("zero:Q"), y("from"), alt.Y2("to:Q")
        ))  # fmt: skip
    return alt.LayerChart(layer=layers)


def _verdict(report: Report, arm: ArmResult, compared: bool) -> str:
    """Returns the text after an arm's name: the verdict, and how many seeds finished if not all."""
    text = wording.verdict(report, arm)
    if not arm.outcomes:
        text = "nothing finished"
    elif compared and not arm.difference:
        text = "no common seed"
    seeds = "" if len(arm.outcomes) == arm.tried else f"{wording.seeds(arm)} seeds"
    return ", ".join(part for part in (text, seeds) if part)


def _seeds(arm: ArmResult, compared: bool) -> dict[int, float]:
    """Returns the value of each seed: a difference in points, or an accuracy in percent."""
    values = {o.seed: o.difference if compared else o.accuracy for o in arm.outcomes}
    return {seed: _percent(value) for seed, value in values.items() if value is not None}


def _row_tooltip(report: Report, arm: ArmResult, look: Look, compared: bool) -> str:
    unit, sign = ("points", "+") if compared else ("%", "")
    interval = arm.difference if compared else arm.accuracy
    lines = [look["arm"]]
    if interval:
        lines.append(f"mean: {formatting.percent(interval, report.method, sign)} {unit}")
    seeds = _seeds(arm, compared).items()
    lines += [f"seed {seed}: {value:{sign}z.2f} {unit}" for seed, value in seeds]
    return "\n".join(lines)


def _tradeoff(report: Report, cost: pareto.Cost, theme: Theme) -> Chart | None:
    """Makes a chart of accuracy against a cost: arms as dots with intervals, and the frontier."""
    found = pareto.points(report, cost)
    if len({point.cost for point in found}) < 2:
        return None
    looks = {id(arm): look for arm, look in zip(report.arms, _looks(report, theme), strict=True)}
    rows = Rows()
    for point in found:
        look = looks[id(point.arm)]
        tooltip = _point_tooltip(report, point, cost, look)
        rows.append(look | _ends(point.accuracy) | {"cost": point.cost, "tooltip": tooltip})
    costs = _Axis.around([point.cost for point in found], logarithmic=pareto.is_wide(found))
    accuracies = _Axis.around([row[end] for row in rows for end in ENDS if end in row])
    x = alt.X("cost:Q", axis=costs.axis(cost.unit), scale=costs.scale())
    y = _y("mean", "test accuracy (%)", accuracies.scale())
    best = [{"cost": p.cost, "mean": _percent(p.accuracy.mean)} for p in pareto.frontier(found)]
    steps = _layer([*best, best[-1] | {"cost": costs.high}]).mark_line(
        interpolate="step-after", color=theme.soft, strokeDash=[3, 3], strokeWidth=1.5, aria=False
    )
    bar = _layer(_bounded(rows)).mark_rule(strokeWidth=5, strokeOpacity=0.4, aria=False)
    dot = _layer(rows).mark_point(
        filled=True, size=120, opacity=1, stroke=theme.ground, strokeWidth=1, aria=False
    )
    hit = _layer(rows).mark_circle(size=900, fillOpacity=0, opacity=1, fill=theme.soft)
    named = len(found) <= MOST_LABELS
    colour = _of_row() if named else _key(report, theme, "circle")["color"]
    layers = [
        steps.encode(x, y),
        bar.encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), _of_row()),
        dot.encode(x=x, y=y, fill=alt.Fill("hue:N", scale=None)),
        *(_labels(rows, costs, accuracies, theme) if named else ()),
        hit.encode(x=x, y=y, color=colour, **_tooltip()),
    ]
    return Chart(
        title=cost.title,
        legend=f"bar: {CONFIDENCE:.0%} interval; line: frontier, no arm is above and left of it",
        plot=alt.LayerChart(layer=layers).properties(height=HEIGHT),
    )


def _point_tooltip(report: Report, point: pareto.Point, cost: pareto.Cost, look: Look) -> str:
    place = "on the frontier" if point.on_frontier else "not on the frontier"
    accuracy = formatting.percent(point.accuracy, report.method)
    return f"{look['arm']}\naccuracy: {accuracy} %\n{cost.unit}: {point.cost:.4g}\n{place}"


def _labels(rows: Rows, costs: _Axis, accuracies: _Axis, theme: Theme) -> list[alt.Chart]:
    """Returns the labels of the points, shifted vertically so that they do not overlap.

    Vega-Lite cannot shift labels by itself. Labels that do not overlap in the narrowest plot do not
    overlap in a wider one either.
    """
    width = theme.narrowest
    dots = [
        (width * costs.share(row["cost"]), HEIGHT * (1 - accuracies.share(row["mean"])))
        for row in rows
    ]
    taken = [_Box(left=x - 6, right=x + 6, middle=y) for x, y in dots]
    sides: dict[Literal["left", "right"], Rows] = {"left": [], "right": []}
    for row, (x, y) in zip(rows, dots, strict=True):
        wide = min(LABEL_LIMIT, LETTER_WIDTH * len(row["arm"]))
        align: Literal["left", "right"] = "left" if x + 9 + wide <= width else "right"
        left = x + 9 if align == "left" else x - 9 - wide
        boxes = [_Box(left=left, right=left + wide, middle=y - 8 + shift) for shift in SHIFTS]
        free = [
            box for box in boxes
            if 8 <= box.middle <= HEIGHT - 8 and not any(box.covers(other) for other in taken)
        ]  # fmt: skip
        box = next(iter(free), boxes[0])
        taken.append(box)
        level = accuracies.high - box.middle / HEIGHT * (accuracies.high - accuracies.low)
        sides[align].append({"arm": row["arm"], "cost": row["cost"], "level": level})
    places = alt.X("cost:Q"), alt.Y("level:Q"), alt.Text("arm:N")
    return [
        text.encode(*places)
        for align, labels in sides.items()
        for text in _texts(labels, theme, align=align, baseline="middle", limit=LABEL_LIMIT,
                           dx=9 if align == "left" else -9)
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Box:
    """The bounding box of a label or a dot, in pixels."""

    left: float
    right: float
    middle: float

    def covers(self, other: "_Box") -> bool:
        return (
            self.left < other.right and other.left < self.right
            and abs(self.middle - other.middle) < LINE_HEIGHT - 1
        )  # fmt: skip
