"""From the arguments that commands share to the config of a run."""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments import recipes
from experiments.arguments import LocalPath
from experiments.recipes import NAMES, RECIPES, SIZED
from mnet_jax.ablation import axes
from mnet_jax.analysis import cost
from mnet_jax.architectures import NetworkSpec, lone_layer
from mnet_jax.config import DataConfig, Pretrained, RunConfig
from mnet_jax.validation import require

DATASET = "digits"
# No MobileNet comes near these; a slip of the keyboard does, and would take the machine down.
MAX_PARAMS = 2**31
MAX_IMAGE_GIB = 64
MAX_EPOCHS = 1_000_000
MAX_BATCH_SIZE = 2**20
MAX_SEED = 2**32 - 1  # NumPy's and JAX's generators take 32 bits without a thought


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What a config takes from its data set.

    Attributes:
      classes: of the images.
      train: images, without those that are held out.
      validation: images that are held out.
      test: images.
      listing: of the files, where they are a folder's; see `DataConfig`.
    """

    classes: int
    train: int
    validation: int
    test: int
    listing: str = ""


# Before the set is read: with this many images a sized recipe has its largest batch and its most
# epochs, so what is refused is refused for a set of any size.
PRESUMED = DatasetFacts(classes=2, train=160, validation=16, test=40)


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What every command that trains takes."""

    recipe: Literal[*NAMES] | None = None  # type: ignore[valid-type]
    """what a result was had by, such as v2-imagenet; if not given, the data set's usual one"""
    dataset: str | None = None
    """digits, fashion_mnist, folder, or any TFDS name; if not given, the recipe's, or digits"""
    data_dir: LocalPath | None = None
    """where the data set's files are, if not in the usual place"""
    tune_allocator: bool = True
    """set glibc's allocator for speed: memory comes in huge pages and is kept (Linux, CPU)"""
    pretrained: LocalPath | None = None
    """a run's directory or a saved model: its network, and the weights to start from"""

    @property
    def images(self) -> str:
        """The data set's name."""
        own = RECIPES[self.recipe](2).data.name if self.recipe in RECIPES else DATASET
        return self.dataset or own

    @property
    def named(self) -> str | None:
        """The recipe that was asked for, if one was."""
        return self.recipe


def recipe_name(arguments: RunArguments, facts: DatasetFacts) -> str:
    """The recipe that training starts from."""
    return arguments.named or recipes.recipe_for(
        arguments.images, facts.train, pretrained=arguments.pretrained is not None
    )


def baseline(arguments: RunArguments, facts: DatasetFacts) -> RunConfig:
    """Where training starts on the data set that the command line names.

    Args:
      arguments: which data set, and how.
      facts: what a look at the data set tells.

    Raises:
      ValueError: a value is not legal.
    """
    name, pretrained = recipe_name(arguments, facts), arguments.pretrained
    legal = pretrained is not None or name != "fine-tuning"
    require(legal, "recipe", name, "another one, or --pretrained with it")
    if name in RECIPES:
        config = RECIPES[name](facts.classes)
    else:
        config = recipes.baseline(arguments.images, facts.classes)
    data = dataclasses.replace(
        config.data, name=arguments.images, directory=arguments.data_dir, listing=facts.listing
    )
    if arguments.images.split(":")[0] != config.data.name:  # what is held out is for its own images
        data = dataclasses.replace(data, validation_fraction=DataConfig.validation_fraction)
    config = dataclasses.replace(config, data=data)
    if pretrained is not None:
        config = _started_from(config, pretrained, at_its_resolution=name in SIZED)
    return SIZED[name](config, facts.train) if name in SIZED else config


def _started_from(config: RunConfig, path: str, *, at_its_resolution: bool) -> RunConfig:
    """The config with a saved model's network, for its own classes, and its weights and pixels."""
    from mnet_jax import models  # here: only fine-tuning pays for JAX

    try:
        spec, view, sha256 = models.read_spec(path), models.read_view(path), models.digest(path)
    except models.SavedModelError as error:
        raise ValueError(f"pretrained: {error}") from error
    head = dataclasses.replace(spec.head, num_classes=config.spec.head.num_classes)
    data = config.data
    if view:
        side = view.resolution if at_its_resolution else data.resolution
        data = dataclasses.replace(data, scaling=view.scaling, resolution=side)
    return dataclasses.replace(
        config,
        spec=dataclasses.replace(spec, head=head),
        data=data,
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
    _require_normalizable(config)


def _require_normalizable(config: RunConfig) -> None:
    """Raises ValueError if a layer would be normalized by one value a channel."""
    data, training = config.data, config.training
    at_a_time = data.batch_size // training.accumulate // training.norm_groups
    smallest = data.start_resolution or data.resolution
    layer = lone_layer(config.spec, smallest, at_a_time, frozen=training.frozen)
    if layer:
        raise ValueError(
            f"batch_size: got {data.batch_size}, which is normalized {at_a_time} at a time, legal: "
            f"more at a time, or larger images, as {layer.name} has 1 value a channel to normalize"
        )


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
    legal = "a directory that can be written, or a new one"
    require(takes_files(path), name, str(path), legal)


def takes_files(directory: Path) -> bool:
    """Whether files can be written in a directory, or in a new one of that name.

    One is: rights say that anything can be written in /proc, and nothing of a mount or a quota.
    """
    try:
        there = next(p for p in (directory, *directory.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:  # a file in the way, a name too long, a parent that is closed to us
        return False


def look_at(images: DataConfig) -> DatasetFacts:
    """Looks at a data set, which is prepared if need be.

    Args:
      images: the data set; of several configs, the one that passes most images.

    Raises:
      ValueError: it cannot be had.
    """
    folder = images.directory
    require(folder is None or Path(folder).is_dir(), "data_dir", folder, "a folder that exists")
    if images.name == "folder":
        require(folder is not None, "data_dir", None, "a folder with train/<class>/ of images")
    from mnet_jax import data  # here: it takes seconds, and bad values should be refused first

    try:
        found = data.load(images)
    except data.DataError as error:
        given = "dataset" if folder is None else f"data_dir {folder}"
        raise ValueError(f"{given}: {str(error).removeprefix('data set: ')}") from error
    return DatasetFacts(
        classes=found.num_classes,
        train=len(found.train),
        validation=len(found.validation),
        test=len(found.test),
        listing=found.listing,
    )
