"""Safe access to folders with untrusted content.

Opening a FIFO can block forever, and a device may never end. So every file is examined before it is
opened, and only regular files are opened. Files in /proc are regular and report a size of zero, and
reading some of them blocks forever too. So no more bytes are read from a file than its reported
size.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mnet_jax.data.types import DataError, reason

MOST_ENTRIES = 100_000  # limit of a search: /proc alone has more

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a folder",
}


def kind_of(mode: int) -> str | None:
    """Returns a description of a file with this `st_mode`; None for a regular file."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "a special file")


def size_of(path: str | Path) -> int:
    """Returns the size in bytes of a regular file, without opening it; follows links.

    Raises:
      DataError: the file does not exist, or is not a regular file.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error
    if kind := kind_of(found.st_mode):
        raise DataError(f"{path}: is {kind}, legal: a regular file")
    return found.st_size


def read_bounded(path: str | Path, most_bytes: int) -> bytes:
    """Returns the content of a regular file of at most `most_bytes`.

    Raises:
      DataError: the file is not regular, is larger, or cannot be read.
    """
    size = size_of(path)
    if size > most_bytes:
        raise DataError(f"{path}: got {size} bytes, legal: up to {most_bytes}")
    if not size:
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error


def folders_containing(root: Path, name: str, most_depth: int) -> Iterator[Path]:
    """Yields the folders at most `most_depth` levels below `root` that hold a regular file `name`.

    The subfolders of a yielded folder are not searched; hidden folders are not searched either. The
    search ends silently after `MOST_ENTRIES` entries. Folders that cannot be read are skipped.
    """
    level, left = [root], MOST_ENTRIES
    for _ in range(most_depth):
        below = []
        for parent in level:
            folders, seen = _folders(parent, left)
            left -= seen
            for folder in folders:
                if _is_regular(folder / name):
                    yield folder
                else:
                    below.append(folder)
        level = below


def _folders(parent: Path, most: int) -> tuple[list[Path], int]:
    """Reads at most `most` entries; returns the sorted subfolders and the number of entries."""
    found, seen = [], 0
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                if seen >= most:
                    break
                seen += 1
                if entry.name[0] != "." and entry.is_dir():
                    found.append(parent / entry.name)
    except OSError:
        pass
    return sorted(found), seen


def _is_regular(path: Path) -> bool:
    try:
        return kind_of(os.stat(path).st_mode) is None
    except (OSError, ValueError):
        return False
