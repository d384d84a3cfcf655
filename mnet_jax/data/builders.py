"""TFDS builders for arrays, and two data sets made with them: Digits and Fashion-MNIST.

TFDS's stock builders need TensorFlow to prepare a set, and the one for Fashion-MNIST also needs the
Internet; the builders here need neither. They are not registered, so `tfds.load` does not see them.
Images are stored as raw bytes (`encoding="bytes"`). TFDS decodes raw bytes five times faster than
PNG, and `decode_record` decodes them forty times faster.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from mnet_jax.data.published import read_labelled
from mnet_jax.data.types import DataError, reason

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
_FASHION_FOLDER = Path("datasets", "fashion-mnist")  # of the Debian package, in a share folder
_SYSTEM_SHARES = ("/usr/local/share", "/usr/share")
_TEST_DIGITS = 500


def digits_arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns scikit-learn's digits: images uint8 [n, 8, 8, 1] and labels [n] of each split.

    scikit-learn has no test split, so this function makes one of 500 images and leaves 1,297 for
    `train`. It shuffles with a fixed seed, sorts by class, and takes every 1797/500-th image. Each
    class then has its proportional number of test images, give or take one. The stream of NumPy's
    legacy generator is frozen (NEP 19), so the split never changes.
    """
    from sklearn.datasets import load_digits  # slow to import, rarely needed

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    order = np.random.RandomState(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    test = np.sort(by_class[np.arange(_TEST_DIGITS) * len(labels) // _TEST_DIGITS])
    train = np.setdiff1d(order, test)
    return {split: (pixels[at], labels[at]) for split, at in (("train", train), ("test", test))}


def fashion_directory(directory: str | None) -> Path:
    """Returns the folder with Fashion-MNIST's four files.

    This is `directory`. If `directory` is None, the folder of Debian's package is searched for in
    `$XDG_DATA_DIRS`, `/usr/local/share` and `/usr/share`.

    Raises:
      DataError: `directory` lacks a file, or no folder that was searched has all files.
    """
    if directory is not None:
        folder = Path(directory).expanduser()
        missing = [name for name in FASHION_FILES if not (folder / name).is_file()]
        if missing:
            raise DataError(f"fashion_mnist: {folder} lacks {', '.join(missing)}")
        return folder
    shares = [share for share in os.environ.get("XDG_DATA_DIRS", "").split(":") if share]
    # XDG_DATA_DIRS of a desktop or of Nix often lacks the standard folders.
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
    """Returns 16 hexadecimal digits of a hash of the four Fashion-MNIST files in `folder`."""
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
    """A set's metadata, without TFDS's lookup in the cloud, which would leave a folder in /tmp."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; the overridden method would look up the metadata."""


class ArraysBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builds a TFDS set from arrays, without shuffling.

    The features of the set are `image` (uint8 [h, w, c]) and `label`.
    """

    VERSION = tfds.core.Version("1.0.0")
    CLASS_NAMES: tuple[str, ...] = ()
    SHAPE: tuple[int, int, int] = (0, 0, 1)

    def require_files(self) -> None:
        """Raises DataError if a file that `arrays` reads is missing; called before preparation."""

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns images uint8 [n, h, w, c] and labels [n] of each split."""
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
    """Decodes a record of an `ArraysBuilder` to its `image` (uint8, of `shape`) and `label`.

    A record is a `tf.train.Example` with the pixels as one byte string and the label as one
    integer.
    """
    feature = tf_example_pb2.Example.FromString(record).features.feature
    pixels = np.frombuffer(feature["image"].bytes_list.value[0], np.uint8)
    return {"image": pixels.reshape(shape), "label": feature["label"].int64_list.value[0]}


class MnetDigits(ArraysBuilder, skip_registration=True):  # type: ignore[call-arg]
    """scikit-learn's handwritten digits, 8x8, split into train and test by class."""

    CLASS_NAMES = DIGITS
    SHAPE = (8, 8, 1)

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """See `digits_arrays`."""
        return digits_arrays()


class MnetFashionMnist(ArraysBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Fashion-MNIST, 28x28, from its four gzipped IDX files."""

    CLASS_NAMES = FASHION
    SHAPE = (28, 28, 1)

    def __init__(self, *, folder: Path, data_dir: Path) -> None:
        """Hashes the files in `folder`; the hash becomes the name of the TFDS config."""
        self._folder = folder
        config = tfds.core.BuilderConfig(name=fashion_fingerprint(folder))
        super().__init__(data_dir=data_dir, config=config)

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Reads the images and labels of both splits from the four files.

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
