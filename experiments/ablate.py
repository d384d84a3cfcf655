"""Trains every combination of the named axes' values and compares the arms.

    python -m experiments.ablate --bottleneck linear relu6 --seeds 5
    python -m experiments.ablate --preset v2-linear-bottleneck --scale desk

Trials are stored as they end; a second call runs what is missing.
"""

import contextlib
import dataclasses
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from experiments import listing, sweeps
from experiments.arguments import axis_values, parse, refusals, refuse, with_axes
from experiments.planning import count_classes, require_directory
from experiments.progress import RunProgress
from experiments.sweeps import Sweep, SweepArguments
from mnet_jax import process
from mnet_jax.ablation import axes, rendering, report, runners, store
from mnet_jax.config import RunConfig

COMMAND = "ablate"
FAILED, INTERRUPTED = 1, 130


@dataclass(frozen=True, kw_only=True)
class Arguments(SweepArguments):
    """Trains every combination of the axes' values with several seeds and compares the arms.

    An axis that is not named stays at its baseline for the data set, or as the preset has it.
    Trials are stored as they end, and a second call runs only what is missing.
    """


def main() -> None:
    """Reads the command line, runs what is missing, prints and writes the report."""
    arguments = parse(with_axes(Arguments, axes.AXES), COMMAND)
    console = Console(width=None if sys.stdout.isatty() else 140)
    if arguments.list:
        console.print(listing.to_table())
        return
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
    trials = store.Store(arguments.store)
    with refusals(COMMAND, arguments):
        known, complaints = _read(trials)
        sweep, configs = _plan(arguments)
        todo = store.missing(known, configs)
    console.print(_opening(len(todo), len(configs), arguments.store), highlight=False)
    _warn(complaints, console)
    _train(todo, trials, process.settings(tune_allocator=arguments.tune_allocator), console)
    known, later = trials.read()
    _warn([complaint for complaint in later if complaint not in complaints], console)
    comparable = store.comparable(known, configs)
    summary = report.summarize(
        comparable,
        configs,
        partial(axes.labels, named=sweep.named),
        baseline=_anchor(sweep, configs, comparable),
        named_axes=sweep.named,
    )
    console.print(rendering.to_table(summary))
    rendering.write(summary, arguments.store, command=_command())
    console.print(f"the same, with curves: {arguments.store / 'report.md'}", highlight=False)
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


def _plan(arguments: Arguments) -> tuple[Sweep, list[RunConfig]]:
    """The arms, and every config to have a trial of.

    Raises:
      ValueError: a value is not legal, or the data set cannot be had.
    """
    values = axis_values(arguments, axes.AXES)
    sweeps.plan(arguments, values, num_classes=2)  # refuses bad values before anything is loaded
    sweep = sweeps.plan(arguments, values, count_classes(arguments))
    return sweep, [
        dataclasses.replace(arm, seed=seed) for arm in sweep.arms for seed in arguments.arm_seeds
    ]


def _opening(to_run: int, asked: int, results: Path) -> str:
    stored = f"{asked - to_run} of {asked} stored in {results}"
    return f"{to_run} {'trial' if to_run == 1 else 'trials'} to run, {stored}"


def _train(
    todo: Sequence[RunConfig],
    trials: store.Store,
    settings: Mapping[str, str],
    console: Console,
) -> None:
    """Runs the trials in a process with these variables, and stores each as it ends."""

    def directory_of(config: RunConfig) -> Path:
        return trials.directory / "runs" / store.key_of(config)

    with RunProgress(console) as progress:
        outcomes = runners.run_local(todo, directory_of, progress.show, environment=settings)
        with contextlib.closing(outcomes):  # its worker must not outlive an interruption here
            for i, config in enumerate(todo, start=1):
                name = f"trial {i} of {len(todo)}"
                progress.begin(name)
                trial = _keep(next(outcomes), trials)
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
    sweep: Sweep, configs: Sequence[RunConfig], comparable: Iterable[store.Trial]
) -> RunConfig:
    """The arm that the others are compared with.

    The baseline if it is among those shown; else the arm of this call that is nearest to it: on
    each axis the baseline's value if it was named, else the first one.
    """
    shown = {dataclasses.replace(c, seed=0) for c in configs}
    shown |= {dataclasses.replace(t.config, seed=0) for t in comparable if t.result}
    return sweep.baseline if sweep.baseline in shown else sweep.nearest


def _command() -> str:
    return shlex.join(["python", "-m", "experiments.ablate", *sys.argv[1:]])


if __name__ == "__main__":
    main()
