"""A folder of images, one subfolder a class.

    root/train/<class>/*.png       and  root/test/<class>/*.png
    root/<class>/*.png             (no train/: a fixed 20 % of each class becomes the test split)

`val/` or `validation/` stands in for `test/` where there is none. Classes are sorted by name.
Hidden files are passed over; images below a class's own subfolders are not looked for.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnet_jax.data.encoded import read_encoded, read_size
from mnet_jax.data.errors import DataError
from mnet_jax.data.resize import pixels
from mnet_jax.data.sources import ArraySource, Example, OpenedExample, held_out

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_TEST_FOLDERS = ("test", "val", "validation")
_TEST_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded to RGB when they are asked for.

    Attributes:
      paths: the files.
      labels: int32 [n].
      shape: as `Source`.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    shape: tuple[int, int, int] | None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        opened = self.opened(index)
        return {"image": pixels(opened["image"]), "label": opened["label"]}

    def opened(self, index: int) -> OpenedExample:
        """The same, its image read but not decoded."""
        return {"image": read_encoded(self.paths[index]), "label": int(self.labels[index])}

    def decoded(self) -> ArraySource:
        """All of it in memory; only for images of one shape."""
        assert self.shape is not None
        images = np.empty((len(self), *self.shape), np.uint8)
        for index, path in enumerate(self.paths):
            images[index] = read_encoded(path).pixels()
        return ArraySource(images, self.labels)


def read_folder(
    directory: str | None, *, spare: bool = False
) -> tuple[tuple[str, ...], FolderSource, FolderSource]:
    """The class names, the train and the test split of a folder of images.

    Args:
      directory: the folder.
      spare: whether damaged files are passed over here, for whoever reads them to deal with.

    Raises:
      DataError: no such folder, fewer than two classes, a class without images, or test classes
        that are not train's.
    """
    if directory is None:
        raise DataError("folder: got no directory, legal: a folder with train/<class>/ of images")
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise DataError(f"folder: {root} is no folder")
    if (root / "train").is_dir():
        train, test = _given_splits(root)
    else:
        train, test = _made_splits(root)
    files = [path for split in (train, test) for paths in split.values() for path in paths]
    shape = _common_shape(files, spare)
    return tuple(train), _source(train, shape), _source(test, shape)


def _given_splits(root: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The files by class of `root`'s train/ and test/ folders."""
    test_root = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if test_root is None:
        names = ", ".join(f"{name}/" for name in _TEST_FOLDERS)
        raise DataError(f"folder: {root} has train/ but none of {names}")
    train, test = _files_by_class(root / "train"), _files_by_class(test_root)
    if differing := sorted(train.keys() ^ test.keys()):
        raise DataError(
            f"folder: train/ and {test_root.name}/ of {root} must have the same classes, "
            f"not in both: {', '.join(differing[:10])}"
        )
    return train, test


def _made_splits(root: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The files by class of a folder of classes: the same share of each becomes the test split."""
    train, test = {}, {}
    for name, files in _files_by_class(root).items():
        if len(files) < 2:
            raise DataError(f"folder: {root / name} has one image, legal: 2 or more, one to test")
        kept, held = held_out(len(files), _TEST_SHARE)
        train[name], test[name] = [files[at] for at in kept], [files[at] for at in held]
    return train, test


def _files_by_class(root: Path) -> dict[str, list[str]]:
    """The image files of each class folder in `root`, both sorted by name."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if len(folders) < 2:
        found = ", ".join(path.name for path in folders) or "none"
        raise DataError(f"folder: {root} has class folders: {found}; legal: 2 or more")
    files = {}
    for folder in folders:
        names = sorted(entry.name for entry in os.scandir(folder) if _is_image(entry))
        if not names:
            raise DataError(f"folder: {folder} has no image, legal: files {', '.join(SUFFIXES)}")
        files[folder.name] = [os.path.join(folder, name) for name in names]
    return files


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and entry.name[0] != "." and entry.is_file()


def _common_shape(paths: list[str], spare: bool) -> tuple[int, int, int] | None:
    """The shape of all images if they share one; reads headers up to the first that differs."""
    sizes = set()
    for path in paths:
        try:
            sizes.add(read_size(path))
        except DataError:
            if not spare:
                raise
        if len(sizes) > 1:
            return None
    if not sizes:
        raise DataError(f"folder: none of {len(paths)} images can be decoded, {paths[0]} the first")
    ((height, width),) = sizes
    return height, width, 3


def _source(files: dict[str, list[str]], shape: tuple[int, int, int] | None) -> FolderSource:
    labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files.values()])
    paths = tuple(path for group in files.values() for path in group)
    return FolderSource(paths, labels.astype(np.int32), shape)
