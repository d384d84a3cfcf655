"""Reads stored sweeps: prints their status, writes a sweep's report again, exports all trials.

    python -m experiments.ablate status --results results
    python -m experiments.ablate report --sweep 2
    python -m experiments.ablate export

These actions only read the journal of a results directory, and also work while sweeps run. For each
arm, a report has the command that trains the arm again.
"""

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, get_args, get_origin

from rich import box
from rich.console import Console
from rich.table import Table

from mnet_jax.ablation import export, rendering, status, store, wording
from mnet_jax.ablation.events import Started, Sweep
from mnet_jax.ablation.presets import PRESETS
from mnet_jax.ablation.report import summarize
from mnet_jax.commands import entry, terminal
from mnet_jax.commands.arguments import flag_of, parse, refusals, refuse
from mnet_jax.config import Arm, RunConfig
from mnet_jax.options import axes
from mnet_jax.statistics.intervals import Method
from mnet_jax.validation import require

COMMAND = "ablate"
Action = Literal["status", "report", "export"]
ACTIONS = get_args(Action)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Reads stored sweeps, and trains nothing.

    The action `status` prints how many trials of each arm are finished, failed, running or missing.
    `report` prints and writes a sweep's report again. `export` writes all trials to trials.csv and
    trials.json.
    """

    action: Action
    """what to do; given as the first word, without --action"""
    results: Path = Path("results")
    """directory of the stored trials, and of the files to write"""
    sweep: int | None = None
    """number of the sweep, as `status` prints it; if not given, the last (for `status`, all)"""
    interval: Method | None = None
    """confidence interval of the report: Student's t or bootstrap; if not given, the sweep's"""


def main() -> None:
    """Reads the command line and performs the action."""
    arguments = parse(Arguments, COMMAND, leading="action")
    console = terminal.console(140)
    with refusals(COMMAND, arguments):
        contents, complaints = _read(arguments)
        numbered = _chosen(arguments, contents.sweeps)
    warn(complaints, terminal.errors(140))
    try:
        if arguments.action == "status":
            for number, sweep in numbered.items():
                _print_status(number, sweep, contents, console)
        elif arguments.action == "report":
            sweep = numbered.popitem()[1]
            interval = arguments.interval or sweep.interval
            report(replace(sweep, interval=interval), contents, arguments.results, console)
        else:
            _export(contents, arguments.results, console)
    except store.StoreError as error:
        refuse(COMMAND, str(error), entry.FAILED)


def report(sweep: Sweep, contents: store.Contents, directory: Path, console: Console) -> None:
    """Prints a sweep's table and writes its report.

    Raises:
      StoreError: the report cannot be written.
    """
    preset = PRESETS.get(sweep.preset or "")  # None also for a removed preset
    baseline = Arm.of(sweep.baseline)
    summary = summarize(
        store.comparable(contents.trials, sweep.configs),
        sweep.configs,
        partial(axes.labels, named=sweep.axes),
        baseline=baseline,
        named_axes=sweep.axes,
        method=sweep.interval,
        claims=preset.claims if preset else (),
        is_judged=partial(preset.judges, baseline=baseline) if preset else None,
    )
    console.print(rendering.to_table(summary))
    again = command_of_arm(sweep.command, summary.columns)
    obstacle = rendering.write(summary, directory, command=sweep.command, command_of=again)
    with_curves = f"without curves ({obstacle})" if obstacle else "with curves"
    console.print(f"report {with_curves}: {directory / 'report.html'}")


def warn(complaints: Iterable[str], console: Console) -> None:
    """Prints complaints (see `Store.complaints`) as warnings, one line each."""
    for complaint in complaints:
        console.print(f"warning: {complaint}", soft_wrap=True)


def _read(arguments: Arguments) -> tuple[store.Contents, tuple[str, ...]]:
    """Returns the contents of the store, and `Store.complaints`.

    Raises:
      ValueError: there is no journal, or it cannot be read.
    """
    trials = store.Store(arguments.results)
    legal = f"a directory with a {trials.path.name}"
    require(trials.path.is_file(), "results", str(arguments.results), legal)
    try:
        return trials.read(), trials.complaints
    except store.StoreError as error:
        raise ValueError(f"results: {error}") from error


def _chosen(arguments: Arguments, sweeps: tuple[Sweep, ...]) -> dict[int, Sweep]:
    """Returns the sweeps to show, keyed by their number in the store, from 1.

    Without --sweep, only the last of several sweeps with the same arms and seeds is shown.
    """
    number = arguments.sweep
    if number is not None:
        require(arguments.action != "export", "sweep", number, "none for export, which takes all")
        legal = f"1 to {len(sweeps)}" if sweeps else "none, the journal has no sweep"
        require(1 <= number <= len(sweeps), "sweep", number, legal)
        return {number: sweeps[number - 1]}
    require(bool(sweeps) or arguments.action == "export", "results", str(arguments.results),
            "a journal with a sweep")  # fmt: skip
    latest = {(sweep.arms, sweep.seeds): i for i, sweep in enumerate(sweeps, start=1)}
    return {i: sweeps[i - 1] for i in sorted(latest.values())}


def _print_status(number: int, sweep: Sweep, contents: store.Contents, console: Console) -> None:
    """Prints a table with a row for each arm, and a line for each seed that failed or runs."""
    arms = status.status_of(sweep, contents, partial(axes.labels, named=sweep.axes))
    columns = sweep.axes or ("model",)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for axis in columns:
        table.add_column(axis, overflow="fold")
    for header in ("finished", "failed", "running", "not run"):
        table.add_column(header, justify="right")
    lines = []
    for arm in arms:
        names = [arm.labels[axis] for axis in columns]
        counts = (arm.finished, arm.failed, arm.running, arm.not_run)
        table.add_row(*names, *(str(len(seeds)) for seeds in counts))
        states = {seed: f"failed: {cause}" for seed, cause in arm.failed.items()}
        states |= {seed: f"running {_since(started)}" for seed, started in arm.running.items()}
        lines += [f"{', '.join(names)}: seed {seed} {what}" for seed, what in states.items()]
    title = f"sweep {number}, {_time(sweep.started)}: {sweep.command}"
    console.print(title, soft_wrap=True)
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True)


def _since(started: Started) -> str:
    return f"since {_time(started.started)}, process {started.pid} on {started.host}"


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


def _export(contents: store.Contents, directory: Path, console: Console) -> None:
    """Writes every trial to trials.csv and trials.json."""
    trials = contents.trials.values()
    for name, make in (("trials.csv", export.to_csv), ("trials.json", export.to_json)):
        path = directory / name
        store.write_text(path, make(trials, axes.labels))
        console.print(f"{wording.trials(len(trials))} in {path}", soft_wrap=True)


def command_of_arm(command: str, columns: Sequence[str]) -> Callable[[RunConfig], str | None]:
    """Makes a function that returns the command for one arm of a sweep.

    The arm's command is the sweep's command, with the flag of each axis of `columns` set to the
    arm's value.

    Args:
      command: the sweep's command line.
      columns: the axes on which the arms differ.

    Returns:
      A function from an arm's config to its command. The function returns None if a column is not
      an axis, if the flag of a column does not accept the arm's value, or if a shell could not
      parse `command`.
    """
    by_name = {axis.name: axis for axis in axes.AXES}
    try:
        words = _without(shlex.split(command), {flag_of(name) for name in columns})
    except ValueError:  # a quote that is not closed
        return lambda config: None

    def command_of(config: RunConfig) -> str | None:
        flags: list[str] = []
        for name in columns:
            if name not in by_name:
                return None
            value = by_name[name].read(config)
            if value == axes.ABSENT:
                continue
            if not _is_value(value, by_name[name].values):
                return None
            flags += [flag_of(name), str(value)]
        return shlex.join([*words, *flags])

    return command_of


def _without(words: Sequence[str], flags: set[str]) -> list[str]:
    """Returns the words of a command line without some flags and their values."""
    kept, dropping = [], False
    for word in words:
        if word.startswith("--"):
            dropping = word.partition("=")[0].replace("_", "-") in flags
        if not dropping:
            kept.append(word)
    return kept


def _is_value(value: object, kind: object) -> bool:
    """Returns whether an axis accepts a value.

    If the layers of a network have different values on an axis, `Axis.read` returns a text that
    describes the values. The axis does not accept this text.
    """
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    return isinstance(value, int | float) if kind is float else type(value) is kind
