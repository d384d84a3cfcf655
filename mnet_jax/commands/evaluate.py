"""Classifies images with a trained model, or measures its accuracy on a data set.

python -m experiments.evaluate --checkpoint runs/latest --image photo.jpg
python -m experiments.evaluate --checkpoint runs/latest --dataset digits --results results/evaluate
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mnet_jax.commands import terminal, trained_models
from mnet_jax.commands.arguments import LocalPath, ModelPath, parse, refusals
from mnet_jax.commands.planning import MAX_BATCH_SIZE, require_directory
from mnet_jax.config import MAX_IMAGE_PIXELS, DataConfig
from mnet_jax.files import replace_file
from mnet_jax.statistics.classification import (
    Confusion,
    Predictions,
    most_confused,
    to_csv,
)
from mnet_jax.statistics.intervals import CONFIDENCE, share_interval
from mnet_jax.validation import one_line, require

if TYPE_CHECKING:
    from mnet_jax.models import SavedModel, View

COMMAND = "evaluate"
CONFUSION = "confusion.csv"  # the file in --results
TOP = 5  # classes of the second accuracy, where the model has more
MOST_CONFUSED = 10  # pairs of classes to print
NAME_WIDTH = 26  # characters of a class name, so that the table fits 80 columns


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Classifies images with a trained model, or measures its accuracy on a test split.

    Needs --checkpoint, and --image or --dataset or both.
    """

    checkpoint: ModelPath | None = None
    """a run's directory, a saved model, or hf://owner/name on the Hugging Face hub"""
    image: tuple[Path, ...] = ()
    """image files to classify"""
    dataset: str | None = None
    """measure the accuracy on this data set: digits, fashion_mnist, folder, or any TFDS name"""
    data_dir: LocalPath | None = None
    """directory of the data set's files, if not the default one; required for folder"""
    resolution: int | None = None
    """side of the images in pixels; if not given, that of the model's training"""
    batch_size: int = 64
    """images per batch, for a data set"""
    top: int = 5
    """number of most probable classes to print for each image"""
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """largest number of pixels of an image file"""
    results: Path | None = None
    """directory for the confusion matrix of --dataset, confusion.csv; if not given, no file"""


def main() -> None:
    """Reads the command line, evaluates and prints."""
    arguments = parse(Arguments, COMMAND)
    console = terminal.console(110)
    with refusals(COMMAND, arguments):
        path = trained_models.require_checkpoint(arguments.checkpoint)
        _require_legal(arguments)
        saved = trained_models.load(path)
        view = trained_models.view_of(saved, arguments.resolution)
        for image in arguments.image:
            guesses = _guesses(saved, view, image, arguments)
            console.print(one_line(image), soft_wrap=True)
            console.print(guesses)
        if arguments.dataset is not None:
            _report(_predictions(saved, view, path, arguments), saved, arguments, console)


def _require_legal(arguments: Arguments) -> None:
    """Raises ValueError for illegal arguments; does only the checks that need no loading."""
    given = bool(arguments.image) or arguments.dataset is not None
    require(given, "image", "", "one image file or more, or --dataset")
    require(arguments.top >= 1, "top", arguments.top, "1 or more")
    DataConfig(max_image_pixels=arguments.max_image_pixels)  # checks the value
    for image in arguments.image:
        require(image.is_file(), "image", str(image), "a file that exists")
    folder = arguments.data_dir
    require(folder is None or Path(folder).is_dir(), "data_dir", folder, "a folder that exists")
    if arguments.results is not None:
        measured = arguments.dataset is not None
        require(measured, "results", str(arguments.results), "only with --dataset")
        require_directory("results", arguments.results)
    size = arguments.batch_size
    require(1 <= size <= MAX_BATCH_SIZE, "batch_size", size, f"1 to {MAX_BATCH_SIZE:,}")
    trained_models.require_resolution(arguments.resolution)


def _guesses(saved: "SavedModel", view: "View", image: Path, arguments: Arguments) -> Table:
    from mnet_jax.runs import inference

    inference.require_memory(saved.model.spec, view.resolution, 1)
    with trained_models.refuse_exhaustion("resolution"):
        try:
            guesses = inference.classify(
                saved, image, view=view, top=arguments.top, max_pixels=arguments.max_image_pixels
            )
        except ValueError as error:
            raise ValueError(f"image: {error}") from error
    table = Table(box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    table.add_column("class")
    for guess in guesses:
        table.add_row(f"{guess.probability:.2%}", one_line(guess.class_name))
    return table


def _predictions(
    saved: "SavedModel", view: "View", path: ModelPath, arguments: Arguments
) -> Predictions:
    from mnet_jax import data
    from mnet_jax.runs import inference

    config = DataConfig(
        name=arguments.dataset or "",
        directory=arguments.data_dir,
        batch_size=arguments.batch_size,
        max_image_pixels=arguments.max_image_pixels,
        listing=trained_models.listing_for(path, arguments.dataset or ""),
    ).with_view(view)
    try:
        with trained_models.refuse_exhaustion("batch_size"):
            return inference.predict_test(saved, config)
    except data.DataError as error:
        raise ValueError(f"dataset: {str(error).removeprefix('data set: ')}") from error


def _report(
    found: Predictions, saved: "SavedModel", arguments: Arguments, console: Console
) -> None:
    """Prints the accuracies and the most confused pairs of classes; writes the whole matrix."""
    share = share_interval(found.hits(), found.count)
    console.print(
        f"test  {share.mean:.2%} of {found.count} images right, {CONFIDENCE:.0%} interval "
        f"{share.low:.2%} to {share.high:.2%} (Wilson), loss {found.loss:.4f}"
    )
    if found.num_classes > TOP:
        share = share_interval(found.hits(TOP), found.count)
        console.print(
            f"top-{TOP} {share.mean:.2%}, {CONFIDENCE:.0%} interval "
            f"{share.low:.2%} to {share.high:.2%}"
        )
    matrix = found.confusion_matrix()
    names = saved.class_names or tuple(map(str, range(found.num_classes)))
    if confusions := most_confused(matrix, MOST_CONFUSED):
        console.print()
        console.print(_confusions(confusions, names))
    if arguments.results is not None:
        file = arguments.results / CONFUSION
        replace_file(file, to_csv(matrix, names).encode())
        console.print(f"all pairs in {one_line(file)}", soft_wrap=True)


def _confusions(confusions: Sequence[Confusion], names: Sequence[str]) -> Table:
    """Makes a table of the most frequent errors that fits 80 columns."""
    table = Table(title="most confused", title_justify="left", box=None, pad_edge=False)
    for column in ("true class", "taken for"):
        table.add_column(column, no_wrap=True, overflow="ellipsis", max_width=NAME_WIDTH)
    for column in ("images", "of the class"):
        table.add_column(column, justify="right")
    for error in confusions:
        pair = (one_line(names[i]) for i in (error.label, error.predicted))
        table.add_row(*pair, f"{error.count:,}", f"{error.share:.1%}")
    return table
