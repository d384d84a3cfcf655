"""Opens the trained models and the test images that a command line names."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from mnet_jax import config, host_memory, serialization
from mnet_jax.architectures import NetworkSpec
from mnet_jax.commands.arguments import LocalPath, ModelPath
from mnet_jax.commands.planning import require_runnable
from mnet_jax.config import SPLIT_BY_POSITION, DataConfig, RunConfig
from mnet_jax.files import read_file
from mnet_jax.statistics import formatting
from mnet_jax.validation import one_line, require
from mnet_jax.weights import hub

if TYPE_CHECKING:  # they import JAX, and arguments are checked without it
    import numpy as np

    from mnet_jax.data import Dataset
    from mnet_jax.models import SavedModel, View

FEWEST_IMAGES = 2
MOST_NAMES = 6  # the number of colours that everyone can distinguish
WITHOUT_VIEW = (
    "pixels, 1 or more, such as --resolution 224, for this model was saved without a view; "
    "models.save(..., view=models.View(resolution=224, photographs=True)) keeps one"
)
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """The trained models to analyse, and the images to analyse them with."""

    checkpoint: tuple[ModelPath, ...] = ()
    """directories of runs, saved models, or hf://owner/name; at least one; several are compared"""
    label: tuple[str, ...] = ()
    """a name for each model, by default the end of its path; models with one name are averaged"""
    dataset: str | None = None
    """the data set whose test images are used; if not given, that of the model's training"""
    data_dir: LocalPath | None = None
    """directory of the data set's files, if not the default one; required for folder"""
    resolution: int | None = None
    """side of the images in pixels; if not given, that of each model's training"""
    images: int = 512
    """number of test images; the first ones are used"""
    batch_size: int = 64
    """images per batch"""


class ImageArguments(Protocol):
    """The arguments of a command that say which test images it uses."""

    @property
    def dataset(self) -> str | None:
        """The data set; None for that of the model's training."""

    @property
    def data_dir(self) -> LocalPath | None:
        """The directory of its files."""

    @property
    def resolution(self) -> int | None:
        """Side of the images in pixels; None for that of the model's training."""

    @property
    def images(self) -> int:
        """The number of test images."""

    @property
    def batch_size(self) -> int:
        """Images per batch."""


def require_checkpoint(path: ModelPath | None) -> ModelPath:
    """Returns the path; raises ValueError if it is None, or is local and does not exist."""
    legal = f"a run's directory, a saved model, or {hub.LEGAL}"
    require(path is not None, "checkpoint", None, legal)
    assert path is not None
    there = hub.is_reference(path) or Path(path).exists()
    require(there, "checkpoint", path, "a path that exists")
    return path


def require_resolution(side: int | None) -> None:
    """Raises ValueError if a resolution is below 1; None, for the model's resolution, is legal."""
    require(side is None or side >= 1, "resolution", side, "1 pixel or more")


def require_legal(arguments: ModelArguments) -> None:
    """Raises ValueError for illegal arguments; does only the checks that do not need JAX."""
    given, labels = arguments.checkpoint, arguments.label
    require(bool(given), "checkpoint", "", "one run's directory or saved model, or more")
    for path in given:
        require_checkpoint(path)
    fits = len(labels) in (0, len(given))
    require(fits, "label", " ".join(labels), f"{len(given)}, one a model, or none")
    names = len({*labels}) if labels else len(given)
    legal = f"{MOST_NAMES} or fewer; --label takes those of one name together"
    require(names <= MOST_NAMES, "checkpoint", f"{names} to tell apart", legal)
    require_legal_images(arguments)


def require_legal_images(arguments: ImageArguments) -> None:
    """Raises ValueError for illegal arguments about images."""
    folder = arguments.data_dir
    require(folder is None or Path(folder).is_dir(), "data_dir", folder, "a folder that exists")
    require_resolution(arguments.resolution)
    for name in ("images", "batch_size"):
        value = getattr(arguments, name)
        require(value >= FEWEST_IMAGES, name, value, f"{FEWEST_IMAGES} or more")


def load(path: ModelPath) -> "SavedModel":
    """Loads a model; raises ValueError if it cannot be read."""
    from mnet_jax import models

    try:
        return models.load(path)
    except models.SavedModelError as error:
        raise ValueError(f"checkpoint: {error}") from error


def view_of(saved: "SavedModel", resolution: int | None) -> "View":
    """Returns the preprocessing of images for a model.

    Args:
      saved: the model.
      resolution: side of the images in pixels; None for the model's training resolution.

    Raises:
      ValueError: neither `resolution` nor the model gives a resolution, or the network cannot run
        at this resolution.
    """
    from mnet_jax import models

    require(bool(resolution or saved.view), "resolution", None, WITHOUT_VIEW)
    view = saved.view or models.View(resolution=resolution or 1, photographs=True)
    if resolution:
        view = dataclasses.replace(view, resolution=resolution)
    require_runnable(saved.model.spec, view.resolution)
    return view


@dataclass(frozen=True, kw_only=True)
class ModelWithImages:
    """A trained model and the images to analyse it with.

    Attributes:
      name: the model's name in tables and pictures.
      saved: the model.
      images: the config of the data set, with the model's preprocessing.
      count: the number of test images to use, from the first on.
    """

    name: str
    saved: "SavedModel"
    images: DataConfig
    count: int

    def batches(self) -> "Iterator[np.ndarray]":
        """Yields batches of images, float32 `[b, r, r, 3]` with b >= 2.

        Raises:
          ValueError: the data set cannot be loaded.
        """
        for images, _ in self.test_batches(self.dataset()):
            yield images

    def dataset(self) -> "Dataset":
        """Loads the data set; raises ValueError if it cannot be loaded."""
        from mnet_jax import data

        try:
            return data.load(self.images)
        except data.DataError as error:
            raise ValueError(f"dataset: {str(error).removeprefix('data set: ')}") from error

    def test_batches(self, dataset: "Dataset") -> "Iterator[tuple[np.ndarray, np.ndarray]]":
        """Yields batches of test images, float32 `[b, r, r, 3]` with b >= 2, and of labels [b]."""
        from mnet_jax import data
        from mnet_jax.runs import inference

        left = min(self.count, len(dataset.test))
        size = max(min(self.images.batch_size, left), 1)
        inference.require_memory(self.saved.model.spec, self.images.resolution, size)
        images = dataclasses.replace(self.images, batch_size=size)
        for batch in data.eval_batches(dataset.test, images):
            if left < FEWEST_IMAGES:
                return
            yield batch["image"][:left], batch["label"][:left]
            left -= len(batch["image"])

    def calibration_batches(self, dataset: "Dataset", count: int) -> "list[np.ndarray]":
        """Returns batches of training images, at equal distances in the split, all of one size.

        Args:
          dataset: what `dataset` returned.
          count: the number of images; as many as there are, if there are fewer.
        """
        from mnet_jax import data
        from mnet_jax.runs.quantizing import evenly_spaced

        count = min(count, len(dataset.train))
        batches = math.ceil(count / self.images.batch_size)
        size = count // batches  # fewer than `batches` images are left out, so that all are alike
        chosen = evenly_spaced(dataset.train, size * batches)
        images = dataclasses.replace(self.images, batch_size=size)
        return [batch["image"] for batch in data.eval_batches(chosen, images)]

    def has_classes_of(self, dataset: "Dataset") -> bool:
        """Returns whether the model has the data set's classes, so that accuracy has a meaning."""
        from mnet_jax.runs import inference

        try:
            inference.require_same_classes(self.saved, dataset.class_names, dataset.name)
        except ValueError:
            return False
        return True


class CalibratedArguments(ImageArguments, Protocol):
    """The arguments of a command that also chooses ranges from training images."""

    @property
    def calibration_images(self) -> int:
        """The number of training images."""


def require_memory(arguments: CalibratedArguments, resolution: int) -> None:
    """Raises ValueError unless all images fit into memory at a time."""
    counts = {
        "images": arguments.images,
        "calibration_images": arguments.calibration_images,
    }
    name = max(counts, key=lambda name: counts[name])
    most = max(host_memory.available_bytes() // (4 * 3 * resolution**2), 0)
    legal = f"{most:,} or fewer with the others, which fit into memory at {resolution} pixels"
    require(sum(counts.values()) <= most, name, counts[name], legal)


def name_of(path: ModelPath) -> str:
    """Returns the end of a model's path, or the name of its repository on the hub."""
    if hub.is_reference(path):
        return hub.Reference.parse(path).name
    return Path(path).absolute().name


def open_model(path: ModelPath, name: str, arguments: ImageArguments) -> ModelWithImages:
    """Loads the model at a path, with its test images; raises ValueError if it cannot be read."""
    saved = load(path)
    images = _test_images(path, view_of(saved, arguments.resolution), arguments)
    return ModelWithImages(name=one_line(name), saved=saved, images=images, count=arguments.images)


def open_models(arguments: ModelArguments) -> "Iterator[ModelWithImages]":
    """Yields each model that the command line names; raises ValueError if one cannot be read."""
    given = arguments.checkpoint
    ends = [name_of(path) for path in given]
    plain = ends if len({*ends}) == len(ends) else given
    for path, name in zip(given, arguments.label or plain, strict=True):
        yield open_model(path, name, arguments)


def measure_models(
    arguments: ModelArguments, measure: Callable[[ModelWithImages], Found]
) -> dict[str, list[Found]]:
    """Applies `measure` to each model; returns the list of results for each model name.

    Raises:
      ValueError: a model or its images cannot be read, or models of the same name are different
        networks.
    """
    found: dict[str, list[Found]] = {}
    specs: dict[str, NetworkSpec] = {}
    for each in open_models(arguments):
        spec = each.saved.model.spec
        alike = specs.setdefault(each.name, spec) == spec
        require(alike, "label", f"{each.name} for different networks", "one network's weights")
        with refuse_exhaustion("batch_size"):
            found.setdefault(each.name, []).append(measure(each))
    return found


@contextlib.contextmanager
def refuse_exhaustion(name: str) -> Iterator[None]:
    """Turns an out-of-memory error into a ValueError about the argument `name`.

    `inference.require_memory` checks only a lower bound of the memory, so memory can still run out.
    """
    from mnet_jax.training.memory import OutOfMemoryError, explain_exhaustion

    try:
        with explain_exhaustion("the network"):
            yield
    except OutOfMemoryError as error:
        raise ValueError(f"{name}: got too large a one, legal: smaller ones; {error}") from error


def title_of(name: str, models: int) -> str:
    """Returns the title of a table about `models` models of the same name."""
    return name if models == 1 else f"{name}, means over {models} models, {formatting.HALVES}"


def _test_images(path: ModelPath, view: "View", arguments: ImageArguments) -> DataConfig:
    """Returns the config of the test images for the model at `path`.

    Raises:
      ValueError: neither the arguments nor the model name a data set.
    """
    trained_on = training_data(path)
    own = trained_on is not None and arguments.dataset in (None, trained_on.name)
    name = arguments.dataset or (trained_on.name if trained_on else None)
    require(name is not None, "dataset", None, "a data set: the model does not know its own")
    kept = trained_on.directory if own and trained_on else None
    return DataConfig(
        name=name or "",
        directory=arguments.data_dir or kept,
        batch_size=arguments.batch_size,
        max_image_pixels=(trained_on if own and trained_on else DataConfig).max_image_pixels,
        listing=listing_for(path, name or ""),
    ).with_view(view)


def listing_for(path: ModelPath, dataset: str) -> str:
    """Returns the `DataConfig.listing` that reproduces the split of the run at `path`.

    In the current version of this library, the split of a folder's image does not depend on the
    other images. Earlier versions split a folder by the positions of images in the list of its
    files. For a run of an earlier version, the returned value selects the earlier split, so that no
    training image of the run is used for testing.
    """
    trained_on = training_data(path)
    both = trained_on is not None and trained_on.name == dataset == "folder"
    return SPLIT_BY_POSITION if both and trained_on and not trained_on.listing else ""


def training_data(path: ModelPath) -> DataConfig | None:
    """Returns the data config of the run in a directory, or None if the directory has no run."""
    run = training_config(path)
    return run.data if run else None


def training_config(path: ModelPath) -> RunConfig | None:
    """Returns the config of the run in a directory, or None if the directory has no run."""
    if hub.is_reference(path):
        return None
    try:
        text = read_file(Path(path) / config.FILE_NAME).decode()
        return serialization.from_json(RunConfig, text)
    except (OSError, ValueError):
        return None
