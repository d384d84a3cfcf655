"""A data set made of a folder of images, with one subfolder for each class.

    root/train/<class>/*.png       and  root/test/<class>/*.png
    root/<class>/*.png             (no train/: about 20 % of each class becomes the test split)

Instead of `test/`, the folder may have `val/` or `validation/`. Classes are sorted by name. Hidden
files are ignored, and so are images in subfolders of a class folder.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnet_jax.config import MAX_IMAGE_PIXELS
from mnet_jax.data.disk import kind_of
from mnet_jax.data.encoded import read_encoded, read_size
from mnet_jax.data.order import held_out, held_out_by_name
from mnet_jax.data.resize import pixels
from mnet_jax.data.sources import ArraySource, Example, OpenedExample
from mnet_jax.data.types import DataError, reason
from mnet_jax.validation import one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
MOST_ENTRIES = 2**25  # limit over all folders; the largest public sets have half as many images
_TEST_FOLDERS = ("test", "val", "validation")
_TEST_SHARE = 0.2
_DIGEST_DIGITS = 16


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded to RGB when they are accessed.

    Attributes:
      paths: the files.
      labels: int32 [n].
      shape: see `Source`.
      max_pixels: limit on the pixels of an image.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    shape: tuple[int, int, int] | None
    max_pixels: int = MAX_IMAGE_PIXELS

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        opened = self.opened(index)
        return {"image": pixels(opened["image"]), "label": opened["label"]}

    def opened(self, index: int) -> OpenedExample:
        """Returns an example whose image is read but not decoded."""
        image = read_encoded(self.paths[index], self.max_pixels)
        return {"image": image, "label": int(self.labels[index])}

    def decoded(self) -> ArraySource:
        """Decodes all images into memory; they must have one shape."""
        assert self.shape is not None
        images = np.empty((len(self), *self.shape), np.uint8)
        for index, path in enumerate(self.paths):
            images[index] = read_encoded(path, self.max_pixels).pixels()
        return ArraySource(images, self.labels)


class Folder(NamedTuple):
    """A folder of images as a data set.

    Attributes:
      class_names: indexed by label.
      train, test: the splits.
      train_names: the paths of the train files, relative to the folder.
      listing: the number of files, and a digest of their paths and sizes.
    """

    class_names: tuple[str, ...]
    train: FolderSource
    test: FolderSource
    train_names: tuple[str, ...]
    listing: str


class _File(NamedTuple):
    """An image file: its path relative to the data set's folder, and its size in bytes."""

    name: str
    size: int


_Files = dict[str, list[_File]]  # by class


def read_folder(
    directory: str | None,
    *,
    ignore_damaged: bool = False,
    by_position: bool = False,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Folder:
    """Reads the classes and the splits of a folder of images.

    Args:
      directory: the folder.
      ignore_damaged: whether to accept damaged files here and leave them to the code that decodes
        them.
      by_position: whether the positions of the files in the sorted list choose the test split, as
        in earlier versions. Otherwise the names of the files choose it. Used only if the folder has
        no `train/`.
      max_pixels: limit on the pixels of an image.

    Raises:
      DataError: the folder does not exist, has fewer than two classes, a class without images, a
        file that is not an image, or different classes in train and test.
    """
    if directory is None:
        raise DataError("folder: got no directory, legal: a folder with train/<class>/ of images")
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise DataError(f"folder: {root} is not a folder")
    try:
        given = (root / "train").is_dir()
        train, test = _given_splits(root) if given else _made_splits(root, by_position)
    except OSError as error:
        raise DataError(f"folder: {root}: cannot be read: {reason(error)}") from error
    files = [file for split in (train, test) for group in split.values() for file in group]
    shape = _common_shape(
        [os.path.join(root, file.name) for file in files], ignore_damaged, max_pixels
    )
    return Folder(
        class_names=tuple(train),
        train=_source(root, train, shape, max_pixels),
        test=_source(root, test, shape, max_pixels),
        train_names=tuple(file.name for group in train.values() for file in group),
        listing=_listing(files),
    )


def _given_splits(root: Path) -> tuple[_Files, _Files]:
    """Lists the files, by class, in the folders train/ and test/ of `root`."""
    test_root = next((name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if test_root is None:
        names = ", ".join(f"{name}/" for name in _TEST_FOLDERS)
        raise DataError(f"folder: {root} has train/ but none of {names}")
    count = _counter(root)
    train, test = _files_by_class(root, "train", count), _files_by_class(root, test_root, count)
    if differing := sorted(train.keys() ^ test.keys()):
        raise DataError(
            f"folder: train/ and {test_root}/ of {root} must have the same classes, "
            f"not in both: {one_line(', '.join(differing[:10]))}"
        )
    return train, test


def _made_splits(root: Path, by_position: bool) -> tuple[_Files, _Files]:
    """Splits a folder of classes into train and test; the test split gets a share of each class."""
    train: _Files = {}
    test: _Files = {}
    for name, files in _files_by_class(root, "", _counter(root)).items():
        if len(files) < 2:
            raise DataError(f"folder: {root / name} has one image, legal: 2 or more, one for test")
        if by_position:
            kept, held = held_out(len(files), _TEST_SHARE)
        else:
            kept, held = held_out_by_name([file.name for file in files], _TEST_SHARE, "test")
        train[name], test[name] = [files[at] for at in kept], [files[at] for at in held]
    return train, test


def _files_by_class(root: Path, split: str, count: Callable[[], None]) -> _Files:
    """Lists the image files of each class folder of a split; sorts classes and files by name."""
    place = root / split
    classes = sorted(entry.name for entry in _entries(place, count) if entry.is_dir())
    if len(classes) < 2:
        found = one_line(", ".join(classes)) or "none"
        raise DataError(f"folder: {place} has class folders: {found}; legal: 2 or more")
    files = {}
    for name in classes:
        folder = place / name
        images = _image_files(folder, count)
        if not images:
            raise DataError(f"folder: {folder} has no image, legal: files {', '.join(SUFFIXES)}")
        below = f"{split}/{name}" if split else name
        files[name] = [_File(f"{below}/{file.name}", file.size) for file in images]
    return files


def _image_files(folder: Path, count: Callable[[], None]) -> list[_File]:
    """Lists the image files in a folder, sorted by name.

    Raises:
      DataError: a file with an image's suffix is a broken link or not a regular file.
    """
    files, others, total = [], [], 0
    for entry in _entries(folder, count):
        if not entry.name.lower().endswith(SUFFIXES) or entry.is_dir():
            continue
        total += 1
        try:
            found = entry.stat()
        except OSError as error:
            others.append((entry.name, f"a link to no file, {error.strerror}"))
            continue
        if kind := kind_of(found.st_mode):
            others.append((entry.name, kind))
        else:
            files.append(_File(entry.name, found.st_size))
    if others:
        name, kind = min(others)
        raise DataError(
            f"folder: {len(others)} of {total} images in {folder} are no regular files, "
            f"legal: none; {name} is {kind}"
        )
    return sorted(files)


def _entries(folder: Path, count: Callable[[], None]) -> Iterator[os.DirEntry[str]]:
    """Yields the entries of a folder that are not hidden; calls `count` for every entry."""
    with os.scandir(folder) as entries:
        for entry in entries:
            count()
            if entry.name[0] != ".":
                yield entry


def _counter(root: Path) -> Callable[[], None]:
    """Returns a function that raises DataError after `MOST_ENTRIES` calls."""
    left = iter(range(MOST_ENTRIES))

    def count() -> None:
        if next(left, None) is None:
            raise DataError(f"folder: {root} has {MOST_ENTRIES:,} files or more, legal: fewer")

    return count


def _listing(files: list[_File]) -> str:
    """Returns the number of files and a digest of their names and sizes."""
    digest = hashlib.sha256()
    for name, size in sorted(files):
        digest.update(os.fsencode(f"{name}\0{size}\n"))
    return f"{len(files)} files, sha256 {digest.hexdigest()[:_DIGEST_DIGITS]}"


def _common_shape(
    paths: list[str], ignore_damaged: bool, max_pixels: int
) -> tuple[int, int, int] | None:
    """Returns the shape that all images have, or None if sizes differ.

    Reads only headers, and stops at the first image whose size differs.
    """
    sizes = set()
    for path in paths:
        try:
            sizes.add(read_size(path, max_pixels))
        except DataError:
            if not ignore_damaged:
                raise
        if len(sizes) > 1:
            return None
    if not sizes:
        raise DataError(f"folder: none of {len(paths)} images can be decoded; first: {paths[0]}")
    ((height, width),) = sizes
    return height, width, 3


def _source(
    root: Path, files: _Files, shape: tuple[int, int, int] | None, max_pixels: int
) -> FolderSource:
    labels = np.repeat(np.arange(len(files)), [len(group) for group in files.values()])
    paths = tuple(os.path.join(root, file.name) for group in files.values() for file in group)
    return FolderSource(paths, labels.astype(np.int32), shape, max_pixels)
