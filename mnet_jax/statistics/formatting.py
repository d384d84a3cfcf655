"""Formats means with their intervals, p-values, counts and durations as text."""

from collections.abc import Iterable

from mnet_jax.changes import ABSENT
from mnet_jax.statistics.intervals import ALPHA, CONFIDENCE, Interval, Method, mean_interval

MOST_DIGITS = 12  # decimals; closer to a threshold, a number differs from it only by rounding
HALVES = f"± half of the {CONFIDENCE:.0%} Student's t interval"  # explains the numbers of `mean`


def count(number: int | None) -> str:
    """Formats a count with about three digits: 2236682 as 2.24M."""
    if number is None:
        return ABSENT
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            scaled = number / unit
            return f"{scaled:.{2 if scaled < 10 else 1}f}{name}"
    return str(number)


def duration(seconds: float | None) -> str:
    """Formats wall time in minutes and seconds, such as `12:05`."""
    if seconds is None:
        return ABSENT
    return "{}:{:02}".format(*divmod(round(seconds), 60))


def percent(interval: Interval, method: Method, sign: str = "") -> str:
    """Formats a mean of shares (0 to 1) and its interval in percent: `97.31 ± 0.42`.

    A bootstrap interval is shown by its two ends, as it need not be symmetric. There are two
    decimals, or as many more as are needed to show whether the interval includes zero.
    `sign` is Python's format option, such as `+`.
    """
    low, high = interval.low, interval.high
    if low is None or high is None:
        return f"{100 * interval.mean:{sign}z.2f}"
    for digits in range(2, MOST_DIGITS + 1):
        mean, half = round(100 * interval.mean, digits), round(50 * (high - low), digits)
        if method == "bootstrap":
            ends = round(100 * low, digits), round(100 * high, digits)
            text = "[" + ", ".join(f"{end:{sign}z.{digits}f}" for end in ends) + "]"
        else:
            ends = mean - half, mean + half
            text = f"± {half:.{digits}f}"
        if (ends[0] > 0 or ends[1] < 0) == (low > 0 or high < 0):
            break
    return f"{mean:{sign}z.{digits}f} {text}"


def mean(values: Iterable[float], form: str) -> str:
    """Formats a mean by `form`, such as `{:.2f}`.

    If there are several values, ± and half the width of the t interval follow the mean.
    """
    interval = mean_interval(values)
    text = form.format(interval.mean)
    return text if interval.half_width is None else f"{text} ± {form.format(interval.half_width)}"


def p_value(value: float | None) -> str:
    """Formats a p-value with two or three decimals, or `<0.001`.

    There are more decimals where they are needed to show on which side of `ALPHA` the p-value lies.
    """
    if value is None:
        return ABSENT
    if value < 0.001:
        return "<0.001"
    for digits in range(3 if value < 0.1 else 2, MOST_DIGITS + 1):
        if (round(value, digits) < ALPHA) == (value < ALPHA):
            break
    return f"{value:.{digits}f}"
