"""What a training command says before it trains: what it is going to do, and with what."""

from pathlib import Path
from typing import TYPE_CHECKING

from mnet_jax.ablation import axes
from mnet_jax.analysis import cost
from mnet_jax.config import RunConfig
from mnet_jax.training.manifest import CHECKPOINTS
from mnet_jax.validation import one_line

if TYPE_CHECKING:
    from mnet_jax.data import Dataset


def reading(dataset: str) -> str:
    """The first line of all, before the data set is read: that may take a while."""
    return f"reading {one_line(dataset)} ..."


def lines(config: RunConfig, recipe: str, dataset: "Dataset", directory: Path) -> list[str]:
    """What a run is going to do, in a line for each part of it.

    Args:
      config: of the run.
      recipe: the name of what it started from, before flags.
      dataset: its images.
      directory: where the run goes.
    """
    data, training, expense = config.data, config.training, _cost(config)
    folder = f" {one_line(data.directory)}" if data.directory else ""
    steps = data.steps_per_epoch(len(dataset.train))
    optimizer, schedule = (
        axis.read(config) for axis in axes.AXES if axis.name in ("optimizer", "schedule")
    )
    start = f", from the weights in {one_line(config.pretrained.path)}" if config.pretrained else ""
    frozen = f", {training.frozen} of {2 + len(config.spec.blocks)} parts frozen"
    return [
        f"data        {one_line(data.name)}{folder}: {len(dataset.train):,} images to train, "
        f"{len(dataset.validation):,} to validate, {len(dataset.test):,} to test, "
        f"{dataset.num_classes:,} classes, {data.resolution} pixels",
        f"network     {config.spec.name}, width {config.spec.width:g}, {expense.params:,} "
        f"parameters, {expense.madds:,} MAdds{start}{frozen if training.frozen else ''}",
        f"recipe      {recipe}: {_counted(training.epochs, 'epoch')} of {_counted(steps, 'step')}, "
        f"{training.epochs * steps:,} steps of {data.batch_size:,} images in all, rate "
        f"{training.learning_rate:g} ({optimizer}, {schedule})",
        f"kept in     {directory}, {_beginning(directory, steps)}",
    ]


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _cost(config: RunConfig) -> cost.Cost:
    return cost.count(config.spec, config.data.resolution)


def _beginning(directory: Path, steps_per_epoch: int) -> str:
    """Whether the run is a new one, or where it goes on."""
    step = _last_step(directory)
    if step is None:
        return "a new run"
    return f"goes on from step {step:,}, in epoch {step // steps_per_epoch + 1:,}"


def _last_step(directory: Path) -> int | None:
    """The step of the last checkpoint in a run's directory, by its name; None without one."""
    try:
        names = [path.name for path in (directory / CHECKPOINTS).iterdir()]
    except OSError:
        return None
    return max((int(name) for name in names if name.isdecimal()), default=None)
