"""Formats a benchmark's result as terminal tables and as Markdown."""

import math
import statistics
from collections.abc import Sequence

from rich import box
from rich.table import Table

from mnet_jax.benchmark.contenders import OURS
from mnet_jax.benchmark.timing import BenchmarkResult, Comparison, Timing

HEADERS = ("case", "contender", "median ms", "min to max", "ours / other", "range", "over bound")
RATE_HEADERS = ("images per second", "contender", "median", "least to most")
SUMMARY_HEADERS = ("where the time goes", "contender", "ms", "share %", "ours / other")


def rows(result: BenchmarkResult) -> list[tuple[str, ...]]:
    """Returns the cells below `HEADERS`, one row for each case and contender."""
    return [
        _row(comparison, timing, result, first=i == 0)
        for comparison in result.comparisons
        for i, timing in enumerate(comparison.timings)
    ]


def _row(
    comparison: Comparison, timing: Timing, result: BenchmarkResult, *, first: bool
) -> tuple[str, ...]:
    label = comparison.label if first else ""
    if not timing.seconds:
        return (label, timing.contender, "failed", timing.failure or "", "", "", "")
    times = [1000 * seconds for seconds in timing.seconds]
    ratios = comparison.ratios(timing)
    over = comparison.over_bound(timing, result.machine)
    return (
        label,
        timing.contender,
        _number(timing.median_seconds * 1000),
        f"{_number(min(times))} to {_number(max(times))}",
        f"{statistics.median(ratios):.2f}" if ratios else "",
        f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "",
        f"{over:.1f}" if over else "",
    )


def summary_rows(result: BenchmarkResult) -> list[tuple[str, ...]]:
    """Returns the cells below `SUMMARY_HEADERS`: sums of median times by group, and in total.

    There are no rows if the cases have no groups (see `Comparison.group`). If a contender failed on
    a case, its group and the total are shown as failed.
    """
    groups: dict[str, list[Comparison]] = {}
    for comparison in result.comparisons:
        if comparison.group:
            groups.setdefault(comparison.group, []).append(comparison)
    whole = _sums([comparison for group in groups.values() for comparison in group])
    found: list[tuple[str, ...]] = []
    for group, sums in {**{g: _sums(c) for g, c in groups.items()}, "all": whole}.items():
        for i, (name, seconds) in enumerate(sums.items()):
            texts = (
                "failed" if math.isnan(seconds) else _number(1000 * seconds),
                _or_nothing(100 * seconds / whole[name], ".1f"),
                _or_nothing(sums.get(OURS, math.nan) / seconds, ".2f"),
            )
            found.append(("" if i else group, name, *texts))
    return found


def _sums(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Returns each contender's time for all layers, in seconds; NaN after a failure on a layer.

    The time of each distinct layer is multiplied by the number of such layers in the network.
    """
    sums: dict[str, float] = {}
    for comparison in comparisons:
        for timing in comparison.timings:
            seconds = timing.median_seconds if timing.seconds else math.nan
            name = timing.contender
            sums[name] = sums.get(name, 0.0) + comparison.count * seconds
    return sums


def rate_rows(result: BenchmarkResult) -> list[tuple[str, ...]]:
    """Returns the cells below `RATE_HEADERS`, with the images per second of each contender.

    Only the input suite has such rows: for the input pipeline, and for a training step.
    """
    found: list[tuple[str, ...]] = []
    for comparison in result.comparisons if result.suite == "input" else ():
        for i, timing in enumerate(comparison.timings):
            if comparison.images and timing.seconds:
                rates = sorted(comparison.images / seconds for seconds in timing.seconds)
                label = "" if i else comparison.label
                median = f"{statistics.median(rates):,.0f}"
                span = f"{rates[0]:,.0f} to {rates[-1]:,.0f}"
                found.append((label, timing.contender, median, span))
    return found


def _or_nothing(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


def _number(milliseconds: float) -> str:
    """Formats a number with three digits and no exponent."""
    return f"{milliseconds:.{max(0, 2 - len(str(int(milliseconds))) + 1)}f}"


def captions(result: BenchmarkResult) -> list[str]:
    """Returns the notes printed below the tables: method, roofline bound and environment."""
    machine = result.machine
    return [
        "each contender in its own process, sampled in turn; ours / other: our time divided by the "
        "contender's, computed in each round; below 1, ours is faster",
        f"bound: the larger of the multiply-adds at {machine.flops_per_second / 1e9:.0f} GFLOP/s "
        f"and the bytes at {machine.bytes_per_second / 2**30:.1f} GiB/s, both measured in this "
        f"run on {machine.device}; what fits into caches can be faster than memory",
        ", ".join(f"{name} {value}" for name, value in result.environment.items()),
    ]


def _tables(result: BenchmarkResult) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Returns (headers, rows) of each table: the cases, then the summaries that have rows."""
    more = ((SUMMARY_HEADERS, summary_rows(result)), (RATE_HEADERS, rate_rows(result)))
    return [(HEADERS, rows(result)), *(table for table in more if table[1])]


def to_tables(result: BenchmarkResult) -> list[Table]:
    """Returns the tables for a terminal."""
    tables = []
    for title, (headers, texts) in zip((result.suite, None), _tables(result), strict=False):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        for i, header in enumerate(headers):
            table.add_column(header, justify="left" if i < 2 else "right", overflow="fold")
        for row in texts:
            table.add_row(*row)
        tables.append(table)
    return tables


def to_markdown(results: Sequence[BenchmarkResult]) -> str:
    """Returns a Markdown text with one section per suite."""
    lines = []
    for result in results:
        lines += [f"## {result.suite}", ""]
        for headers, texts in _tables(result):
            lines += ["| " + " | ".join(headers) + " |"]
            lines.append("|---|---|" + "--:|" * (len(headers) - 2))
            lines += [*("| " + " | ".join(row) + " |" for row in texts), ""]
        lines += [*(f"- {line}" for line in captions(result)), ""]
    return "\n".join(lines)
