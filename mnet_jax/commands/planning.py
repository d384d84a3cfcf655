"""The arguments that the training commands share, and the arm and data set that these select.

This module also makes the lines that a command prints before it trains.
"""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnet_jax.analysis import cost
from mnet_jax.architectures import NetworkSpec, unnormalizable_layer
from mnet_jax.commands.arguments import LocalPath, ModelPath
from mnet_jax.config import ARM_CLASSES, Arm, DataConfig, Distillation, Pretrained, RunConfig
from mnet_jax.options import axes, recipes
from mnet_jax.options.recipes import NAMES, RECIPES, SIZED
from mnet_jax.training.checkpoints.manifest import CHECKPOINTS
from mnet_jax.validation import one_line, require

if TYPE_CHECKING:
    from mnet_jax.data import Dataset

DATASET = "digits"
# The number of training images, assumed before the data set is read. With this number, a recipe of
# `SIZED` has its largest batch and its most epochs. An arm that fails a check with this number
# fails it with any other.
PRESUMED_IMAGES = 160


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """The arguments that all training commands share."""

    recipe: Literal[*NAMES] | None = None  # type: ignore[valid-type]
    """network, data set and training settings by name; if not given, the data set's default"""
    dataset: str | None = None
    """digits, fashion_mnist, folder, or any TFDS name; if not given, the recipe's, else digits"""
    data_dir: LocalPath | None = None
    """directory of the data set's files, if not the default one; required for folder"""
    tune_allocator: bool = True
    """tune glibc's allocator for speed: use huge pages and keep freed memory (Linux, CPU)"""
    pretrained: ModelPath | None = None
    """a run's directory, a saved model, or hf://owner/name on the Hugging Face hub, whose network
    and weights to start from"""
    teacher: ModelPath | None = None
    """a run's directory, a saved model, or hf://owner/name, whose predictions to learn from (arXiv
    1503.02531)"""

    @property
    def images(self) -> str:
        """The data set's name."""
        own = RECIPES[self.recipe].data.name if self.recipe in RECIPES else DATASET
        return self.dataset or own

    @property
    def named(self) -> str | None:
        """The name of the given recipe; None if none was given."""
        return self.recipe


def recipe_name(arguments: RunArguments, train_images: int = PRESUMED_IMAGES) -> str:
    """Returns the name of the given recipe, or of the default for `train_images` images."""
    return arguments.named or recipes.recipe_for(
        arguments.images, train_images, pretrained=arguments.pretrained is not None
    )


def baseline(arguments: RunArguments, train_images: int = PRESUMED_IMAGES) -> Arm:
    """Returns the arm of the selected recipe, before the flags of axes change it.

    Args:
      arguments: the arguments, which select the recipe, the data set and the pretrained model.
      train_images: the number of training images in the data set.

    Raises:
      ValueError: a value is not legal.
    """
    name, pretrained = recipe_name(arguments, train_images), arguments.pretrained
    legal = pretrained is not None or name != "fine-tuning"
    require(legal, "recipe", name, "another one, or --pretrained with it")
    if name in RECIPES:
        arm = RECIPES[name].arm
    else:
        arm = recipes.baseline(arguments.images)
    data = dataclasses.replace(arm.data, name=arguments.images, directory=arguments.data_dir)
    if arguments.images.split(":")[0] != arm.data.name:  # a recipe's split is for its data set
        data = dataclasses.replace(data, validation_fraction=DataConfig.validation_fraction)
    arm = dataclasses.replace(arm, data=data)
    if pretrained is not None:
        arm = _started_from(arm, pretrained, at_its_resolution=name in SIZED)
    if arguments.teacher is not None:
        arm = _taught_by(arm, arguments.teacher)
    return SIZED[name].fit(arm, train_images) if name in SIZED else arm


def _taught_by(arm: Arm, path: str) -> Arm:
    """Returns the arm with a saved model as its teacher."""
    from mnet_jax import models  # here: only distillation needs JAX, which is slow to import

    try:
        path = models.pinned(path)
        teacher = Distillation(path=path, sha256=models.digest(path))
    except models.SavedModelError as error:
        raise ValueError(f"teacher: {error}") from error
    return dataclasses.replace(arm, distillation=teacher)


def _started_from(arm: Arm, path: str, *, at_its_resolution: bool) -> Arm:
    """Returns the arm with the network, weights and preprocessing of a saved model.

    If `at_its_resolution` is false, the arm keeps its own resolution. A reference to the hub gets
    the commit that it stands for now, so that the trials of the arm can be run again.
    """
    from mnet_jax import models  # here: only fine-tuning needs JAX, which is slow to import

    try:
        path = models.pinned(path)
        spec, view, sha256 = models.read_spec(path), models.read_view(path), models.digest(path)
    except models.SavedModelError as error:
        raise ValueError(f"pretrained: {error}") from error
    data = arm.data
    if view:
        side = view.resolution if at_its_resolution else data.resolution
        data = dataclasses.replace(data.with_view(view), resolution=side)
    return dataclasses.replace(
        arm,
        spec=spec.with_classes(ARM_CLASSES),
        data=data,
        pretrained=Pretrained(path=path, sha256=sha256),
    )


# Limits far above any MobileNet, for typing errors that would exhaust the machine's memory.
_MAX_PARAMS = 2**31
_MAX_IMAGE_GIB = 64
_MAX_EPOCHS = 1_000_000
MAX_BATCH_SIZE = 2**20
MAX_SEED = 2**32 - 1  # the generators of NumPy and JAX accept any 32-bit number


def require_fit(config: Arm | RunConfig) -> None:
    """Raises ValueError if given weights do not fit, or no machine could run the config."""
    if config.pretrained:
        from mnet_jax.runs import pretrained

        pretrained.require_fit(config.pretrained, config.spec)
    if config.distillation:
        from mnet_jax.runs import distillation

        distillation.require_fit(config.distillation, config.data)
    epochs, batch_size = config.training.epochs, config.data.batch_size
    require(epochs <= _MAX_EPOCHS, "epochs", epochs, f"{_MAX_EPOCHS:,} or fewer")
    require(batch_size <= MAX_BATCH_SIZE, "batch_size", batch_size, f"{MAX_BATCH_SIZE:,} or fewer")
    expense = cost.count(config.spec, config.data.resolution)
    if expense.params > _MAX_PARAMS:
        at = axes.labels(config)
        raise ValueError(
            f"width: got {at['width']} with expansion {at['expansion']} and "
            f"{config.spec.head.num_classes} classes, legal: {_MAX_PARAMS:,} parameters or fewer"
        )
    require_runnable(config.spec, config.data.resolution)
    _require_normalizable(config)


def _require_normalizable(config: Arm | RunConfig) -> None:
    """Raises ValueError if a layer would compute batch statistics from one value per channel."""
    data, training = config.data, config.training
    at_a_time = data.batch_size // training.accumulate // training.norm_groups
    layer = unnormalizable_layer(config.spec, data.resolution, at_a_time, frozen=training.frozen)
    if layer:
        raise ValueError(
            f"batch_size: got {data.batch_size}, which is normalized {at_a_time} at a time, legal: "
            f"more at a time, or larger images: {layer.name} normalizes over 1 value per channel"
        )


def require_runnable(spec: NetworkSpec, resolution: int) -> None:
    """Raises ValueError if the resolution is too small for a network, or far too large."""
    require(
        cost.count(spec, resolution).activation_bytes <= _MAX_IMAGE_GIB * 2**30,
        "resolution",
        resolution,
        f"feature maps of {_MAX_IMAGE_GIB} GiB an image or less",
    )


def require_directory(name: str, path: Path) -> None:
    """Raises ValueError if `path`, the value of argument `name`, is not a writable directory.

    A directory that does not exist yet is accepted if it can be created.
    """
    legal = "a directory that can be written, or a new one"
    require(takes_files(path), name, str(path), legal)


def takes_files(directory: Path) -> bool:
    """Returns whether files can be written to a directory, which need not exist yet.

    Writes a temporary file. The permissions do not suffice for this check: they allow writing in
    /proc, and do not reflect read-only mounts or quotas.
    """
    try:
        there = next(p for p in (directory, *directory.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:  # a parent is a file or is not writable, or the name is too long
        return False


def load(images: DataConfig, run: Path | None = None) -> "Dataset":
    """Loads the data set of a command; prepares the data set first if necessary.

    Args:
      images: the config of the data set. If there are several arms, its limits on bad images and on
        pixels are the laxest of the arms' limits.
      run: the directory of the run, if there is one; see `mnet_jax.runs.run.load_data`.

    Raises:
      ValueError: the data set cannot be loaded.
    """
    folder = images.directory
    require(folder is None or Path(folder).is_dir(), "data_dir", folder, "a folder that exists")
    if images.name == "folder":
        require(folder is not None, "data_dir", None, "a folder with train/<class>/ of images")
    from mnet_jax import data  # here: the import takes seconds; values are checked first

    try:
        if run is None:
            return data.load(images)
        from mnet_jax.runs.run import load_data

        return load_data(images, run)
    except data.DataError as error:
        given = "dataset" if folder is None else f"data_dir {folder}"
        raise ValueError(f"{given}: {str(error).removeprefix('data set: ')}") from error


def reading_line(dataset: str) -> str:
    """Returns the line to print before the data set is read, which may take a while."""
    return f"reading {one_line(dataset)} ..."


def opening_lines(config: RunConfig, recipe: str, dataset: "Dataset", directory: Path) -> list[str]:
    """Returns the lines to print before a run: one each on data, network, recipe and directory.

    Args:
      config: the config of the run.
      recipe: the name of the recipe that the config was made from.
      dataset: the data set.
      directory: the directory of the run.
    """
    data, training = config.data, config.training
    expense = cost.count(config.spec, data.resolution)
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


def _beginning(directory: Path, steps_per_epoch: int) -> str:
    """Returns a text that says whether the run is new, or at which step it continues."""
    step = _last_step(directory)
    if step is None:
        return "a new run"
    return f"goes on from step {step:,}, in epoch {step // steps_per_epoch + 1:,}"


def _last_step(directory: Path) -> int | None:
    """Returns the step of the last checkpoint in a run's directory; None without checkpoints."""
    try:
        names = [path.name for path in (directory / CHECKPOINTS).iterdir()]
    except OSError:
        return None
    return max((int(name) for name in names if name.isdecimal()), default=None)
