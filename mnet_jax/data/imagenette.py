"""Imagenette: ten easy classes of ImageNet in three sizes, read from an archive or a folder.

Source: J. Howard, https://github.com/fastai/imagenette. Its `val/` is the test split.
"""

import re
import tempfile
from functools import partial
from pathlib import Path

from mnet_jax.config import MAX_IMAGE_PIXELS
from mnet_jax.data.folder import Folder, read_folder
from mnet_jax.data.preparation import SCRATCH, data_root, remove_stale
from mnet_jax.data.published import (
    PublishedFile,
    find_published,
    missing_files,
    read_members,
    search_folders,
    verify,
)
from mnet_jax.data.types import DataError, reason

NAME = "imagenette"
_URL = "https://s3.amazonaws.com/fast-ai-imageclas"
_MOST_BYTES = 64 * 2**20  # limit for one image


def _file(name: str, size_bytes: int, sha256: str) -> PublishedFile:
    return PublishedFile(url=f"{_URL}/{name}.tgz", size_bytes=size_bytes, sha256=sha256)


# Keyed by the names of TFDS's configs, in TFDS's order: the second version (2019) comes first.
FILES = {
    "full-size-v2": _file(
        "imagenette2",
        1557161267,
        "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
    ),
    "320px-v2": _file(
        "imagenette2-320",
        341663724,
        "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
    ),
    "160px-v2": _file(
        "imagenette2-160",
        99003388,
        "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
    ),
    "full-size": _file(
        "imagenette",
        1556495367,
        "1bd650bc16884ca88e4f0f537ed8569b1f8d7ae865d37eba8ecdd87d9cd9dcfa",
    ),
    "320px": _file(
        "imagenette-320",
        341289752,
        "0e3ac85d7f3fd0a63d5e27d85c68511be9ac4dae260345b6f7434a0d4fa24b3f",
    ),
    "160px": _file(
        "imagenette-160",
        98752094,
        "4bacf19aa3f2454e330ac366c98ac1e470ccc6bebca8ff63ecc7f339cb2ead11",
    ),
}


def read_imagenette(
    name: str,
    directory: str | None,
    *,
    ignore_damaged: bool = False,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Folder:
    """Reads the classes (ImageNet's WordNet IDs) and the splits.

    An archive is verified and unpacked once, into TFDS's data folder.

    Args:
      name: `imagenette`, or a size in TFDS's spelling, such as `imagenette/320px-v2`.
      directory: the folder with the archive or the unpacked images; None means TFDS's data folder.
      ignore_damaged, max_pixels: see `read_folder`.

    Raises:
      DataError: the set is missing or damaged, or several sizes are available and the name does
        not say which.
    """
    _, _, config = name.partition("/")
    if config and config not in FILES:
        legal = ", ".join(f"{NAME}/{known}" for known in FILES)
        raise DataError(f"data set: got {name!r}, legal: {legal}")
    folders = search_folders(data_root(), directory)
    read = partial(read_folder, ignore_damaged=ignore_damaged, max_pixels=max_pixels)
    requested = [config] if config else [*FILES]
    found = {known: there for known in requested if (there := _find(known, folders, directory))}
    if not found:
        if not config and _is_unpacked(folders[0]):
            return read(str(folders[0]))
        # If the name has no size, suggest 320 pixels: crops of 224 need no enlarging.
        raise missing_files(name, [FILES[config or "320px-v2"]], folders, data_root())
    if len(found) > 1:
        legal = ", ".join(f"{NAME}/{known}" for known in found)
        raise DataError(f"data set: got {name!r}, which has several sizes here, legal: {legal}")
    ((known, there),) = found.items()
    return read(str(there if there.is_dir() else _unpack(there, known)))


def _find(config: str, folders: tuple[Path, ...], directory: str | None) -> Path | None:
    """Returns the unpacked folder of one of TFDS's configs, else its archive, else None."""
    file = FILES[config]
    for folder in (base / file.name.removesuffix(".tgz") for base in folders):
        if _is_unpacked(folder):
            return folder
    archive = find_published([file], folders)
    place = _place(file)
    if _is_unpacked(place) and (archive or directory is None):  # unpacked earlier
        return place
    return archive[0] if archive else None


def _is_unpacked(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "val").is_dir()


def _place(file: PublishedFile) -> Path:
    """Returns the folder that an archive is unpacked to."""
    return data_root() / f"mnet_{NAME}" / file.sha256[:16]


def _unpack(archive: Path, config: str) -> Path:
    """Verifies and unpacks an archive atomically; returns the folder with its images."""
    file, root = FILES[config], data_root()
    verify(archive, file)
    top = file.name.removesuffix(".tgz")
    image = re.compile(rf"{re.escape(top)}/((?:train|val)/n\d{{8}}/[\w\-]+\.JPEG)", re.ASCII)
    place = _place(file)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(root)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=root) as scratch:
            whole = Path(scratch, top)
            for name, content in read_members(
                archive, lambda n: bool(image.fullmatch(n)), _MOST_BYTES
            ):
                target = whole / name.removeprefix(f"{top}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            if not _is_unpacked(whole):
                raise DataError(f"{archive}: holds no images in {top}/train/ and {top}/val/")
            _rename(whole, place)
    except OSError as error:
        raise DataError(
            f"{NAME}: cannot unpack {archive} in {root}: {reason(error)}; set TFDS_DATA_DIR to a "
            "writable folder, or unpack it and give that folder as directory"
        ) from error
    return place


def _rename(whole: Path, place: Path) -> None:
    """Moves the unpacked folder to its place, unless another process did so first."""
    try:
        whole.rename(place)
    except OSError:
        if not _is_unpacked(place):
            raise
