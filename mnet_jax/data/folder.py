"""A folder of images, one subfolder a class.

    root/train/<class>/*.png       and  root/test/<class>/*.png
    root/<class>/*.png             (no train/: about 20 % of each class becomes the test split)

`val/` or `validation/` stands in for `test/` where there is none. Classes are sorted by name.
Hidden files are passed over; images below a class's own subfolders are not looked for.
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
from mnet_jax.data.errors import DataError, reason
from mnet_jax.data.resize import pixels
from mnet_jax.data.sources import ArraySource, Example, OpenedExample
from mnet_jax.data.splitting import held_out, held_out_by_name
from mnet_jax.validation import one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
MOST_ENTRIES = 2**25  # in all folders together; the largest public sets have half as many images
_TEST_FOLDERS = ("test", "val", "validation")
_TEST_SHARE = 0.2
_DIGEST_DIGITS = 16


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded to RGB when they are asked for.

    Attributes:
      paths: the files.
      labels: int32 [n].
      shape: as `Source`.
      max_pixels: of an image.
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
        """The same, its image read but not decoded."""
        image = read_encoded(self.paths[index], self.max_pixels)
        return {"image": image, "label": int(self.labels[index])}

    def decoded(self) -> ArraySource:
        """All of it in memory; only for images of one shape."""
        assert self.shape is not None
        images = np.empty((len(self), *self.shape), np.uint8)
        for index, path in enumerate(self.paths):
            images[index] = read_encoded(path, self.max_pixels).pixels()
        return ArraySource(images, self.labels)


class Folder(NamedTuple):
    """A folder of images as a data set.

    Attributes:
      class_names: by label.
      train, test: its splits.
      train_names: the files of train, below the folder.
      listing: of all files: how many they are, and a digest of their paths and sizes.
    """

    class_names: tuple[str, ...]
    train: FolderSource
    test: FolderSource
    train_names: tuple[str, ...]
    listing: str


class _File(NamedTuple):
    """An image file: its path below the data set's folder, and its size in bytes."""

    name: str
    size: int


_Files = dict[str, list[_File]]  # by class


def read_folder(
    directory: str | None,
    *,
    spare: bool = False,
    by_position: bool = False,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Folder:
    """The classes and the splits of a folder of images.

    Args:
      directory: the folder.
      spare: whether damaged files are passed over here, for whoever reads them to deal with.
      by_position: whether a test split that has to be made goes by the files' positions, as it
        did before it went by their names.
      max_pixels: of an image.

    Raises:
      DataError: no such folder, fewer than two classes, a class without images or with a file that
        is none, or test classes that are not train's.
    """
    if directory is None:
        raise DataError("folder: got no directory, legal: a folder with train/<class>/ of images")
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise DataError(f"folder: {root} is no folder")
    try:
        given = (root / "train").is_dir()
        train, test = _given_splits(root) if given else _made_splits(root, by_position)
    except OSError as error:
        raise DataError(f"folder: {root}: cannot be read: {reason(error)}") from error
    files = [file for split in (train, test) for group in split.values() for file in group]
    shape = _common_shape([os.path.join(root, file.name) for file in files], spare, max_pixels)
    return Folder(
        class_names=tuple(train),
        train=_source(root, train, shape, max_pixels),
        test=_source(root, test, shape, max_pixels),
        train_names=tuple(file.name for group in train.values() for file in group),
        listing=_listing(files),
    )


def _given_splits(root: Path) -> tuple[_Files, _Files]:
    """The files by class of `root`'s train/ and test/ folders."""
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
    """The files by class of a folder of classes: a share of each becomes the test split."""
    train: _Files = {}
    test: _Files = {}
    for name, files in _files_by_class(root, "", _counter(root)).items():
        if len(files) < 2:
            raise DataError(f"folder: {root / name} has one image, legal: 2 or more, one to test")
        if by_position:
            kept, held = held_out(len(files), _TEST_SHARE)
        else:
            kept, held = held_out_by_name([file.name for file in files], _TEST_SHARE, "test")
        train[name], test[name] = [files[at] for at in kept], [files[at] for at in held]
    return train, test


def _files_by_class(root: Path, split: str, count: Callable[[], None]) -> _Files:
    """The image files of each class folder in a split's folder, both sorted by name."""
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
    """The image files in a folder, by name.

    Raises:
      DataError: what has an image's name is a link to nothing, or no regular file.
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
    """What a folder holds, but for what is hidden; each entry is counted."""
    with os.scandir(folder) as entries:
        for entry in entries:
            count()
            if entry.name[0] != ".":
                yield entry


def _counter(root: Path) -> Callable[[], None]:
    """A function that raises DataError once it has been called too often."""
    left = iter(range(MOST_ENTRIES))

    def count() -> None:
        if next(left, None) is None:
            raise DataError(f"folder: {root} has {MOST_ENTRIES:,} files or more, legal: fewer")

    return count


def _listing(files: list[_File]) -> str:
    """How many files there are, and a digest of what they are called and how large they are."""
    digest = hashlib.sha256()
    for name, size in sorted(files):
        digest.update(os.fsencode(f"{name}\0{size}\n"))
    return f"{len(files)} files, sha256 {digest.hexdigest()[:_DIGEST_DIGITS]}"


def _common_shape(paths: list[str], spare: bool, max_pixels: int) -> tuple[int, int, int] | None:
    """The shape of all images if they share one; reads headers up to the first that differs."""
    sizes = set()
    for path in paths:
        try:
            sizes.add(read_size(path, max_pixels))
        except DataError:
            if not spare:
                raise
        if len(sizes) > 1:
            return None
    if not sizes:
        raise DataError(f"folder: none of {len(paths)} images can be decoded, {paths[0]} the first")
    ((height, width),) = sizes
    return height, width, 3


def _source(
    root: Path, files: _Files, shape: tuple[int, int, int] | None, max_pixels: int
) -> FolderSource:
    labels = np.repeat(np.arange(len(files)), [len(group) for group in files.values()])
    paths = tuple(os.path.join(root, file.name) for group in files.values() for file in group)
    return FolderSource(paths, labels.astype(np.int32), shape, max_pixels)
