"""Renders a report as a terminal table, Markdown, CSV and JSON, and writes its files.

In CSV and JSON, accuracies are from 0 to 1. In the other formats they are in percent, and
differences are in percentage points.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from mnet_jax import serialization
from mnet_jax.ablation import wording
from mnet_jax.ablation.arms import ArmResult, Report
from mnet_jax.ablation.store import write_file, write_text
from mnet_jax.ablation.themes import LIGHT
from mnet_jax.changes import ABSENT
from mnet_jax.config import RunConfig
from mnet_jax.statistics import formatting
from mnet_jax.statistics.intervals import Interval

PICTURES = (
    "![Learning curves, and the difference of every seed](report.png)", "",
    "![Accuracy against multiply-adds and training time](pareto.png)", "",
)  # fmt: skip
VERDICT_STYLES = {"better": "green", "worse": "red"}


def _cells(report: Report, arm: ArmResult) -> list[str]:
    """Returns the cells of an arm's row, in the order of `_headers`."""
    difference = "baseline" if arm.baseline else ABSENT
    if arm.difference:
        difference = formatting.percent(arm.difference, report.method, "+")
    accuracy = "failed" if arm.failures else "not run"
    if arm.accuracy:
        accuracy = formatting.percent(arm.accuracy, report.method)
    speed = arm.images_per_second
    cells = [
        *(arm.labels[axis] for axis in report.columns),
        formatting.count(arm.params),
        formatting.count(arm.madds),
        accuracy,
        difference,
        wording.verdict(report, arm),
        wording.seeds(arm),
        ABSENT if speed is None else f"{speed:.0f}",
        formatting.duration(arm.seconds_per_seed),
    ]
    if report.columns and not arm.requested:
        cells[0] += "*"
    return cells


def _headers(report: Report) -> list[str]:
    measures = ["params", "MAdds", "accuracy %", "difference", "", "n", "img/s", "time"]
    return [*report.columns, *measures]


def to_table(report: Report) -> Table:
    """Returns the terminal table: the arms, a row for each failed trial, and the captions."""
    headers, rows = _headers(report), [_cells(report, arm) for arm in report.arms]
    gap = 1 if len(report.columns) < 2 else 0  # two axes fit 80 columns only without a gap
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap), collapse_padding=True, pad_edge=False)
    verdict_column = len(report.columns) + 4
    for index, header in enumerate(headers):
        if index < len(report.columns) or index == verdict_column:
            table.add_column(header, overflow="fold")
        else:  # numbers are the last to be truncated, with an ellipsis
            table.add_column(header, justify="right", no_wrap=True)
    for arm, row in zip(report.arms, rows, strict=True):
        cells = [Text(cell) for cell in row]
        cells[verdict_column].stylize(VERDICT_STYLES.get(row[verdict_column].split(",")[0], ""))
        table.add_row(*cells, style="bold" if arm.baseline else "")
    page = Table.grid()
    page.add_column(overflow="fold")
    page.add_row(table)
    for arm, mishap in wording.missing_results(report):
        page.add_row(Text(f"{report.name_of(arm)}: {mishap}", style="red"))
    for line in wording.captions(report):
        page.add_row(Text(line, style="dim"))
    return page


def to_markdown(report: Report) -> str:
    """Returns the Markdown table with a row for each arm and failed trial, and the captions."""
    axes = len(report.columns)
    rows = [_with_p(_headers(report), axes, "p")]
    rows.append(["---"] * axes + ["--:"] * 5 + ["---"] + ["--:"] * 3)
    for arm in report.arms:
        p_value = formatting.p_value(arm.comparison.p_value) if arm.comparison else ""
        cells = _with_p(_cells(report, arm), axes, p_value)
        rows.append([_escaped(cell) for cell in cells])
        for other, mishap in wording.missing_results(report):
            if other is arm:
                names = [_escaped(arm.labels[axis]) for axis in report.columns]
                rows.append([*names, "", "", "", "", "", _escaped(mishap), "", "", ""])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    captions = (f"- {_escaped(line)}" for line in wording.captions(report))
    return "\n".join([*lines, "", *captions, ""])


def _with_p(cells: list[str], axes: int, p_value: str) -> list[str]:
    """Inserts the p-value after the difference; the terminal table has no room for p-values."""
    place = axes + 4
    return [*cells[:place], p_value, *cells[place:]]


def _escaped(text: str) -> str:
    """Escapes text so that Markdown shows it literally."""
    for sign in "\\|*_`<>[]":
        text = text.replace(sign, f"\\{sign}")
    return text


def to_csv(report: Report) -> str:
    """Returns CSV: a line for each arm, with every axis; unrounded numbers, times in seconds."""
    axes = [*report.columns, *report.common]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([
        *axes, "baseline", "requested", "params", "madds",
        "accuracy", "accuracy_low", "accuracy_high", "seeds",
        "difference", "difference_low", "difference_high", "difference_seeds", "p_value", "verdict",
        "claim", "images_per_second", "seconds", "seconds_per_seed", "failures", "not_run",
    ])  # fmt: skip
    for arm in report.arms:
        writer.writerow([
            *(arm.labels[axis] for axis in axes),
            arm.baseline, arm.requested, arm.params, arm.madds,
            *_ends(arm.accuracy), " ".join(map(str, arm.seeds)),
            *_ends(arm.difference), arm.difference.count if arm.difference else None,
            arm.comparison.p_value if arm.comparison else None, arm.verdict, arm.judgement,
            arm.images_per_second, arm.seconds, arm.seconds_per_seed,
            "; ".join(f"seed {f.seed}: {f.cause}" for f in arm.failures),
            " ".join(map(str, arm.not_run)),
        ])  # fmt: skip
    return text.getvalue()


def _ends(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (interval.mean, interval.low, interval.high) if interval else (None, None, None)


def to_json(report: Report) -> str:
    """Returns the whole report as JSON; `serialization.from_json(Report, text)` is the inverse."""
    return json.dumps(serialization.to_plain(report), indent=1, allow_nan=False) + "\n"


def write(
    report: Report,
    directory: Path,
    command: str,
    command_of: Callable[[RunConfig], str | None] = lambda config: None,
) -> str | None:
    """Writes report.md, .csv, .json, .html and .png, and pareto.png, each of them atomically.

    Args:
      report: the report to write.
      directory: where to write; created if it is missing.
      command: the command line of the sweep.
      command_of: maps the config of an arm to the command that trains it, or to None.

    Returns:
      None if the pictures were drawn. Otherwise one line that says why this process cannot draw
      charts; no picture is written, and the other files contain this line instead.

    Raises:
      StoreError: the directory cannot be written.
    """
    from mnet_jax.ablation import charts, figure, page  # here: slow to import

    obstacle = figure.obstacle()
    for name, draw, otherwise in (
        ("report.png", charts.over_seeds, "no trial has finished"),
        ("pareto.png", charts.against_costs, "no two arms differ in cost"),
    ):
        if obstacle:  # removes the picture of an earlier report
            with contextlib.suppress(OSError):
                (directory / name).unlink()
        else:
            write_file(directory / name, figure.to_png(draw(report, LIGHT), otherwise))
    write_text(directory / "report.csv", to_csv(report))
    write_text(directory / "report.json", to_json(report))
    write_text(directory / "report.html", page.to_html(report, command, command_of))
    # report.md is written last, so that its pictures are never older than the text.
    write_text(directory / "report.md", _page(report, command, obstacle))
    return obstacle


def _page(report: Report, command: str, obstacle: str | None) -> str:
    """Returns report.md: the command, the table, the figures, the seeds and the environment."""
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)  # longer than any run of backticks in the command
    return "\n".join([
        f"# {_escaped(wording.title(report))}", "",
        f"{fence}sh", command, fence, "",
        to_markdown(report),
        *([_escaped(obstacle), ""] if obstacle else PICTURES),
        *(f"- {_escaped(fact)}" for fact in wording.facts(report)), "",
    ])  # fmt: skip
