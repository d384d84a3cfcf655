"""A benchmark's result as a terminal table and as Markdown."""

import statistics
from collections.abc import Sequence

from rich import box
from rich.table import Table

from mnet_jax.benchmark.timing import BenchmarkResult, Comparison, Timing

HEADERS = ("case", "contender", "median ms", "min to max", "ours / it", "range", "over bound")


def rows(result: BenchmarkResult) -> list[tuple[str, ...]]:
    """The texts below `HEADERS`, one row a contender and case."""
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


def _number(milliseconds: float) -> str:
    """Three digits, and no exponent."""
    return f"{milliseconds:.{max(0, 2 - len(str(int(milliseconds))) + 1)}f}"


def captions(result: BenchmarkResult) -> list[str]:
    """What the table leaves out."""
    machine = result.machine
    return [
        "each contender in a process of its own, sampled in turn; ours / it is taken round by "
        "round, below 1 we are ahead",
        f"bound: the larger of the multiply-adds at {machine.flops_per_second / 1e9:.0f} GFLOP/s "
        f"and the bytes at {machine.bytes_per_second / 2**30:.1f} GiB/s, both measured in this "
        "run; what fits into caches can be faster than memory",
        ", ".join(f"{name} {value}" for name, value in result.environment.items()),
    ]


def to_table(result: BenchmarkResult) -> Table:
    """For a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=result.suite, title_justify="left")
    for i, header in enumerate(HEADERS):
        table.add_column(header, justify="left" if i < 2 else "right", overflow="fold")
    for row in rows(result):
        table.add_row(*row)
    return table


def to_markdown(results: Sequence[BenchmarkResult]) -> str:
    """A section for each suite."""
    lines = []
    for result in results:
        lines += [f"## {result.suite}", "", "| " + " | ".join(HEADERS) + " |"]
        lines.append("|---|---|" + "--:|" * (len(HEADERS) - 2))
        lines += ["| " + " | ".join(row) + " |" for row in rows(result)]
        lines += ["", *(f"- {line}" for line in captions(result)), ""]
    return "\n".join(lines)
