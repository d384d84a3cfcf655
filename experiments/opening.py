"""The lines that a training command prints before it trains: data, network, recipe, directory."""

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
    """Returns the first line, printed before the data set is read, as that may take a while."""
    return f"reading {one_line(dataset)} ..."


def lines(config: RunConfig, recipe: str, dataset: "Dataset", directory: Path) -> list[str]:
    """Describes a run that is about to start: data, network, recipe and directory, a line each.

    Args:
      config: the config of the run.
      recipe: the name of the recipe that the config was made from.
      dataset: the data set.
      directory: the directory of the run.
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
    """Says whether the run is new, or at which step it continues."""
    step = _last_step(directory)
    if step is None:
        return "a new run"
    return f"goes on from step {step:,}, in epoch {step // steps_per_epoch + 1:,}"


def _last_step(directory: Path) -> int | None:
    """Returns the step of the last checkpoint in a run's directory, from its name, or None."""
    try:
        names = [path.name for path in (directory / CHECKPOINTS).iterdir()]
    except OSError:
        return None
    return max((int(name) for name in names if name.isdecimal()), default=None)
