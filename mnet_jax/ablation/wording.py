"""The sentences of a report: its facts, claims, captions and methods, for all outputs."""

from mnet_jax.ablation.arms import ArmResult, Report
from mnet_jax.changes import ABSENT
from mnet_jax.statistics.intervals import ALPHA, CONFIDENCE, FEWEST
from mnet_jax.statistics.power import MOST_SEEDS, POWER

SHOWN_LABELS = 8  # the number of shared labels that a caption lists
METHODS = {"t": "Student's t", "bootstrap": "bootstrap (BCa)"}


def verdict(report: Report, arm: ArmResult) -> str:
    """Formats the verdict on an arm, and the verdict on the claim about this arm.

    If the baseline lacks results with some of the arm's seeds, the text gives the number of common
    seeds. The text is `unpaired` if no seed is common, and empty if nothing was compared.
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
    """Formats the number of an arm's finished seeds: `3`, or `2/3` if one did not finish."""
    finished = len(arm.outcomes)
    return str(finished) if finished == arm.tried else f"{finished}/{arm.tried}"


def missing_results(report: Report) -> list[tuple[ArmResult, str]]:
    """Lists missing results: a line for each failed trial, and one per arm for seeds not run."""
    found = []
    for arm in report.arms:
        found += [(arm, f"seed {f.seed} failed: {f.cause}") for f in arm.failures]
        if arm.not_run:
            several = "s" if len(arm.not_run) > 1 else ""
            found.append((arm, f"seed{several} {', '.join(map(str, arm.not_run))} not run"))
    return found


def claims(report: Report) -> list[str]:
    """Describes each claim in one line, with its source and verdict."""
    return [
        f"claim: {judged.claim.text} ({judged.claim.source}): {judged.judgement}"
        for judged in report.claims
    ]


def powers(report: Report) -> list[str]:
    """Estimates for each arm that is `not separated` how many seeds it needs, one line each."""
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
        lines.append(f"data: {report.recipe}")
    lines += methods(report)
    lines += [f"power: {line}" for line in powers(report)]
    if report.note:
        lines.append(report.note)
    if not all(arm.requested for arm in report.arms):
        lines.append("*: not part of this call, found in the store with the same data and training")
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
