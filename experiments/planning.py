"""From the arguments that commands share to the config of a run."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from experiments import scales
from mnet_jax.ablation import axes
from mnet_jax.analysis import cost
from mnet_jax.architectures import NetworkSpec
from mnet_jax.config import Pretrained, RunConfig
from mnet_jax.validation import require

DATASET = "digits"
# No MobileNet comes near these; a slip of the keyboard does, and would take the machine down.
MAX_PARAMS = 2**31
MAX_IMAGE_GIB = 64
MAX_EPOCHS = 1_000_000
MAX_BATCH_SIZE = 2**20
MAX_SEED = 2**32 - 1  # NumPy's and JAX's generators take 32 bits without a thought


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What every command that trains takes."""

    dataset: str | None = None
    """digits (the default), fashion_mnist, folder, or any TFDS name"""
    directory: str | None = None
    """where the data set's files are, if not in the usual place"""
    tune_allocator: bool = True
    """set glibc's allocator for speed: memory comes in huge pages and is kept (Linux, CPU)"""
    pretrained: str | None = None
    """a run's directory or a saved model: its network, and the weights to start from"""

    @property
    def images(self) -> str:
        """The data set's name."""
        return self.dataset or DATASET

    @property
    def recipe_of(self) -> str:
        """The data set whose network and recipe training starts from."""
        return self.images


def baseline(arguments: RunArguments, num_classes: int) -> RunConfig:
    """Where training starts on the data set that the command line names.

    Raises:
      ValueError: a value is not legal.
    """
    config = scales.baseline(arguments.recipe_of, num_classes)
    data = dataclasses.replace(config.data, name=arguments.images, directory=arguments.directory)
    config = dataclasses.replace(config, data=data)
    return config if arguments.pretrained is None else _fine_tuned(config, arguments.pretrained)


def _fine_tuned(config: RunConfig, path: str) -> RunConfig:
    """The config with a saved model's network, for the config's classes, and its weights."""
    from mnet_jax import models  # here: only fine-tuning pays for JAX

    try:
        spec, sha256 = models.read_spec(path), models.digest(path)
    except models.SavedModelError as error:
        raise ValueError(f"pretrained: {error}") from error
    head = dataclasses.replace(spec.head, num_classes=config.spec.head.num_classes)
    return dataclasses.replace(
        config,
        spec=dataclasses.replace(spec, head=head),
        pretrained=Pretrained(path=path, sha256=sha256),
    )


def require_fit(config: RunConfig) -> None:
    """Raises ValueError if no machine could run the network, or no weights fit that it asks for."""
    if config.pretrained:
        from mnet_jax import pretrained

        pretrained.require_fit(config.pretrained, config.spec)
    epochs, batch_size = config.training.epochs, config.data.batch_size
    require(epochs <= MAX_EPOCHS, "epochs", epochs, f"{MAX_EPOCHS:,} or fewer")
    require(batch_size <= MAX_BATCH_SIZE, "batch_size", batch_size, f"{MAX_BATCH_SIZE:,} or fewer")
    expense = cost.count(config.spec, config.data.resolution)
    if expense.params > MAX_PARAMS:
        at = axes.labels(config)
        raise ValueError(
            f"width: got {at['width']} with expansion {at['expansion']} and "
            f"{config.spec.head.num_classes} classes, legal: {MAX_PARAMS:,} parameters or fewer"
        )
    require_runnable(config.spec, config.data.resolution)
    if config.data.start_resolution:
        require_runnable(config.spec, config.data.start_resolution)


def require_runnable(spec: NetworkSpec, resolution: int) -> None:
    """Raises ValueError if images of that side are too small for a network, or far too large."""
    require(
        cost.count(spec, resolution).activation_bytes <= MAX_IMAGE_GIB * 2**30,
        "resolution",
        resolution,
        f"feature maps of {MAX_IMAGE_GIB} GiB an image or less",
    )


def require_directory(name: str, path: Path) -> None:
    """Raises ValueError if `path`, given as the argument `name`, cannot be a directory."""
    try:
        there = next(p for p in (path, *path.absolute().parents) if p.exists())
        usable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except OSError:  # a name too long, a parent that is closed to us
        usable = False
    require(usable, name, str(path), "a directory that can be written, or a new one")


def count_classes(arguments: RunArguments) -> int:
    """The number of classes of the data set, which is prepared if need be.

    Raises:
      ValueError: it cannot be had.
    """
    folder = arguments.directory
    require(folder is None or Path(folder).is_dir(), "directory", folder, "a folder that exists")
    if arguments.images == "folder":
        require(folder is not None, "directory", None, "a folder with train/<class>/ of images")
    from mnet_jax import data  # here: it takes seconds, and bad values should be refused first

    try:
        return data.load(baseline(arguments, num_classes=2).data).num_classes
    except data.DataError as error:
        given = "dataset" if arguments.directory is None else f"directory {arguments.directory}"
        raise ValueError(f"{given}: {str(error).removeprefix('data set: ')}") from error
