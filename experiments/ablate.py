"""Trains every combination of the named axes' values and compares the arms.

    python -m experiments.ablate --bottleneck linear relu6 --seeds 5
    python -m experiments.ablate --preset v2-linear-bottleneck --scale desk
    python -m experiments.ablate status

Trials are stored as they end; a second call runs what is missing, and one beside it shares the
work. `status`, `report` and `export` read what is stored (see `experiments.stored`).
"""

import contextlib
import dataclasses
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments import listing, stored, sweeps
from experiments.arguments import axis_values, parse, refusals, refuse, with_axes
from experiments.planning import count_classes, require_directory
from experiments.progress import RunProgress
from experiments.sweeps import Sweep, SweepArguments
from mnet_jax import process
from mnet_jax.ablation import axes, events, runners, store
from mnet_jax.config import RunConfig

COMMAND = "ablate"
FAILED, INTERRUPTED = 1, 130
POLL_SECONDS = 1.0  # how often a sweep with nothing else to do looks after others' trials


@dataclass(frozen=True, kw_only=True)
class Arguments(SweepArguments):
    """Trains every combination of the axes' values with several seeds and compares the arms.

    An axis that is not named stays at its baseline for the data set, or as the preset has it.
    Trials are stored as they end, and a second call runs only what is missing. With `status`,
    `report` or `export` in front it reads what is stored and trains nothing.
    """


def main() -> None:
    """Reads the command line, runs what is missing, prints and writes the report."""
    if sys.argv[1:] and sys.argv[1] in stored.ACTIONS:
        return stored.main()
    arguments = parse(with_axes(Arguments, axes.AXES), COMMAND)
    console = Console(width=None if sys.stdout.isatty() else 140)
    if arguments.list:
        console.print(listing.to_table())
        return
    try:
        with store.Store(arguments.store) as trials:
            failed = _ablate(arguments, trials, console)
    except KeyboardInterrupt:
        refuse(COMMAND, "interrupted; what finished is stored, the same command goes on",
               INTERRUPTED)  # fmt: skip
    except store.StoreError as error:
        refuse(COMMAND, str(error), FAILED)
    sys.exit(FAILED if failed else 0)


def _ablate(arguments: Arguments, trials: store.Store, console: Console) -> bool:
    """The whole sweep and its report; whether a trial of this call failed.

    Raises:
      StoreError: trials or the report cannot be written.
    """
    with refusals(COMMAND, arguments):
        known = _read(trials)
        sweep, configs = _plan(arguments)
        todo = store.missing(known, configs)
    console.print(_opening(len(todo), len(configs), arguments.store), highlight=False)
    stored.warn(complaints := trials.complaints, console)
    record = events.sweep(
        _command(),
        arms=configs,
        seeds=arguments.arm_seeds,
        baseline=_anchor(sweep, configs, store.comparable(known, configs)),
        axes=sweep.named,
        preset=arguments.preset,
    )
    trials.append(record)
    settings = process.settings(tune_allocator=arguments.tune_allocator)
    _train(todo, known, trials, settings, console)
    contents = trials.read()
    stored.warn([c for c in trials.complaints if c not in complaints], console)
    stored.report(record, contents, trials.directory, console)
    requested = {store.key_of(config) for config in configs}
    return any(trial.cause for key, trial in contents.trials.items() if key in requested)


def _read(trials: store.Store) -> dict[str, store.Trial]:
    """What is stored; ValueError if `--results` can neither be read nor written."""
    require_directory("results", trials.directory)
    try:
        return trials.read().trials
    except store.StoreError as error:
        raise ValueError(f"results: {error}") from error


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
    known: Mapping[str, store.Trial],
    trials: store.Store,
    settings: Mapping[str, str],
    console: Console,
) -> None:
    """Runs the trials in a process with these variables, and stores each as it ends."""
    names = {c: f"trial {i} of {len(todo)}" for i, c in enumerate(todo, start=1)}

    def directory_of(config: RunConfig) -> Path:
        return trials.directory / "runs" / store.key_of(config)

    with RunProgress(console) as progress:
        claimed = _claimed(
            trials.claim_each(known, todo), lambda c: progress.begin(names[c]), console
        )
        outcomes = runners.run_local(claimed, directory_of, progress.show, environment=settings)
        with contextlib.closing(outcomes):  # its worker must not outlive an interruption here
            for outcome in outcomes:
                config, found = outcome.config, outcome.result or outcome.cause or ""
                trial = trials.finish(config, found, outcome.environment)
                if trial.result:  # what there was to go on from is done with; its model stays
                    shutil.rmtree(directory_of(config) / "checkpoints", ignore_errors=True)
                ending = f"{names[config]}, seed {config.seed}: {_ending(trial)}"
                console.print(ending, markup=False, highlight=False, soft_wrap=True)


def _claimed(
    claims: Iterable[RunConfig | None], begin: Callable[[RunConfig], None], console: Console
) -> Iterator[RunConfig]:
    """The trials to run here; at the end it waits for those that run in other processes."""
    waiting = False
    for config in claims:
        if config:
            begin(config)
            yield config
            continue
        if not waiting:
            console.print("waiting for trials that other processes run", highlight=False)
        waiting = True
        time.sleep(POLL_SECONDS)


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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    main()
