"""Trains one network: `python -m experiments.train --dataset digits --run runs/digits`."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.arguments import parse, refusals, refuse, single_values, with_axes
from experiments.planning import (
    MAX_SEED,
    RunArguments,
    baseline,
    count_classes,
    require_directory,
    require_fit,
)
from experiments.processes import (
    LostError,
    ProcessArguments,
    is_first,
    join,
    left_at_once,
    losses_named,
    require_processes,
)
from experiments.progress import RunProgress
from mnet_jax import process, serialization
from mnet_jax.ablation import axes
from mnet_jax.config import RunConfig
from mnet_jax.result import RunResult
from mnet_jax.validation import require

COMMAND = "train"
FAILED, INTERRUPTED = 1, 130
CONFIG, RESULT = "config.json", "result.json"


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments, ProcessArguments):
    """Trains one network, keeps checkpoints, and evaluates it on the test split once.

    An axis that is not named stays at its baseline for the data set. If the run's directory holds
    a checkpoint of the same config, the run goes on from there.
    """

    seed: int = 0
    """the seed behind initialization, data order, augmentation and dropout"""
    run: Path = Path("runs/latest")
    """where checkpoints, scalars, config.json and result.json go"""


def main() -> None:
    """Reads the command line, trains and prints."""
    arguments = parse(with_axes(Arguments, axes.AXES), COMMAND)
    console = Console(width=None if sys.stdout.isatty() else 120)
    with left_at_once(arguments):
        try:
            _train(arguments, console)
        except KeyboardInterrupt:
            refuse(COMMAND, "interrupted, the same command goes on", INTERRUPTED)


def _train(arguments: Arguments, console: Console) -> None:
    with refusals(COMMAND, arguments):
        _config(arguments, num_classes=2)  # refuses bad values before anything is loaded
        require_directory("run", arguments.run)
        require_processes(arguments)
        join(arguments, COMMAND)
        console.quiet = arguments.several and not is_first()
        config = _config(arguments, count_classes(arguments))
    result = _finished(arguments.run, config)
    if result:
        console.print("finished already, nothing to train", highlight=False)
    else:
        with refusals(COMMAND, arguments):
            result = _run(config, arguments.run, console)
    for line in _lines(result, arguments.run):
        console.print(line, highlight=False, markup=False)


def _finished(directory: Path, config: RunConfig) -> RunResult | None:
    """What this very run has found before, if it came to its end in `directory`."""
    try:
        kept = (directory / CONFIG).read_text()
        found = (directory / RESULT).read_text()
        if serialization.from_json(RunConfig, kept) != config:
            return None
        return serialization.from_json(RunResult, found)
    except (OSError, ValueError):
        return None


def _run(config: RunConfig, directory: Path, console: Console) -> RunResult:
    """Trains, and keeps what came out; ValueError where the config does not fit the machine."""
    from mnet_jax.data import DataError
    from mnet_jax.ops import NativeError
    from mnet_jax.run import run
    from mnet_jax.training.checkpoint import CheckpointError
    from mnet_jax.training.loop import NonFiniteError
    from mnet_jax.training.memory import OutOfMemoryError

    try:
        with RunProgress(console) as progress, losses_named():
            progress.begin(config.spec.name)
            result = run(config, directory, report=progress.show)
    except CheckpointError as error:
        raise ValueError(f"run: {error}") from error
    except (DataError, NativeError, NonFiniteError, OutOfMemoryError, LostError) as error:
        refuse(COMMAND, str(error), FAILED)
    if is_first():
        (directory / CONFIG).write_text(serialization.to_json(config) + "\n")
        (directory / RESULT).write_text(serialization.to_json(result) + "\n")
    return result


def _config(arguments: Arguments, num_classes: int) -> RunConfig:
    require(0 <= arguments.seed <= MAX_SEED, "seed", arguments.seed, f"from 0 to {MAX_SEED}")
    values = single_values(arguments, axes.AXES)
    config = axes.with_values(baseline(arguments, num_classes), values)
    require_fit(config)
    return dataclasses.replace(config, seed=arguments.seed)


def _lines(result: RunResult, directory: Path) -> list[str]:
    last = result.history[-1]
    return [
        f"parameters  {result.params:,}",
        f"MAdds       {result.madds:,}",
        f"validation  {last.validation_accuracy:.2%} after epoch {last.epoch}",
        f"test        {result.test_accuracy:.2%} of {result.test_count} images right",
        f"speed       {result.images_per_second:,.0f} images/s, {result.seconds:.0f} s in all",
        f"kept in     {directory}",
    ]


if __name__ == "__main__":
    arguments = parse(with_axes(Arguments, axes.AXES), COMMAND)
    process.restart(
        [sys.executable, "-m", f"experiments.{COMMAND}", *sys.argv[1:]],
        process.settings(tune_allocator=arguments.tune_allocator),
    )
    main()
