"""A report as a terminal table, Markdown, CSV, JSON and the files of all of them.

Accuracies are shares from 0 to 1 in CSV and in JSON; percent, and percentage points for
differences, where people read them.
"""

import csv
import io
import json
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from mnet_jax import serialization
from mnet_jax.ablation.report import ABSENT, Arm, Report
from mnet_jax.ablation.statistics import CONFIDENCE, Interval, verdict
from mnet_jax.ablation.store import write_file

VERDICT_STYLES = {"better": "green", "worse": "red"}


def captions(report: Report) -> tuple[str, ...]:
    """What the rows leave out, in sentences of one line."""
    lines = []
    shared = [f"{axis} {label}" for axis, label in report.common.items() if label != ABSENT]
    if shared:
        lines.append("all arms: " + ", ".join(shared))
    if report.recipe:
        lines.append(f"recipe: {report.recipe}")
    if any(arm.outcomes for arm in report.arms):
        lines.append(
            "time: minutes and seconds of all n seeds, compilation and evaluation included"
        )
    if any(arm.accuracy for arm in report.arms):
        lines.append(
            f"accuracy: test split, mean over n seeds ± half of the {CONFIDENCE:.0%} "
            "Student's t interval"
        )
    if any(arm.difference for arm in report.arms):
        anchor = next(arm for arm in report.arms if arm.baseline)
        its = ", ".join(f"{axis} {anchor.labels[axis]}" for axis in report.columns)
        lines.append(
            f"difference: to {its}, paired by seed, in percentage points; ± likewise, for each "
            "arm by itself"
        )
    if report.note:
        lines.append(report.note)
    if not all(arm.requested for arm in report.arms):
        lines.append("*: not part of this call, found in the store with the same data and recipe")
    mixed = {name: values for name, values in report.environment.items() if len(values) > 1}
    if mixed:
        parts = (f"{name} {', '.join(values)}" for name, values in mixed.items())
        lines.append("the trials' environments differ: " + "; ".join(parts))
    return tuple(lines)


def _mishaps(report: Report) -> list[tuple[Arm, str]]:
    """The trials that are not there: a line for each that failed, and one for those never run."""
    found = []
    for arm in report.arms:
        found += [(arm, f"seed {f.seed} failed: {f.cause}") for f in arm.failures]
        if arm.not_run:
            several = "s" if len(arm.not_run) > 1 else ""
            found.append((arm, f"seed{several} {', '.join(map(str, arm.not_run))} not run"))
    return found


def _count(number: int | None) -> str:
    """2236682 as 2.24M, three digits or so."""
    if number is None:
        return ABSENT
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            scaled = number / unit
            return f"{scaled:.{2 if scaled < 10 else 1}f}{name}"
    return str(number)


def _duration(seconds: float) -> str:
    """Wall time in minutes and seconds, such as `12:05`."""
    return "{}:{:02}".format(*divmod(round(seconds), 60))


def _percent(interval: Interval, sign: str = "") -> str:
    """An interval of shares in percent (points), such as `97.31 ± 0.42`."""
    half = interval.half_width
    after = "" if half is None else f" ± {100 * half:.2f}"
    return f"{100 * interval.mean:{sign}z.2f}{after}"


def _cells(report: Report, arm: Arm) -> list[str]:
    """A row's texts below `_headers`."""
    difference, judgement = ABSENT, ""
    if arm.difference:
        difference, judgement = _percent(arm.difference, "+"), verdict(arm.difference)
        if arm.difference.count < len(arm.outcomes):
            judgement += f", n={arm.difference.count}"
    elif arm.baseline:
        difference = "baseline"
    elif arm.accuracy and not report.note:
        judgement = "unpaired"
    tried = len(arm.outcomes) + len(arm.failures) + len(arm.not_run)
    speed = arm.images_per_second
    cells = [
        *(arm.labels[axis] for axis in report.columns),
        _count(arm.params),
        _count(arm.madds),
        _percent(arm.accuracy) if arm.accuracy else "failed" if arm.failures else "not run",
        difference,
        judgement,
        str(tried) if tried == len(arm.outcomes) else f"{len(arm.outcomes)}/{tried}",
        ABSENT if speed is None else f"{speed:.0f}",
        _duration(arm.seconds) if arm.outcomes else ABSENT,
    ]
    if report.columns and not arm.requested:
        cells[0] += "*"
    return cells


def _headers(report: Report) -> list[str]:
    measures = ["params", "MAdds", "accuracy %", "difference", "", "n", "img/s", "time"]
    return [*report.columns, *measures]


def to_table(report: Report) -> Table:
    """For a terminal: the arms, a row for each trial that failed, and the captions."""
    headers, rows = _headers(report), [_cells(report, arm) for arm in report.arms]
    gap = 1 if len(report.columns) < 2 else 0  # two axes fit 80 columns, with little air
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap), collapse_padding=True, pad_edge=False)
    verdict_column = len(report.columns) + 4
    for index, header in enumerate(headers):
        if index < len(report.columns) or index == verdict_column:
            table.add_column(header, overflow="fold")
        else:  # the last to lose room, and then with an ellipsis
            table.add_column(header, justify="right", no_wrap=True)
    for arm, row in zip(report.arms, rows, strict=True):
        cells = [Text(cell) for cell in row]
        cells[verdict_column].stylize(VERDICT_STYLES.get(row[verdict_column].split(",")[0], ""))
        table.add_row(*cells, style="bold" if arm.baseline else "")
    page = Table.grid()
    page.add_column(overflow="fold")
    page.add_row(table)
    for arm, mishap in _mishaps(report):
        page.add_row(Text(f"{report.name_of(arm)}: {mishap}", style="red"))
    for line in captions(report):
        page.add_row(Text(line, style="dim"))
    return page


def to_markdown(report: Report) -> str:
    """The table with a row for each arm and each trial that failed, and the captions."""
    headers = _headers(report)
    rules = ["---"] * len(report.columns) + ["--:"] * 4 + ["---"] + ["--:"] * 3
    rows = [headers, rules]
    for arm in report.arms:
        rows.append([_escaped(cell) for cell in _cells(report, arm)])
        for other, mishap in _mishaps(report):
            if other is arm:
                names = [_escaped(arm.labels[axis]) for axis in report.columns]
                rows.append([*names, "", "", "", "", _escaped(mishap), "", "", ""])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {_escaped(line)}" for line in captions(report)), ""])


def _escaped(text: str) -> str:
    """Text that Markdown shows as it stands."""
    for sign in "\\|*_`<>[]":
        text = text.replace(sign, f"\\{sign}")
    return text


def to_csv(report: Report) -> str:
    """A line for each arm; every axis, and numbers unrounded: shares from 0 to 1, seconds."""
    axes = [*report.columns, *report.common]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([
        *axes, "baseline", "requested", "params", "madds",
        "accuracy", "accuracy_low", "accuracy_high", "seeds",
        "difference", "difference_low", "difference_high", "difference_seeds", "verdict",
        "images_per_second", "seconds", "failures", "not_run",
    ])  # fmt: skip
    for arm in report.arms:
        writer.writerow([
            *(arm.labels[axis] for axis in axes),
            arm.baseline, arm.requested, arm.params, arm.madds,
            *_ends(arm.accuracy), " ".join(map(str, arm.seeds)),
            *_ends(arm.difference), arm.difference.count if arm.difference else None,
            verdict(arm.difference) if arm.difference else None,
            arm.images_per_second, arm.seconds,
            "; ".join(f"seed {f.seed}: {f.cause}" for f in arm.failures),
            " ".join(map(str, arm.not_run)),
        ])  # fmt: skip
    return text.getvalue()


def _ends(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (interval.mean, interval.low, interval.high) if interval else (None, None, None)


def to_json(report: Report) -> str:
    """Everything, every seed and epoch; `serialization.from_json(Report, text)` is the inverse."""
    return json.dumps(serialization.to_plain(report), indent=1, allow_nan=False) + "\n"


def write(report: Report, directory: Path, command: str) -> None:
    """Writes report.md, report.csv, report.json and report.png, each whole or not at all.

    Args:
      report: what they say.
      directory: where; it is made if it is not there.
      command: the line that was typed, for report.md.

    Raises:
      StoreError: the directory cannot be written.
    """
    from mnet_jax.ablation import figure  # here: Matplotlib costs those who only print a second

    write_file(directory / "report.png", figure.to_png(report))
    write_file(directory / "report.csv", to_csv(report).encode())
    write_file(directory / "report.json", to_json(report).encode())
    # Last, so that what it shows is never older than itself.
    write_file(directory / "report.md", _page(report, command).encode())


def _page(report: Report, command: str) -> str:
    """report.md: the command, the table, the figure, the seeds and the environment."""
    seeds = sorted({seed for arm in report.arms for seed in arm.seeds})
    seconds = sum(arm.seconds for arm in report.arms)
    trials = sum(len(arm.outcomes) for arm in report.arms)
    facts = [
        f"seeds: {', '.join(map(str, seeds)) or 'none finished'}",
        f"time: {trials} trials, {seconds / 60:.1f} minutes in all",
        *(f"{name}: {', '.join(values)}" for name, values in report.environment.items()),
    ]
    return "\n".join([
        f"# Ablation{': ' if report.columns else ''}{_escaped(', '.join(report.columns))}", "",
        "```sh", command, "```", "",
        to_markdown(report),
        "![Learning curves, and the difference of every seed](report.png)", "",
        *(f"- {_escaped(fact)}" for fact in facts), "",
    ])  # fmt: skip
