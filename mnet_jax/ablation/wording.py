"""Formats a report's numbers and describes its methods, for all outputs."""

from collections.abc import Iterable

from mnet_jax.ablation.arms import ArmResult, Report
from mnet_jax.ablation.power import MOST_SEEDS, POWER
from mnet_jax.ablation.statistics import (
    ALPHA,
    CONFIDENCE,
    FEWEST,
    Interval,
    Method,
    mean_interval,
)
from mnet_jax.changes import ABSENT

MOST_DIGITS = 12  # decimals: a number that is closer to a threshold equals it, up to rounding
SHOWN_LABELS = 8  # the number of shared labels that a caption lists
METHODS = {"t": "Student's t", "bootstrap": "bootstrap (BCa)"}
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
    """Formats an interval of shares (0 to 1) in percent: `97.31 ± 0.42`.

    A bootstrap interval is shown by its two ends, as it need not be symmetric. There are two
    decimals, or as many more as are needed to show whether the interval includes zero.
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
    """Formats a mean by a format such as `{:.2f}`; for several values also half the t interval."""
    interval = mean_interval(values)
    text = form.format(interval.mean)
    return text if interval.half_width is None else f"{text} ± {form.format(interval.half_width)}"


def p_value(value: float | None) -> str:
    """Formats a p-value with two or three decimals, or `<0.001`.

    There are more decimals where they are needed to show on which side of `ALPHA` it lies.
    """
    if value is None:
        return ABSENT
    if value < 0.001:
        return "<0.001"
    for digits in range(3 if value < 0.1 else 2, MOST_DIGITS + 1):
        if (round(value, digits) < ALPHA) == (value < ALPHA):
            break
    return f"{value:.{digits}f}"


def judgement(report: Report, arm: ArmResult) -> str:
    """Describes an arm's verdict and judgement and, if seeds are unpaired, the number of pairs.

    Empty for the baseline, and if nothing is compared.
    """
    if arm.difference is None:
        unpaired = arm.accuracy and not arm.baseline and not report.note
        return "unpaired" if unpaired else ""
    parts: list[str | None] = [arm.verdict, arm.judgement]
    if arm.difference.count < len(arm.outcomes):
        parts.append(f"n={arm.difference.count}")
    return ", ".join(part for part in parts if part)


def title(report: Report) -> str:
    """Returns the title of the report, with the axes of its columns."""
    return f"Ablation: {', '.join(report.columns)}" if report.columns else "Ablation"


def facts(report: Report) -> list[str]:
    """Lists the seeds, the total time, and the environment, one line each."""
    finished = sorted({seed for arm in report.arms for seed in arm.seeds})
    seconds = sum(arm.seconds for arm in report.arms)
    finished_trials = sum(len(arm.outcomes) for arm in report.arms)
    return [
        f"seeds: {', '.join(map(str, finished)) or 'none finished'}",
        f"time: {trials(finished_trials)}, {seconds / 60:.1f} minutes in all",
        *(f"{name}: {', '.join(values)}" for name, values in report.environment.items()),
    ]


def trials(count: int) -> str:
    """Formats a number of trials, such as `1 trial`."""
    return f"{count} trial" if count == 1 else f"{count} trials"


def seeds(arm: ArmResult) -> str:
    """Formats the number of finished seeds, with the number of all if some did not finish."""
    finished = len(arm.outcomes)
    return str(finished) if finished == arm.tried else f"{finished}/{arm.tried}"


def mishaps(report: Report) -> list[tuple[ArmResult, str]]:
    """Lists missing results: a line for each failed trial, and one per arm for seeds not run."""
    found = []
    for arm in report.arms:
        found += [(arm, f"seed {f.seed} failed: {f.cause}") for f in arm.failures]
        if arm.not_run:
            several = "s" if len(arm.not_run) > 1 else ""
            found.append((arm, f"seed{several} {', '.join(map(str, arm.not_run))} not run"))
    return found


def claims(report: Report) -> list[str]:
    """Describes each claim in one line, with its source and judgement."""
    return [
        f"claim: {judged.claim.text} ({judged.claim.source}): {judged.judgement}"
        for judged in report.claims
    ]


def powers(report: Report) -> list[str]:
    """Says for each arm that is not separated how many seeds would separate it, in a sentence."""
    lines = []
    for arm in report.arms:
        comparison = arm.comparison
        if not comparison or not comparison.power or comparison.verdict != "not separated":
            continue
        power, difference = comparison.power, comparison.difference
        here = f"{difference.count} seeds separate {100 * power.detectable:.2f} points"
        needed = (
            f"more than {MOST_SEEDS:,}"
            if power.seeds_needed is None
            else f"about {power.seeds_needed:,}"
        )
        lines.append(
            f"{report.name_of(arm)}: {needed} seeds would separate a difference of "
            f"{100 * abs(difference.mean):.2f} points, the mean so far; {here}"
        )
    return lines


def captions(report: Report) -> tuple[str, ...]:
    """Lists what the rows do not show (claims, shared labels, methods, ...), one line each."""
    lines = claims(report)
    shared = [f"{axis} {label}" for axis, label in report.common.items() if label != ABSENT]
    if shared:
        rest = len(shared) - SHOWN_LABELS
        more = f" and {rest} more, in report.csv" if rest > 0 else ""
        lines.append("all arms: " + ", ".join(shared[:SHOWN_LABELS]) + more)
    if report.recipe:
        lines.append(f"recipe: {report.recipe}")
    lines += methods(report)
    lines += [f"power: {line}" for line in powers(report)]
    if report.note:
        lines.append(report.note)
    if not all(arm.requested for arm in report.arms):
        lines.append("*: not part of this call, found in the store with the same data and recipe")
    mixed = {name: values for name, values in report.environment.items() if len(values) > 1}
    if mixed:
        parts = (f"{name} {', '.join(values)}" for name, values in mixed.items())
        lines.append("the trials' environments differ: " + "; ".join(parts))
    return tuple(lines)


def methods(report: Report) -> list[str]:
    """Explains what the numbers are and how they were computed, one line each."""
    lines = []
    if any(arm.outcomes for arm in report.arms):
        lines.append(
            "time: minutes and seconds of one seed, the median, compilation and evaluation included"
        )
        half = "in brackets the" if report.method == "bootstrap" else "± half of the"
        lines.append(
            f"accuracy: test split, mean over n seeds, {half} {CONFIDENCE:.0%} "
            f"{METHODS[report.method]} interval"
        )
    if any(arm.difference for arm in report.arms) and report.anchor:
        its = ", ".join(f"{axis} {report.anchor.labels[axis]}" for axis in report.columns)
        lines.append(
            f"difference: to {its or 'the baseline'}, paired by seed, in percentage points; "
            + _correction(report)
        )
    if report.method == "bootstrap":
        lines.append(
            f"bootstrap: no interval from fewer than {FEWEST['bootstrap']} seeds; of few seeds it "
            "is too narrow (95% ones of 5 normal values hold 84%)"
        )
    if powers(report):
        lines.append(
            f"power: the chance of separating is {POWER:.0%}, by Student's paired t-test, if the "
            "spread of the differences stays what it was"
        )
    return lines


def _correction(report: Report) -> str:
    """Explains how the number of comparisons affects intervals and verdicts."""
    if report.family < 2:
        return f"{CONFIDENCE:.0%} interval likewise"
    return (
        f"the {report.family} intervals hold together with {CONFIDENCE:.0%} (Bonferroni), and p is "
        f"corrected for {report.family} comparisons: it is below {ALPHA:g}, and the arm separated, "
        "where the interval excludes zero"
    )
