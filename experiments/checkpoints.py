"""Trained models and the images that they are looked at with, as command lines name them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from experiments.arguments import LocalPath
from experiments.planning import require_runnable
from mnet_jax import config, serialization
from mnet_jax.ablation import wording
from mnet_jax.architectures import NetworkSpec
from mnet_jax.config import SPLIT_BY_POSITION, DataConfig, RunConfig
from mnet_jax.files import read_file
from mnet_jax.validation import one_line, require

if TYPE_CHECKING:  # they import JAX, and bad arguments are refused without it
    import numpy as np

    from mnet_jax.models import SavedModel, View

FEWEST_IMAGES = 2
MOST_NAMES = 6  # as there are colours that everyone can tell apart
WITHOUT_VIEW = (
    "pixels, 1 or more, such as --resolution 224, for this model was saved without a view; "
    "models.save(..., view=models.View(resolution=224, photographs=True)) keeps one"
)
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """Which trained models a command looks at, and with which images."""

    checkpoint: tuple[Path, ...] = ()
    """runs' directories or saved models, to be seen side by side"""
    label: tuple[str, ...] = ()
    """what to call each of them, if not by the end of its path; those of one name, such as the
    seeds of an arm, are one row and one line: their mean, with an interval"""
    dataset: str | None = None
    """the data set whose test images are used, if not the one that the model was trained on"""
    data_dir: LocalPath | None = None
    """where the data set's files are, if not in the usual place"""
    resolution: int | None = None
    """side of the images in pixels, if not what each model was trained on"""
    images: int = 512
    """how many of its test images, the first ones"""
    batch_size: int = 64
    """images at a time"""


def require_checkpoint(path: Path | None) -> Path:
    """The path; ValueError if none is given or nothing is there."""
    require(path is not None, "checkpoint", None, "a run's directory or a saved model")
    assert path is not None
    require(path.exists(), "checkpoint", str(path), "a path that exists")
    return path


def require_resolution(side: int | None) -> None:
    """Refuses what is no side of an image; None is a model's own."""
    require(side is None or side >= 1, "resolution", side, "1 pixel or more")


def require_legal(arguments: ModelArguments) -> None:
    """Refuses what can be refused without JAX: ValueError if a path or a number cannot be."""
    given, labels = arguments.checkpoint, arguments.label
    require(bool(given), "checkpoint", "", "one run's directory or saved model, or more")
    for path in given:
        require_checkpoint(path)
    fits = len(labels) in (0, len(given))
    require(fits, "label", " ".join(labels), f"{len(given)}, one a model, or none")
    names = len({*labels}) if labels else len(given)
    legal = f"{MOST_NAMES} or fewer; --label takes those of one name together"
    require(names <= MOST_NAMES, "checkpoint", f"{names} to tell apart", legal)
    folder = arguments.data_dir
    require(folder is None or Path(folder).is_dir(), "data_dir", folder, "a folder that exists")
    require_resolution(arguments.resolution)
    for name in ("images", "batch_size"):
        value = getattr(arguments, name)
        require(value >= FEWEST_IMAGES, name, value, f"{FEWEST_IMAGES} or more")


def load(path: Path) -> "SavedModel":
    """The model; ValueError if it cannot be had."""
    from mnet_jax import models

    try:
        return models.load(path)
    except models.SavedModelError as error:
        raise ValueError(f"checkpoint: {error}") from error


def view_of(saved: "SavedModel", resolution: int | None) -> "View":
    """How the model is to see images; ValueError if nothing says at which resolution.

    Args:
      saved: the model.
      resolution: side of the images in pixels, if not what it was trained on.
    """
    from mnet_jax import models

    side = resolution or (saved.view and saved.view.resolution)
    require(side is not None, "resolution", None, WITHOUT_VIEW)
    view = models.View(
        resolution=side or 1,
        photographs=saved.view is None or saved.view.photographs,
        scaling=saved.view.scaling if saved.view else "symmetric",
    )
    require_runnable(saved.model.spec, view.resolution)
    return view


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A trained model and the images to look at it with.

    Attributes:
      name: what it is called in tables and pictures.
      saved: the model.
      images: the data set, as the model sees it.
      count: of its test images, the first ones.
    """

    name: str
    saved: "SavedModel"
    images: DataConfig
    count: int

    def batches(self) -> "Iterator[np.ndarray]":
        """The images, float32 [b, r, r, 3] with b 2 or more; ValueError if they cannot be had."""
        from mnet_jax import data, inference

        try:
            dataset = data.load(self.images)
        except data.DataError as error:
            raise ValueError(f"dataset: {str(error).removeprefix('data set: ')}") from error
        left = min(self.count, len(dataset.test))
        size = max(min(self.images.batch_size, left), 1)
        inference.require_memory(self.saved.model.spec, self.images.resolution, size)
        images = dataclasses.replace(self.images, batch_size=size)
        for batch in data.eval_batches(dataset.test, images):
            if left < FEWEST_IMAGES:
                return
            yield batch["image"][:left]
            left -= len(batch["image"])


def opened(arguments: ModelArguments) -> "Iterator[Opened]":
    """Each model that the command line names; ValueError if one cannot be had."""
    given = arguments.checkpoint
    ends = [path.absolute().name for path in given]
    plain = ends if len({*ends}) == len(ends) else [str(path) for path in given]
    for path, name in zip(given, arguments.label or plain, strict=True):
        saved = load(path)
        images = _test_images(path, view_of(saved, arguments.resolution), arguments)
        yield Opened(name=one_line(name), saved=saved, images=images, count=arguments.images)


def surveyed(
    arguments: ModelArguments, survey: Callable[[Opened], Found]
) -> dict[str, list[Found]]:
    """What `survey` finds in each of the models, those of one name together.

    Raises:
      ValueError: a model or its images cannot be had, or models of one name differ in more than
        their weights.
    """
    found: dict[str, list[Found]] = {}
    specs: dict[str, NetworkSpec] = {}
    for each in opened(arguments):
        spec = each.saved.model.spec
        alike = specs.setdefault(each.name, spec) == spec
        require(alike, "label", f"{each.name} for different networks", "one network's weights")
        with exhaustion_refused("batch_size"):
            found.setdefault(each.name, []).append(survey(each))
    return found


@contextlib.contextmanager
def exhaustion_refused(name: str) -> Iterator[None]:
    """Turns memory that runs out into a ValueError about the argument `name`, which asked for it.

    It is for what `inference.require_memory`, which counts the least, has let through.
    """
    from mnet_jax.training.memory import OutOfMemoryError, exhaustion_explained

    try:
        with exhaustion_explained("the network"):
            yield
    except OutOfMemoryError as error:
        raise ValueError(f"{name}: got too large a one, legal: smaller ones; {error}") from error


def title_of(name: str, models: int) -> str:
    """A table's, where it says how many models it is about."""
    return name if models == 1 else f"{name}, means over {models} models, {wording.HALVES}"


def _test_images(path: Path, view: "View", arguments: ModelArguments) -> DataConfig:
    """The test images as the model at `path` sees them; ValueError if nothing says which."""
    trained_on = _trained_on(path)
    own = trained_on is not None and arguments.dataset in (None, trained_on.name)
    name = arguments.dataset or (trained_on.name if trained_on else None)
    require(name is not None, "dataset", None, "a data set: the model does not know its own")
    kept = trained_on.directory if own and trained_on else None
    return DataConfig(
        name=name or "",
        directory=arguments.data_dir or kept,
        resolution=view.resolution,
        scaling=view.scaling,
        batch_size=arguments.batch_size,
        max_image_pixels=(trained_on if own and trained_on else DataConfig).max_image_pixels,
        listing=listing_for(path, name or ""),
    )


def listing_for(path: Path, dataset: str) -> str:
    """The listing by which a data set's test images are those of the run at `path`.

    Images that come or go leave the others of a folder in their splits. Runs from before that was
    so keep the splits that they had, lest their training images were tested on.
    """
    trained_on = _trained_on(path)
    both = trained_on is not None and trained_on.name == dataset == "folder"
    return SPLIT_BY_POSITION if both and trained_on and not trained_on.listing else ""


def _trained_on(path: Path) -> DataConfig | None:
    """The data of the run whose directory that is, if it says so."""
    try:
        text = read_file(path / config.FILE_NAME).decode()
        return serialization.from_json(RunConfig, text).data
    except (OSError, ValueError):
        return None
