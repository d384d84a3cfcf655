"""Trains one network.

python -m experiments.train --dataset digits --run runs/digits
python -m experiments.train --recipe v2-imagenet --dataset imagenet2012 --data-dir ~/datasets
python -m experiments.train --list
"""

import functools
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mnet_jax import process, serialization
from mnet_jax.commands import catalog, entry, planning, terminal
from mnet_jax.commands.arguments import parse, refusals, refuse, single_values, with_axes
from mnet_jax.commands.displays import RunProgress
from mnet_jax.commands.planning import (
    MAX_SEED,
    PRESUMED_IMAGES,
    RunArguments,
    baseline,
    load,
    recipe_name,
    require_directory,
    require_fit,
    takes_files,
)
from mnet_jax.commands.processes import (
    LostError,
    ProcessArguments,
    exit_at_once_on_error,
    is_first,
    join,
    name_lost_processes,
    require_processes,
)
from mnet_jax.config import FILE_NAME as CONFIG_FILE
from mnet_jax.config import Arm, RunConfig
from mnet_jax.files import read_file, replace_file
from mnet_jax.options import axes
from mnet_jax.options.recipes import SIZED
from mnet_jax.training.results import Progress, RunResult
from mnet_jax.training.stopping import SIGNALS, Stop, StoppedError, blocked
from mnet_jax.training.types import Keep
from mnet_jax.validation import one_line, require

if TYPE_CHECKING:
    from mnet_jax.data import Dataset

COMMAND = "train"
RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments, ProcessArguments):
    """Trains one network, saves checkpoints, and evaluates the network on the test split once.

    Each flag from --model on replaces one value of the recipe, and takes one value. If the run's
    directory has a checkpoint of the same config, the run resumes from it.
    """

    list: bool = False
    """print the recipes with their costs and target accuracies; do not train"""
    seed: int = 0
    """the seed of initialization, data order, augmentation and dropout"""
    run: Path = Path("runs/latest")
    """directory for checkpoints, scalars, config.json and result.json"""
    keep: Keep = "last"
    """the weights to save as a model: the last, or those with the best validation accuracy"""
    save_every_seconds: float = 0.0
    """seconds between checkpoints, also within epochs; 0: after every epoch only"""
    show_batch: Path | None = None
    """draw the first training batch, as the network sees it, into this PNG file; do not train"""


def main(stop: Stop | None = None) -> None:
    """Reads the command line, trains and prints.

    Args:
      stop: receives the signals after which a checkpoint is saved and the training ends.
    """
    _main(_parsed(), stop)


def main_alone(stop: Stop) -> None:
    """Like `main`, but first restarts the process if environment variables must be set."""
    arguments = _parsed()
    with blocked(*SIGNALS):
        process.restart(
            [sys.executable, *sys.orig_argv[1:]],
            process.settings(tune_allocator=arguments.tune_allocator, given=os.environ),
        )
    process.silence_libraries()
    _main(arguments, stop)


def _parsed() -> Arguments:
    parsed: Arguments = parse(with_axes(Arguments, axes.AXES), COMMAND)
    return parsed


def _main(arguments: Arguments, stop: Stop | None) -> None:
    console = terminal.console(120)
    if arguments.list:
        console.print(catalog.recipes_table())
        return
    with exit_at_once_on_error(arguments, COMMAND):
        _train(arguments, console, stop)


def _train(arguments: Arguments, console: Console, stop: Stop | None) -> None:
    with refusals(COMMAND, arguments):
        arm = _arm(arguments)  # checks the values before anything is loaded
        require_directory("run", arguments.run)
        seconds = arguments.save_every_seconds
        require(0 <= seconds < math.inf, "save_every_seconds", seconds, "0 or more")
        if arguments.show_batch:
            _require_picture(arguments.show_batch)
        require_processes(arguments)
        join(arguments)
        console.quiet = arguments.several and not is_first()
        console.print(planning.reading_line(arguments.images))
        dataset = load(arm.data, arguments.run)
        recipe = recipe_name(arguments, len(dataset.train))
        if recipe in SIZED:
            arm = _arm(arguments, len(dataset.train))
        config = arm.of_files(dataset.listing).config(dataset.num_classes, arguments.seed)
        require_fit(config)
        if arguments.several:
            _require_one_run(config, arguments)
    if arguments.show_batch:
        console.print(_shown(config, dataset, arguments.show_batch))
        return
    result = _finished(arguments.run, config)
    if result:
        console.print("finished already, nothing to train")
    else:
        for line in planning.opening_lines(config, recipe, dataset, arguments.run):
            console.print(line, soft_wrap=True)
        with refusals(COMMAND, arguments):
            result = _run(config, dataset, arguments, console, stop)
    for line in _lines(result, arguments.run):
        console.print(line)


def _require_one_run(config: RunConfig, arguments: Arguments) -> None:
    """Raises ValueError in all processes if their settings differ; see `mnet_jax.runs.run`."""
    from mnet_jax.runs.run import require_one_run

    require_one_run(config, save_every_seconds=arguments.save_every_seconds, keep=arguments.keep)


def _finished(directory: Path, config: RunConfig) -> RunResult | None:
    """Returns the stored result if a run with this config finished in `directory`, else None."""
    try:
        kept = read_file(directory / CONFIG_FILE).decode()
        found = read_file(directory / RESULT).decode()
        if serialization.from_json(RunConfig, kept) != config:
            return None
        return serialization.from_json(RunResult, found)
    except (OSError, ValueError):
        return None


def _run(
    config: RunConfig,
    dataset: "Dataset",
    arguments: Arguments,
    console: Console,
    stop: Stop | None,
) -> RunResult:
    """Trains, and stores the result.

    Raises:
      ValueError: the run's directory has the checkpoints of another config, or cannot be used.
    """
    from mnet_jax.data import DataError
    from mnet_jax.ops import NativeError
    from mnet_jax.runs.run import run
    from mnet_jax.training.checkpoints.checkpoint import CheckpointError, SavingError
    from mnet_jax.training.memory import OutOfMemoryError
    from mnet_jax.training.monitoring import DivergenceError

    directory = arguments.run

    @functools.cache
    def remove_result() -> None:
        """Removes the result of an earlier run; called when this run has started."""
        if is_first():
            (directory / RESULT).unlink(missing_ok=True)

    def show(event: Progress) -> None:
        remove_result()
        progress.show(event)

    try:
        with RunProgress(console) as progress, name_lost_processes():
            progress.begin(config.spec.name)
            result = run(
                config,
                directory,
                dataset=dataset,
                save_every_seconds=arguments.save_every_seconds,
                keep=arguments.keep,
                stop=stop,
                report=show,
            )
        if is_first():
            replace_file(directory / RESULT, (serialization.to_json(result) + "\n").encode())
    except CheckpointError as error:
        raise ValueError(f"run: {error}") from error
    except StoppedError as error:
        refuse(COMMAND, f"{error}, the same command goes on", error.code)
    except (
        DataError, NativeError, DivergenceError, SavingError, OutOfMemoryError, LostError
    ) as error:  # fmt: skip
        refuse(COMMAND, str(error), entry.FAILED)
    except OSError as error:  # the disk is full, or no longer accessible
        refuse(COMMAND, f"{directory}: {one_line(error)}", entry.FAILED)
    return result


def _require_picture(path: Path) -> None:
    require(path.suffix == ".png", "show_batch", str(path), "a file whose name ends in .png")
    require(not path.is_dir(), "show_batch", str(path), "a file, no directory")
    legal = "a file in a directory that can be written, or a new one"
    require(takes_files(path.parent), "show_batch", str(path), legal)


def _shown(config: RunConfig, dataset: "Dataset", path: Path) -> str:
    """Draws the first batch of a run into a file; returns the line to print."""
    from mnet_jax.data import DataError
    from mnet_jax.plots.contact_sheet import MOST_IMAGES, contact_sheet
    from mnet_jax.runs.preview import first_batch

    try:
        preview = first_batch(config, dataset, MOST_IMAGES)
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(preview).save(path)
    except DataError as error:
        refuse(COMMAND, str(error), entry.FAILED)
    except OSError as error:
        refuse(COMMAND, f"{path}: {one_line(error)}", entry.FAILED)
    count, (height, width) = config.data.batch_size, preview.images.shape[1:3]
    return f"a batch of {count} images of {width} x {height} pixels, the first of them in {path}"


def _arm(arguments: Arguments, train_images: int = PRESUMED_IMAGES) -> Arm:
    """Returns the arm to train.

    Raises:
      ValueError: a value is not legal, or no machine could run the arm.
    """
    require(0 <= arguments.seed <= MAX_SEED, "seed", arguments.seed, f"from 0 to {MAX_SEED}")
    values = single_values(arguments, axes.AXES)
    arm = axes.with_values(baseline(arguments, train_images), values)
    require_fit(arm)
    return arm


def _lines(result: RunResult, directory: Path) -> list[str]:
    last, of_qat = result.history[-1], []
    if result.oscillating is not None:
        of_qat = [f"oscillating {result.oscillating:.2%} of the kernels' weights"]
    return [
        f"parameters  {result.params:,}",
        f"MAdds       {result.madds:,}",
        f"validation  {last.validation_accuracy:.2%} after epoch {last.epoch}",
        f"test        {result.test_accuracy:.2%} of {result.test_count} images right",
        *of_qat,
        f"speed       {result.images_per_second:,.0f} images/s, {result.seconds:.0f} s in all",
        f"kept in     {directory}",
    ]
