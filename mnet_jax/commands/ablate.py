"""Trains all combinations of the given axis values with several seeds, and compares them.

    python -m experiments.ablate --bottleneck linear relu6 --seeds 5
    python -m experiments.ablate --preset v2-linear-bottleneck --scale desk
    python -m experiments.ablate status

Each trial is stored when it ends. A second call runs only the missing trials; concurrent calls
divide the missing trials between them. `status`, `report` and `export` read stored trials (see
`stored_sweeps`).
"""

import dataclasses
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mnet_jax.ablation import events, runners, store, wording
from mnet_jax.commands import catalog, entry, planning, platforms, stored_sweeps, sweeps, terminal
from mnet_jax.commands.arguments import axis_values, parse, refusals, refuse, with_axes
from mnet_jax.commands.messages import invocation
from mnet_jax.commands.planning import load, recipe_name, require_directory, require_fit
from mnet_jax.commands.stored_sweeps import COMMAND
from mnet_jax.commands.sweeps import Plan, SweepArguments
from mnet_jax.config import Arm, RunConfig
from mnet_jax.options import axes
from mnet_jax.options.recipes import SIZED
from mnet_jax.statistics.intervals import Method
from mnet_jax.training.stopping import Stop, StoppedError


@dataclass(frozen=True, kw_only=True)
class Arguments(SweepArguments, sweeps.RunnerArguments):
    """Trains all combinations of the given values with several seeds, and compares them.

    Each flag from --model on is an axis, and takes one value or more. An axis that is not given has
    the value of the preset or of the recipe. Each trial (one combination with one seed) is stored
    when it ends; a second call runs only the missing trials.

    With `status`, `report` or `export` as the first word, the command reads stored trials and
    trains nothing. `status --help` lists the flags for these.
    """

    interval: Method = "t"
    """confidence interval: Student's t, or bootstrap (BCa), which needs more seeds"""


def main(stop: Stop | None = None) -> None:
    """Reads the command line, runs the missing trials, prints and writes the report.

    Args:
      stop: receives the signals that interrupt the trials.
    """
    if sys.argv[1:] and sys.argv[1] in stored_sweeps.ACTIONS:
        return stored_sweeps.main()
    arguments = parse(with_axes(Arguments, axes.AXES), COMMAND)
    console = terminal.console(140)
    if arguments.list:
        console.print(catalog.presets_table())
        return
    try:
        with store.Store(arguments.store) as kept:
            failed = _ablate(arguments, kept, console, stop or Stop())
    except runners.RunnerError as error:
        refuse(COMMAND, f"{error}; the same command goes on", entry.FAILED)
    except store.StoreError as error:
        refuse(COMMAND, str(error), entry.FAILED)
    sys.exit(entry.FAILED if failed else 0)


def _ablate(arguments: Arguments, kept: store.Store, console: Console, stop: Stop) -> bool:
    """Runs the sweep and writes its report; returns whether a trial of this sweep failed.

    Raises:
      StoreError: trials or the report cannot be written.
    """
    with refusals(COMMAND, arguments):
        before = _read(kept)
        known = before.trials
        plan, num_classes = _plan(arguments, console)
        configs = [
            arm.config(num_classes, seed) for seed in arguments.arm_seeds for arm in plan.arms
        ]
        todo = store.missing(known, configs)
        tuned = arguments.tune_allocator
        if todo and arguments.runner == "local":
            platforms.require_platform()
    with stop.deferred():  # workers must be ended and trials stored before the process exits
        with refusals(COMMAND, arguments):
            runner = sweeps.runner_of(arguments, len(todo), tune_allocator=tuned) if todo else None
        console.print(_opening(len(todo), len(configs), arguments.store))
        stored_sweeps.warn(complaints := kept.complaints, console)
        record = events.sweep(
            shlex.join([*invocation(COMMAND), *sys.argv[1:]]),
            arms=plan.arms,
            num_classes=num_classes,
            seeds=arguments.arm_seeds,
            baseline=_anchor(plan, store.comparable(known, configs)),
            axes=plan.axes,
            preset=arguments.preset,
            interval=arguments.interval,
        )
        earlier = None if todo else _same_sweep_before(record, before)
        if earlier:
            record = earlier
        else:
            kept.append(record)
        try:
            if runner:
                sweeps.run(record, known, kept, runner, console, stop)
        except StoppedError:
            refuse(COMMAND, _interrupted(kept, configs), entry.INTERRUPTED)
        contents = kept.read()
        stored_sweeps.warn([c for c in kept.complaints if c not in complaints], console)
        stored_sweeps.report(record, contents, kept.directory, console)
    requested = {store.key_of(config) for config in configs}
    return any(trial.cause for key, trial in contents.trials.items() if key in requested)


def _read(kept: store.Store) -> store.Contents:
    """Reads the store.

    Raises:
      ValueError: the directory of `--results` cannot be read or written.
    """
    require_directory("results", kept.directory)
    try:
        return kept.read()
    except store.StoreError as error:
        raise ValueError(f"results: {error}") from error


def _same_sweep_before(called: events.Sweep, before: store.Contents) -> events.Sweep | None:
    """Returns the last stored sweep that equals `called`, or None.

    The command lines and start times are not compared.
    """
    for earlier in reversed(before.sweeps):
        here = dataclasses.replace(earlier, command=called.command, started=called.started)
        if here == called:
            return earlier
    return None


def _plan(arguments: Arguments, console: Console) -> tuple[Plan, int]:
    """Returns the arms of the sweep, and the number of classes of the data set.

    Raises:
      ValueError: a value is not legal, or the data set cannot be loaded.
    """
    values = axis_values(arguments, axes.AXES)
    plan = sweeps.plan(arguments, values)  # checks the values before anything is loaded
    every = [arm.data for arm in plan.arms]
    images = dataclasses.replace(
        every[0],
        bad_images=max(data.bad_images for data in every),
        max_image_pixels=max(data.max_image_pixels for data in every),
    )
    console.print(planning.reading_line(arguments.images))
    dataset = load(images)
    if recipe_name(arguments, len(dataset.train)) in SIZED:
        plan = sweeps.plan(arguments, values, len(dataset.train))
    for arm in plan.arms:
        require_fit(arm.config(dataset.num_classes))
    return plan.of_files(dataset.listing), dataset.num_classes


def _opening(to_run: int, trials: int, results: Path) -> str:
    there = f"{trials - to_run} of {trials} stored in {results}"
    return f"{wording.trials(to_run)} to run, {there}"


def _interrupted(kept: store.Store, configs: Sequence[RunConfig]) -> str:
    """Returns the line for an interrupted sweep: how many trials are stored, how to continue."""
    missing = len(store.missing(kept.read().trials, configs))
    return (
        f"interrupted; {len(configs) - missing} of {len(configs)} trials are stored in "
        f"{kept.directory}, the same command goes on"
    )


def _anchor(plan: Plan, comparable: Iterable[store.Trial]) -> Arm:
    """Returns the arm that the others are compared with.

    This is the baseline if the report shows the baseline, and otherwise the nearest arm of this
    sweep. On each axis that was given, the nearest arm has the baseline's value if this is among
    the given values, and the first given value otherwise.
    """
    shown = {*plan.arms, *(Arm.of(trial.config) for trial in comparable if trial.result)}
    return plan.baseline if plan.baseline in shown else plan.nearest
