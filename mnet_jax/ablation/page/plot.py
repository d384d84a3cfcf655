"""The frame of a chart in SVG: scales, ticks, axes, and what a mark says when it is pointed at."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mnet_jax.ablation.page.markup import Markup, join, tag

WIDTH = 440.0  # of every chart, in its own units; about as many pixels as a phone has
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 10.0, 42.0  # room for the axes around the plot
TICKS = 5  # about so many on an axis


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From values to places along an axis.

    Attributes:
      low: the value at `start`.
      high: the value at `end`, above `low`.
      start: place of `low`.
      end: place of `high`.
      logarithmic: both values are then above zero.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the scale."""
        if self.logarithmic:
            return _logarithmic_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / TICKS)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [index * step for index in range(first, last + 1)]


def _round_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, `least` or a little more."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**power for power in powers for f in factors]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) >= TICKS - 2:
            break
    return found


def padded(values: Sequence[float], start: float, end: float, share: float = 0.06) -> Scale:
    """A linear scale with all values and some air at both ends."""
    low, high = min(values), max(values)
    air = share * (high - low) or max(abs(high) * share, 0.5)
    return Scale(low=low - air, high=high + air, start=start, end=end)


def padded_log(values: Sequence[float], start: float, end: float, share: float = 0.06) -> Scale:
    """The same of a logarithmic scale."""
    factor = (max(values) / min(values)) ** share
    return Scale(
        low=min(values) / factor, high=max(values) * factor, start=start, end=end, logarithmic=True
    )


def x_axis(scale: Scale, height: float, label: str, ticks: Sequence[float] | None = None) -> Markup:
    """Ticks with hair lines through the plot, and the label below."""
    bottom = height - BOTTOM
    parts = []
    for tick in scale.ticks() if ticks is None else ticks:
        x = scale(tick)
        parts.append(tag("line", class_="hair", x1=x, x2=x, y1=TOP, y2=bottom))
        parts.append(tag("text", f"{tick:.6g}", x=x, y=bottom + 17, text_anchor="middle"))
    middle = (scale.start + scale.end) / 2
    parts.append(tag("text", label, class_="label", x=middle, y=bottom + 36, text_anchor="middle"))
    return join(parts)


def y_axis(scale: Scale) -> Markup:
    """Ticks with hair lines through the plot."""
    parts = []
    for tick in scale.ticks():
        y = scale(tick)
        parts.append(tag("line", class_="hair", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        parts.append(tag("text", f"{tick:.6g}", x=LEFT - 7, y=y + 4, text_anchor="end"))
    return join(parts)


def tip(title: str, rows: Sequence[tuple[str, str, str]]) -> str:
    """What a mark says, as its `data-tip`: a title, and rows of style, name and value."""
    return json.dumps([title, *rows], ensure_ascii=False)


def spoken(title: str, rows: Sequence[tuple[str, str, str]]) -> str:
    """The same for a screen reader."""
    told = (f"{name} {value}".strip() for _, name, value in rows)
    return f"{title}: {'; '.join(told)}"


def chart(title: str, legend: str, height: float, *marks: Markup, kind: str = "") -> Markup:
    """A figure with its title, a line on what is drawn, and the drawing.

    Args:
      title: of the figure.
      legend: what the signs mean.
      height: of the drawing; its width is `WIDTH`.
      *marks: what is drawn.
      kind: `columns` for a chart whose `.column`s are walked by the arrow keys.
    """
    drawing = tag(
        "svg", *marks, viewBox=f"0 0 {WIDTH:g} {height:g}", role="group", aria_label=title,
        class_=kind or None, tabindex="0" if kind else None,
    )  # fmt: skip
    caption = tag("figcaption", tag("h3", title), tag("p", legend))
    return tag("figure", caption, drawing, class_="chart")
