"""Trains every combination of the named axes' values and compares the arms.

    python -m experiments.ablate --bottleneck linear relu6 --seeds 5

Trials are stored as they end; a second call runs what is missing.
"""

import contextlib
import dataclasses
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.arguments import axis_values, parse, refusals, refuse, with_axes
from experiments.planning import (
    RunArguments,
    baseline,
    count_classes,
    require_directory,
    require_fit,
)
from experiments.progress import SweepProgress
from experiments.repeating import command_of_arm
from mnet_jax import process
from mnet_jax.ablation import axes, rendering, report, runners, store
from mnet_jax.ablation.statistics import Method
from mnet_jax.config import RunConfig
from mnet_jax.validation import require

COMMAND = "ablate"
FAILED, INTERRUPTED = 1, 130
MAX_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments):
    """Trains every combination of the axes' values with several seeds and compares the arms.

    An axis that is not named stays at its baseline for the data set. Trials are stored as they
    end, and a second call runs only what is missing.
    """

    seeds: int = 3
    """how many seeds, counted from 0, every arm is trained with"""
    results: Path = Path("results")
    """where trials are stored and the report is written"""
    interval: Method = "t"
    """of means and differences: Student's t, or a bootstrap (BCa), which wants more seeds"""


def main() -> None:
    """Reads the command line, runs what is missing, prints and writes the report."""
    arguments = parse(with_axes(Arguments, axes.AXES), COMMAND)
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        failed = _ablate(arguments, console)
    except KeyboardInterrupt:
        refuse(COMMAND, "interrupted; what finished is stored, the same command goes on",
               INTERRUPTED)  # fmt: skip
    except store.StoreError as error:
        refuse(COMMAND, str(error), FAILED)
    sys.exit(FAILED if failed else 0)


def _ablate(arguments: Arguments, console: Console) -> bool:
    """The whole sweep and its report; whether a trial of this call failed.

    Raises:
      StoreError: trials or the report cannot be written.
    """
    trials = store.Store(arguments.results)
    with refusals(COMMAND, arguments):
        known, complaints = _read(trials)
        base, configs = _plan(arguments)
        todo = store.missing(known, configs)
    console.print(_opening(len(todo), len(configs), arguments.results), highlight=False)
    _warn(complaints, console)
    settings = process.settings(tune_allocator=arguments.tune_allocator)
    named = {name: v for name, v in axis_values(arguments, axes.AXES).items() if v}
    try:
        _train(todo, configs, list(named), trials, settings, console)
    except KeyboardInterrupt:
        refuse(COMMAND, _interrupted(trials, configs), INTERRUPTED)
    known, later = trials.read()
    _warn([complaint for complaint in later if complaint not in complaints], console)
    comparable = store.comparable(known, configs)
    summary = report.summarize(
        comparable,
        configs,
        axes.labels,
        baseline=_anchor(base, configs, named, comparable),
        named_axes=list(named),
        method=arguments.interval,
    )
    console.print(rendering.to_table(summary))
    again = command_of_arm(_command(), summary.columns)
    rendering.write(summary, arguments.results, command=_command(), command_of=again)
    console.print(f"the same, with curves: {arguments.results / 'report.html'}", highlight=False)
    requested = {store.key_of(config) for config in configs}
    return any(trial.cause for key, trial in known.items() if key in requested)


def _read(trials: store.Store) -> tuple[dict[str, store.Trial], tuple[str, ...]]:
    """What is stored; ValueError if `--results` can neither be read nor written."""
    require_directory("results", trials.directory)
    try:
        return trials.read()
    except store.StoreError as error:
        raise ValueError(f"results: {error}") from error


def _warn(complaints: Iterable[str], console: Console) -> None:
    for complaint in complaints:
        console.print(f"warning: {complaint}", markup=False, highlight=False)


def _plan(arguments: Arguments) -> tuple[RunConfig, list[RunConfig]]:
    """The baseline and every config to have a trial of.

    Raises:
      ValueError: a value is not legal, or the data set cannot be had.
    """
    require(1 <= arguments.seeds <= MAX_SEEDS, "seeds", arguments.seeds, f"1 to {MAX_SEEDS}")
    _grid(arguments, num_classes=2)  # refuses bad values before anything is loaded
    num_classes = count_classes(arguments)
    return baseline(arguments, num_classes), _grid(arguments, num_classes)


def _grid(arguments: Arguments, num_classes: int) -> list[RunConfig]:
    values = axis_values(arguments, axes.AXES)
    arms = axes.grid(baseline(arguments, num_classes), values)
    for arm in arms:
        require_fit(arm)
    return [dataclasses.replace(arm, seed=seed) for arm in arms for seed in range(arguments.seeds)]


def _opening(to_run: int, asked: int, results: Path) -> str:
    stored = f"{asked - to_run} of {asked} stored in {results}"
    return f"{to_run} {'trial' if to_run == 1 else 'trials'} to run, {stored}"


def _interrupted(trials: store.Store, configs: Sequence[RunConfig]) -> str:
    """What is stored of a sweep that was interrupted, and how to go on."""
    missing = len(store.missing(trials.read()[0], configs))
    return (
        f"interrupted; {len(configs) - missing} of {len(configs)} trials are stored in "
        f"{trials.directory}, the same command goes on"
    )


def _train(
    todo: Sequence[RunConfig],
    configs: Sequence[RunConfig],
    named: Sequence[str],
    trials: store.Store,
    settings: Mapping[str, str],
    console: Console,
) -> None:
    """Runs the trials in a process with these variables, and stores each as it ends.

    Args:
      todo: the configs without a result.
      configs: all that were asked for.
      named: the axes that tell the arms apart.
      trials: where results go.
      settings: the variables.
      console: for the progress and a line when a trial ends.
    """

    def directory_of(config: RunConfig) -> Path:
        return trials.directory / "runs" / store.key_of(config)

    def arm_of(config: RunConfig) -> str:
        labels = axes.labels(config)
        return ", ".join(labels[axis] for axis in named) or labels["model"]

    running: RunConfig | None = None
    asked = Counter(map(arm_of, configs))
    with SweepProgress(console, asked, asked - Counter(map(arm_of, todo))) as progress:

        def show(event: Any) -> None:
            progress.show(running, event)

        outcomes = runners.run_local(todo, directory_of, show, environment=settings)
        with contextlib.closing(outcomes):  # its worker must not outlive an interruption here
            for i, config in enumerate(todo, start=1):
                name, running = f"trial {i} of {len(todo)}", config
                progress.begin(config, arm_of(config))
                trial = _keep(next(outcomes), trials)
                progress.end(config)
                if trial.result:  # what there was to go on from is done with; its model stays
                    shutil.rmtree(directory_of(config) / "checkpoints", ignore_errors=True)
                ending = _ending(trial)
                console.print(f"{name}, seed {config.seed}: {ending}", markup=False,
                              highlight=False, soft_wrap=True)  # fmt: skip


def _keep(outcome: runners.Outcome, trials: store.Store) -> store.Trial:
    """The trial that is now stored: a result that the store refuses is a failure."""
    config, environment = outcome.config, outcome.environment
    if outcome.result is None:
        trial = store.failure(config, outcome.cause or "", environment)
    else:
        trial = store.success(config, outcome.result, environment)
    try:
        trials.write(trial)
    except store.StoreError:
        raise
    except ValueError as error:
        trial = store.failure(config, str(error), environment)
        trials.write(trial)
    return trial


def _ending(trial: store.Trial) -> str:
    if trial.result is None:
        return f"failed, {trial.cause}"
    result = trial.result
    return f"{result.test_accuracy:.2%} of {result.test_count} right, {result.seconds:.0f} s"


def _anchor(
    base: RunConfig,
    configs: Sequence[RunConfig],
    named: dict[str, tuple],
    comparable: Iterable[store.Trial],
) -> RunConfig:
    """The arm that the others are compared with.

    The data set's baseline if it is among those shown; else the arm of this call that is nearest
    to it: on each axis the baseline's value if it was named, else the first one.
    """
    shown = {dataclasses.replace(c, seed=0) for c in configs}
    shown |= {dataclasses.replace(t.config, seed=0) for t in comparable if t.result}
    if base in shown:
        return base
    own = {axis.name: axis.read(base) for axis in axes.AXES}
    nearest = {n: own[n] if own[n] in given else given[0] for n, given in named.items()}
    return axes.with_values(base, nearest)


def _command() -> str:
    return shlex.join(["python", "-m", "experiments.ablate", *sys.argv[1:]])


if __name__ == "__main__":
    main()
