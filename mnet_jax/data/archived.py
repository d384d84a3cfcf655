"""TFDS builders for data sets that the user has downloaded: MNIST, CIFAR-10 and CIFAR-100.

Like those in `builders`, these builders need neither TensorFlow nor the Internet. The name of a
prepared set's TFDS config is computed from the digests of the published files. These digests are
constants here, so the prepared set is still found after the published files are deleted.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mnet_jax.data import published
from mnet_jax.data.builders import DIGITS, ArraysBuilder
from mnet_jax.data.published import (
    PublishedFile,
    find_published,
    missing_files,
    read_labelled,
    search_folders,
    verify,
)
from mnet_jax.data.types import DataError

_MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist"
MNIST_FILES = tuple(
    PublishedFile(url=f"{_MNIST_URL}/{name}", size_bytes=size_bytes, sha256=sha256)
    for name, size_bytes, sha256 in (
        (
            "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    )
)


class ArchivedBuilder(ArraysBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builds a data set from published files, which are verified before they are read.

    Attributes:
      NAME: name of the data set.
      FILES: the published files.
    """

    NAME = ""
    FILES: tuple[PublishedFile, ...] = ()

    def __init__(self, *, directory: str | None, root: Path, data_dir: Path) -> None:
        """Initializes the builder; does not read any file yet.

        Args:
          directory: the folder with the published files; None means TFDS's data folder.
          root: TFDS's data folder.
          data_dir: the folder to prepare the set in.
        """
        self._folders, self._root = search_folders(root, directory), root
        digests = "".join(file.sha256 for file in self.FILES)
        config = tfds.core.BuilderConfig(name=hashlib.sha256(digests.encode()).hexdigest()[:16])
        super().__init__(data_dir=data_dir, config=config)

    def require_files(self) -> None:
        """Raises DataError if the published files are missing."""
        self._paths()

    def _paths(self) -> list[Path]:
        paths = find_published(self.FILES, self._folders)
        if paths is None:
            raise missing_files(self.NAME, self.FILES, self._folders, self._root)
        return paths

    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Finds, verifies and reads the published files.

        Raises:
          DataError: a file is missing, differs from the published one, or cannot be read.
        """
        paths = self._paths()
        for path, file in zip(paths, self.FILES, strict=True):
            verify(path, file)
        return self.read(paths)

    def read(self, paths: list[Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Reads the images and labels of each split; `paths` are in the order of `FILES`."""
        raise NotImplementedError


def is_mnist(folder: Path) -> bool:
    """Returns whether a folder holds MNIST's files, not Fashion-MNIST's files of the same names."""
    *_, labels = MNIST_FILES
    with (
        contextlib.suppress(OSError),  # the code that reads the images reports the error
        (folder / labels.name).open("rb") as content,
    ):
        return hashlib.file_digest(content, "sha256").hexdigest() == labels.sha256
    return False


class MnetMnist(ArchivedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """MNIST, 28x28, from its four gzipped IDX files."""

    NAME = "mnist"
    FILES = MNIST_FILES
    CLASS_NAMES = DIGITS
    SHAPE = (28, 28, 1)

    def read(self, paths: list[Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """See `ArchivedBuilder.read`."""
        splits = {}
        for split, (images, labels) in (("train", paths[:2]), ("test", paths[2:])):
            splits[split] = read_labelled(images, labels, len(DIGITS))
            if splits[split][0].shape[1:] != self.SHAPE:
                height, width = splits[split][0].shape[1:3]
                raise DataError(f"{images}: got {height}x{width}, legal: 28x28")
        return splits


class _CifarBuilder(ArchivedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """CIFAR-10 or CIFAR-100, 32x32, from the archive of its binary version."""

    SET: ClassVar[published.Cifar]
    SHAPE = published.CIFAR_SHAPE

    def read(self, paths: list[Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """See `ArchivedBuilder.read`."""
        return published.read_cifar(paths[0], self.SET)


class MnetCifar10(_CifarBuilder, skip_registration=True):  # type: ignore[call-arg]
    """CIFAR-10."""

    NAME, SET = "cifar10", published.CIFAR10
    FILES, CLASS_NAMES = (SET.file,), SET.class_names


class MnetCifar100(_CifarBuilder, skip_registration=True):  # type: ignore[call-arg]
    """CIFAR-100 with its fine labels."""

    NAME, SET = "cifar100", published.CIFAR100
    FILES, CLASS_NAMES = (SET.file,), SET.class_names


ARCHIVED: dict[str, type[ArchivedBuilder]] = {
    builder.NAME: builder for builder in (MnetMnist, MnetCifar10, MnetCifar100)
}
