"""Writes a trained network for other programs, and runs each file before it is kept.

python -m experiments.export --checkpoint runs/latest --format onnx onnx-int8 --output exported
python -m experiments.export --checkpoint v2.safetensors --format stablehlo litert
"""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.table import Table

from mnet_jax import serialization
from mnet_jax.commands import terminal, trained_models
from mnet_jax.commands.arguments import LocalPath, ModelPath, parse, refusals, refuse
from mnet_jax.commands.planning import require_directory
from mnet_jax.export.types import CARD_NAME, FORMATS, Format, require_packages
from mnet_jax.files import make_directory, read_file, replace_file
from mnet_jax.statistics import formatting
from mnet_jax.statistics.intervals import share_interval
from mnet_jax.validation import require

if TYPE_CHECKING:
    import numpy as np

    from mnet_jax.export import Comparison, Network
    from mnet_jax.export.timing import Latency
    from mnet_jax.models import SavedModel
    from mnet_jax.statistics.intervals import Interval

COMMAND = "export"
FAILED = 1  # exit code if a file has other logits than the network
NETWORK_KEYS = (
    "saved_model",
    "resolution",
    "input",
    "crop_share",
    "interpolation",
)  # of a card: its network
LEGEND = (
    "difference, agree: the largest difference of logits to the reference, and the share of images "
    "that get its class; the reference is the network in floating point or, for int8, the rounded "
    "network; float: the share that get the class in floating point; ms, time / JAX: a call with "
    "one image, median and range over rounds"
)
SEED = 0  # of the random images for a model without a data set


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Writes a trained network for other programs, and runs each file before it is kept.

    A file takes pixels and gives logits: it has the network, its weights and the scaling of images.
    It is compared with the network on the test images of the data set, or on a batch of random
    images if the model's data set is not known and none is given. A file that differs is not
    written, and an earlier file of its name is removed.
    """

    checkpoint: ModelPath | None = None
    """a run's directory, a saved model, or hf://owner/name on the Hugging Face hub"""
    format: tuple[Format, ...] = ("stablehlo",)
    """the formats to write; litert and litert-int8 need the extra litert, onnx and onnx-int8 the
    extra onnx"""
    output: Path = Path("exported")
    """directory for the files, and for model.json, which says what they are and how to run them"""
    input: Literal["pixels", "scaled"] = "pixels"
    """what the files take: uint8 pixels, which they scale, or float32 images that are scaled"""
    dataset: str | None = None
    """the data set whose images are used; if not given, that of the model's training"""
    data_dir: LocalPath | None = None
    """directory of the data set's files, if not the default one; required for folder"""
    resolution: int | None = None
    """side of the images in pixels; if not given, that of the model's training"""
    images: int = 256
    """number of test images; the first ones are used"""
    batch_size: int = 64
    """images per batch"""
    calibration_images: int = 256
    """number of training images for int8: to calibrate ranges and to correct biases"""
    rounds: int = 5
    """number of measurements of the time of one image"""
    licence: str | None = None
    """licence of the weights, for model.json, such as Apache-2.0"""


class Images(NamedTuple):
    """The images with which files are compared.

    Attributes:
      test: batches of test images [b, h, w, 3], as the files take them.
      labels: [n], of all test images; None without a data set of the model's classes.
      calibration: batches of training images; empty without a data set.
      name: of the data set.
    """

    test: "list[np.ndarray]"
    labels: "np.ndarray | None"
    calibration: "list[np.ndarray]"
    name: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of a file.

    Attributes:
      format: the file's format.
      path: where it is.
      content: the file.
      run: a program that runs it.
      comparison: with the network that was written: rounded, if the file is.
      float_agreement: share of the images that keep the class of the network in floating point;
        None if the network was trained in 8 bits.
      accuracy: with its interval; None without labels.
      latency: of one image, beside that of the network in JAX.
    """

    format: Format
    path: Path
    content: bytes
    run: str
    comparison: "Comparison"
    float_agreement: float | None
    accuracy: "Interval | None"
    latency: "Latency"


def main() -> None:
    """Reads the command line, writes the files, runs and measures them, and prints a table."""
    arguments = parse(Arguments, COMMAND)
    console = terminal.console(110)
    with refusals(COMMAND, arguments):
        path = trained_models.require_checkpoint(arguments.checkpoint)
        _require_legal(arguments)
        saved = trained_models.load(path)
        _require_bits(saved)
        view = trained_models.view_of(saved, arguments.resolution)
        from mnet_jax import export  # here: arguments are checked without JAX

        network = export.Network.of(saved, view, takes_pixels=arguments.input == "pixels")
        trained_models.require_memory(arguments, network.resolution)
        images = _images(path, network, arguments)
        _require_formats(network, images, arguments)
        make_directory(arguments.output)
        card = _Card(path, network, arguments)
        with trained_models.refuse_exhaustion("batch_size"):
            rows, problems = _written(network, images, card, arguments)
    if rows:
        console.print(_table(rows, images))
        console.print(LEGEND, soft_wrap=True)
    for row in rows:
        console.print(f"written: {row.path}", soft_wrap=True)
    if problems:
        refuse(COMMAND, f"not written: {'; '.join(problems)}", FAILED)


def _require_legal(arguments: Arguments) -> None:
    """Raises ValueError for illegal arguments; does only the checks that do not need JAX."""
    require(bool(arguments.format), "format", "", f"one or more of {', '.join(FORMATS)}")
    for each in arguments.format:
        once = arguments.format.count(each) == 1
        require(once, "format", " ".join(arguments.format), "each format once")
        require_packages(each)
    trained_models.require_legal_images(arguments)
    for name, least in (("calibration_images", trained_models.FEWEST_IMAGES), ("rounds", 1)):
        value = getattr(arguments, name)
        require(value >= least, name, value, f"{least} or more")
    require_directory("output", arguments.output)
    for name in [f"model{FORMATS[each].suffix}" for each in arguments.format] + [CARD_NAME]:
        path = arguments.output / name
        require(not path.is_dir(), "output", str(path), "a folder in which this is not a folder")


def _require_bits(saved: "SavedModel") -> None:
    """Raises ValueError if a network is quantized to other bits than the files have."""
    setting = saved.model.quantization
    if setting is not None:
        bits = setting.weight_bits, setting.activation_bits
        given = f"a network with kernels in {bits[0]} bits and activations in {bits[1]}"
        require(bits == (8, 8), "checkpoint", given, "one in floating point, or in 8 bits")


class _Card:
    """The file model.json, written anew after every file that it describes.

    So the card is right whenever the command is interrupted. Entries of an earlier export of the
    same network are kept as long as their files are as they were.
    """

    def __init__(self, path: ModelPath, network: "Network", arguments: Arguments) -> None:
        """Reads the card in the output folder.

        Raises:
          ValueError: it describes files of another network.
        """
        from mnet_jax import export, models

        self._path = arguments.output / CARD_NAME
        run = trained_models.training_config(path)
        card = export.model_card(
            network,
            files={},
            training=serialization.to_plain(run) if run else None,
            digest=models.digest(path),
            licence=arguments.licence,
        )
        self._content: dict[str, Any] = json.loads(json.dumps(card))
        earlier = self._earlier()
        files = earlier.get("files", {})
        same = all(earlier.get(key) == self._content[key] for key in NETWORK_KEYS)
        given = f"{arguments.output} with {CARD_NAME} of another network"
        require(same or not files, "output", given, "a folder without files of another network")
        self._files = {
            name: entry for name, entry in files.items() if self._is_as_described(name, entry)
        }

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Adds or replaces the entry of a file, and writes the card."""
        self._files[name] = entry
        self._write()

    def remove(self, name: str) -> None:
        """Removes the entry of a file, and writes the card if it had one."""
        if self._files.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        text = json.dumps({**self._content, "files": self._files}, indent=1)
        replace_file(self._path, f"{text}\n".encode())

    def _earlier(self) -> dict[str, Any]:
        """Returns the card in the output folder; empty if there is none, or it is not readable."""
        try:
            found = json.loads(read_file(self._path))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else {}

    def _is_as_described(self, name: str, entry: Any) -> bool:
        """Returns whether a file of an earlier export has the digest in its entry."""
        try:
            content = read_file(self._path.parent / Path(name).name)
        except OSError:
            return False
        return (
            isinstance(entry, dict) and entry.get("sha256") == hashlib.sha256(content).hexdigest()
        )


def _images(path: ModelPath, network: "Network", arguments: Arguments) -> Images:
    """Returns the images of the data set, or random ones if no data set is known."""
    import numpy as np

    from mnet_jax import data

    if arguments.dataset is None and trained_models.training_data(path) is None:
        return Images([_random_pixels(network, arguments)], None, [], "random images")
    model = trained_models.open_model(path, trained_models.name_of(path), arguments)
    dataset = model.dataset()
    batches = [*model.test_batches(dataset)]
    calibration: list[np.ndarray] = []
    if any(FORMATS[name].integers for name in arguments.format):
        calibration = model.calibration_batches(dataset, arguments.calibration_images)

    def as_taken(images: "np.ndarray") -> "np.ndarray":
        return data.pixels_of(images, network.view.scaling) if network.takes_pixels else images

    return Images(
        test=[as_taken(images) for images, _ in batches],
        labels=np.concatenate([labels for _, labels in batches])
        if model.has_classes_of(dataset)
        else None,
        calibration=[as_taken(images) for images in calibration],
        name=dataset.name,
    )


def _random_pixels(network: "Network", arguments: Arguments) -> "np.ndarray":
    """Returns a batch of random pixels, as a file takes them."""
    import numpy as np

    from mnet_jax.data.scaling import scaled

    generator, side = np.random.default_rng(SEED), network.resolution
    count = min(arguments.images, arguments.batch_size)
    pixels = generator.integers(0, 256, (count, side, side, 3), np.uint8)
    return pixels if network.takes_pixels else scaled(pixels, network.view.scaling)


def _require_formats(network: "Network", images: Images, arguments: Arguments) -> None:
    """Raises ValueError if the network cannot be written in one of the formats."""
    for name in arguments.format:
        if network.integers:
            fits = FORMATS[name].integers or FORMATS[name].runtime == "JAX"
            legal = "litert-int8, onnx-int8 or stablehlo, for the network was trained in 8 bits"
            require(fits, "format", name, legal)
        elif FORMATS[name].integers:
            legal = "a data set, from whose training images the ranges of int8 are chosen"
            require(bool(images.calibration), "dataset", None, legal)


def _written(
    network: "Network", images: Images, card: _Card, arguments: Arguments
) -> tuple[list[Row], list[str]]:
    """Writes the files; returns what was measured of each, and why others were not written."""
    import jax

    from mnet_jax import export
    from mnet_jax.export.timing import latency_beside

    rounds_itself = network.integers is not None
    integers = any(FORMATS[name].integers for name in arguments.format)
    rounded = export.in_eight_bits(network, images.calibration) if integers else network
    in_float = network.logits_of(images.test)
    one = images.test[0][:1]
    rows, problems = [], []
    for name in arguments.format:
        path = arguments.output / f"model{FORMATS[name].suffix}"
        own = rounded if FORMATS[name].integers else network
        try:
            file = export.to_file(name, own)
            checked = export.check(name, file, own, images.test)
        except export.ExportError as error:
            problems.append(str(error))
            path.unlink(missing_ok=True)  # one of an earlier export would pass for this one
            card.remove(path.name)
            continue
        row = Row(
            format=name,
            path=path,
            content=file,
            run=export.program(name, path.name, network),
            comparison=checked.comparison,
            float_agreement=None if rounds_itself else _agreement(checked.logits, in_float),
            accuracy=_accuracy(checked.logits, images),
            latency=latency_beside(
                partial(checked.runtime.run, one),
                lambda: jax.block_until_ready(network.compiled(one)),
                arguments.rounds,
            ),
        )
        replace_file(path, file)
        card.add(path.name, export.describe_file(file, row.run, _measured(row, images)))
        rows.append(row)
    return rows, problems


def _agreement(found: "np.ndarray", wanted: "np.ndarray") -> float:
    """Returns the share of images [n, classes] that get the same class."""
    return float((found.argmax(-1) == wanted.argmax(-1)).mean())


def _accuracy(logits: "np.ndarray", images: Images) -> "Interval | None":
    """Returns the accuracy and its interval over images; None without labels."""
    if images.labels is None:
        return None
    hits = int((logits.argmax(-1) == images.labels).sum())
    return share_interval(hits, len(images.labels))


def _table(rows: list[Row], images: Images) -> Table:
    """Makes a table with a row for each file."""
    count = sum(map(len, images.test))
    title = f"compared with the network in JAX on {count} images of {images.name}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("format")
    labelled = images.labels is not None
    columns = ["kB", "difference", "agree (%)", "float (%)"]
    for column in [*columns, *["accuracy (%)"] * labelled, "ms", "time / JAX"]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        compared = row.comparison
        cells = [
            f"{len(row.content) / 1000:,.1f}",
            f"{compared.difference:.2g}",
            f"{100 * compared.agreement:.1f}",
            "" if row.float_agreement is None else f"{100 * row.float_agreement:.1f}",
        ]
        if row.accuracy:
            cells.append(formatting.percent(row.accuracy, "bootstrap"))
        ratios = row.latency.ratios
        spread = f"{median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        table.add_row(row.format, *cells, f"{1000 * row.latency.seconds:.2f}", spread)
    return table


def _measured(row: Row, images: Images) -> dict[str, Any]:
    """Returns the numbers of a file for model.json."""
    accuracy = row.accuracy
    return {
        "format": row.format,
        "images": sum(map(len, images.test)),
        "dataset": images.name,
        "difference": row.comparison.difference,
        "agreement": row.comparison.agreement,
        "agreement_with_float": row.float_agreement,
        "accuracy": accuracy
        and {"mean": accuracy.mean, "low": accuracy.low, "high": accuracy.high},
        "seconds": row.latency.seconds,
        "ratios_to_jax": list(row.latency.ratios),
    }
