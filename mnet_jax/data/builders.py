"""TFDS builders of our own: arrays as sets, and the two within everyone's reach.

TFDS's stock builders call TensorFlow while they prepare, and their Fashion-MNIST wants the network.
Digits and Fashion-MNIST here need neither. They are not registered: `tfds.load` keeps its names.
Images are raw bytes (`encoding="bytes"`): to read them back takes a fifth of PNG's time by TFDS's
own decoder, and a fortieth by `decode_record`.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from mnet_jax.data.errors import DataError, reason
from mnet_jax.data.idx import read_labelled

DIGITS = tuple("0123456789")
# Xiao, Rasul, Vollgraf, "Fashion-MNIST" (arXiv:1708.07747), Table 2; TFDS's spelling.
FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_FILES = tuple(
    f"{split}-{kind}-ubyte.gz"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
_FASHION_FOLDER = Path("datasets", "fashion-mnist")  # the Debian package's, under a share folder
_SYSTEM_SHARES = ("/usr/local/share", "/usr/share")
_TEST_DIGITS = 500


def digits_arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """scikit-learn's 1,797 digits: `train` (1,297) and `test` (500), images uint8 [n, 8, 8, 1].

    The set comes without a test split. Ours: shuffle by a fixed seed, sort by class, take every
    1797/500-th, so that each class has its share of the test to within one image. The legacy
    generator, because NumPy froze its stream (NEP 19): the split is the same for good.
    """
    from sklearn.datasets import load_digits  # here: it takes a second, and only preparing needs it

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    order = np.random.RandomState(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    test = np.sort(by_class[np.arange(_TEST_DIGITS) * len(labels) // _TEST_DIGITS])
    train = np.setdiff1d(order, test)
    return {split: (pixels[at], labels[at]) for split, at in (("train", train), ("test", test))}


def fashion_directory(directory: str | None) -> Path:
    """The folder with the four files of Fashion-MNIST: `directory`, or a system's share folder.

    Raises:
      DataError: a file is missing, or no folder has them.
    """
    if directory is not None:
        folder = Path(directory).expanduser()
        missing = [name for name in FASHION_FILES if not (folder / name).is_file()]
        if missing:
            raise DataError(f"fashion_mnist: {folder} lacks {', '.join(missing)}")
        return folder
    shares = [share for share in os.environ.get("XDG_DATA_DIRS", "").split(":") if share]
    # Those of a desktop or of Nix often leave out the standard folders.
    folders = [Path(share, _FASHION_FOLDER) for share in (*shares, *_SYSTEM_SHARES)]
    for folder in folders:
        if all((folder / name).is_file() for name in FASHION_FILES):
            return folder
    raise DataError(
        f"fashion_mnist: looked for {', '.join(FASHION_FILES)} in "
        f"{', '.join(dict.fromkeys(map(str, folders)))}; install Debian's "
        "dataset-fashion-mnist, or fetch them from github.com/zalandoresearch/fashion-mnist and "
        "give the folder as directory"
    )


def fashion_fingerprint(folder: Path) -> str:
    """16 hexadecimal digits of the four files' content: other files are another prepared set."""
    digest = hashlib.sha256()
    for name in FASHION_FILES:
        try:
            with (folder / name).open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise DataError(
                f"fashion_mnist: cannot read {folder / name}: {reason(error)}"
            ) from error
    return digest.hexdigest()[:16]


class _LocalInfo(tfds.core.DatasetInfo):
    """Metadata that is not looked for in TFDS's bucket: that leaves an empty folder in /tmp."""

    def initialize_from_bucket(self) -> None:
        """Does nothing."""


class ArraysBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Arrays as a TFDS set: features `image` (uint8 [h, w, c]) and `label`, in the given order."""

    VERSION = tfds.core.Version("1.0.0")
    CLASS_NAMES: tuple[str, ...] = ()
    SHAPE: tuple[int, int, int] = (0, 0, 1)

    def require_files(self) -> None:
        """Raises DataError where what it reads is not there, before anything is written."""

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Images uint8 [n, h, w, c] and labels [n] of each split."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        pixels = tfds.features.Tensor(shape=self.SHAPE, dtype=np.uint8, encoding="bytes")
        label = tfds.features.ClassLabel(names=list(self.CLASS_NAMES))
        features = tfds.features.FeaturesDict({"image": pixels, "label": label})
        return _LocalInfo(
            builder=self, description=self.__doc__, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {
            split: self._generate_examples(images, labels)
            for split, (images, labels) in self.arrays().items()
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}


def decode_record(shape: tuple[int, int, int], record: bytes) -> dict[str, Any]:
    """The `image` (uint8, of `shape`) and `label` of a record that an `ArraysBuilder` wrote.

    A record is a `tf.train.Example`: the pixels are one byte string, the label one integer.
    """
    feature = tf_example_pb2.Example.FromString(record).features.feature
    pixels = np.frombuffer(feature["image"].bytes_list.value[0], np.uint8)
    return {"image": pixels.reshape(shape), "label": feature["label"].int64_list.value[0]}


class MnetDigits(ArraysBuilder, skip_registration=True):  # type: ignore[call-arg]
    """scikit-learn's handwritten digits, 8x8, split into train and test by class."""

    CLASS_NAMES = DIGITS
    SHAPE = (8, 8, 1)

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """As `digits_arrays`."""
        return digits_arrays()


class MnetFashionMnist(ArraysBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Fashion-MNIST, 28x28, from its four gzipped IDX files."""

    CLASS_NAMES = FASHION
    SHAPE = (28, 28, 1)

    def __init__(self, *, folder: Path, data_dir: Path) -> None:
        """Reads the files in `folder`; their fingerprint is the TFDS config's name."""
        self._folder = folder
        config = tfds.core.BuilderConfig(name=fashion_fingerprint(folder))
        super().__init__(data_dir=data_dir, config=config)

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Reads the files anew.

        Raises:
          DataError: a file is damaged, or its images are not 28x28.
        """
        splits = {}
        for split, (image_file, label_file) in zip(
            ("train", "test"), (FASHION_FILES[:2], FASHION_FILES[2:]), strict=True
        ):
            images, labels = read_labelled(
                self._folder / image_file, self._folder / label_file, len(FASHION)
            )
            if images.shape[1:] != self.SHAPE:
                height, width = images.shape[1:3]
                raise DataError(f"{self._folder / image_file}: got {height}x{width}, legal: 28x28")
            splits[split] = images, labels
        return splits
