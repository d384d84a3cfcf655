"""Trains every combination of the named axes' values and compares the arms.

    python -m experiments.ablate --bottleneck linear relu6 --seeds 5

Trials are stored as they end; a second call runs what is missing.
"""

import dataclasses
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.arguments import axis_values, parse, refusals, with_axes
from experiments.planning import RunArguments, baseline, count_classes, require_fit
from experiments.progress import RunProgress
from mnet_jax.ablation import axes, rendering, report, runners, store
from mnet_jax.config import RunConfig
from mnet_jax.validation import require

COMMAND = "ablate"
FAILED, INTERRUPTED = 1, 130


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


def main() -> None:
    """Reads the command line, runs what is missing, prints and writes the report."""
    arguments = parse(with_axes(Arguments, axes.AXES), COMMAND)
    console = Console(width=None if sys.stdout.isatty() else 120)
    with refusals(COMMAND, arguments):
        base, configs = _plan(arguments)
        trials = store.Store(arguments.results)
        known, complaints = trials.read()
        todo = store.missing(known, configs)
        console.print(_opening(len(todo), len(configs), arguments.results), highlight=False)
        for complaint in complaints:
            console.print(f"warning: {complaint}", markup=False, highlight=False)
    try:
        _train(todo, trials, console)
    except KeyboardInterrupt:
        console.print("interrupted; finished trials are stored, the same command goes on")
        sys.exit(INTERRUPTED)
    known, _ = trials.read()
    named = {name: v for name, v in axis_values(arguments, axes.AXES).items() if v}
    requested = {store.key_of(config) for config in configs}
    comparable = store.comparable(known, configs)
    summary = report.summarize(
        comparable,
        configs,
        axes.labels,
        baseline=_anchor(base, configs, named, comparable),
        named_axes=list(named),
    )
    console.print(rendering.to_table(summary))
    rendering.write(summary, arguments.results, command=_command())
    console.print(f"the same, with curves: {arguments.results / 'report.md'}", highlight=False)
    failed = [trial for key, trial in known.items() if key in requested and trial.cause]
    sys.exit(FAILED if failed else 0)


def _plan(arguments: Arguments) -> tuple[RunConfig, list[RunConfig]]:
    """The baseline and every config to have a trial of.

    Raises:
      ValueError: a value is not legal, or the data set cannot be had.
    """
    require(arguments.seeds >= 1, "seeds", arguments.seeds, "1 or more")
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


def _train(todo: Sequence[RunConfig], trials: store.Store, console: Console) -> None:
    """Runs the trials and stores each as it ends."""
    with RunProgress(console) as progress:
        outcomes = runners.run_local(
            todo, lambda c: trials.directory / "runs" / store.key_of(c), progress.show
        )
        progress.begin(f"trial 1 of {len(todo)}")
        for i, outcome in enumerate(outcomes, start=1):
            progress.begin(f"trial {i + 1} of {len(todo)}")
            if outcome.result is not None:
                trials.write(store.success(outcome.config, outcome.result, outcome.environment))
                ending = (
                    f"{outcome.result.test_accuracy:.2%} of {outcome.result.test_count} right, "
                    f"{outcome.result.seconds:.0f} s"
                )
            else:
                cause = outcome.cause or ""
                trials.write(store.failure(outcome.config, cause, outcome.environment))
                ending = f"failed, {cause}"
            name = f"trial {i} of {len(todo)}, seed {outcome.config.seed}"
            console.print(f"{name}: {ending}", markup=False, highlight=False)


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
