"""From the arguments that commands share to the config of a run."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from experiments import presets
from mnet_jax.analysis import cost
from mnet_jax.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What every command that trains takes."""

    dataset: str = "digits"
    """digits, fashion_mnist, folder, or any TFDS name"""
    directory: str | None = None
    """where the data set's files are, if not in the usual place"""
    epochs: int | None = None
    """passes over the training images, if not the data set's preset"""
    batch_size: int | None = None
    """images per step, if not the data set's preset"""


def baseline(arguments: RunArguments, num_classes: int) -> RunConfig:
    """The data set's preset with what the command line says about data and recipe.

    Raises:
      ValueError: a value is not legal.
    """
    config = presets.baseline(arguments.dataset, num_classes)
    changes: dict[str, Any] = {"name": arguments.dataset, "directory": arguments.directory}
    if arguments.batch_size is not None:
        changes["batch_size"] = arguments.batch_size
    training = config.training
    if arguments.epochs is not None:
        warmup = min(training.warmup_epochs, max(arguments.epochs, 0))
        training = dataclasses.replace(training, epochs=arguments.epochs, warmup_epochs=warmup)
    data = dataclasses.replace(config.data, **changes)
    return dataclasses.replace(config, data=data, training=training)


def require_fit(config: RunConfig) -> None:
    """Raises ValueError if the images are too small for the network."""
    cost.count(config.spec, config.data.resolution)


def count_classes(arguments: RunArguments) -> int:
    """The number of classes of the data set, which is prepared if need be.

    Raises:
      DataError: it cannot be had.
    """
    from mnet_jax import data  # here: it takes seconds, and bad values should be refused first

    return data.load(baseline(arguments, num_classes=2).data).num_classes
