"""Folders that anybody may have filled: which of their files are opened, and how far one looks.

Opening a FIFO waits for ever, and a device may never end. So a file is looked at before it is
opened, and none but a regular one is. Entries of /proc are regular files that say they have no
bytes, and to read some of them waits for ever too: no more is read of a file than it says it has.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mnet_jax.data.errors import DataError, reason

MOST_ENTRIES = 100_000  # looked at in search of a file: /proc alone has more

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a folder",
}


def kind_of(mode: int) -> str | None:
    """What a file of that `st_mode` is, in words; None for a regular one."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "a special file")


def size_of(path: str | Path) -> int:
    """The size in bytes of a regular file, links followed; nothing is opened.

    Raises:
      DataError: it is not there, or no regular file.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error
    if kind := kind_of(found.st_mode):
        raise DataError(f"{path}: is {kind}, legal: a regular file")
    return found.st_size


def read_bounded(path: str | Path, most_bytes: int) -> bytes:
    """The content of a regular file of at most `most_bytes`.

    Raises:
      DataError: it is no regular file, is larger, or cannot be read.
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


def holding(root: Path, name: str, most_depth: int) -> Iterator[Path]:
    """The folders below `root`, at most `most_depth` down, that hold a regular file `name`.

    Whatever is in such a folder is not looked at, nor are hidden folders. The search ends without
    a word after `MOST_ENTRIES`; a folder that cannot be read is passed over.
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
    """The folders among the first `most` entries of a folder, by name, and how many those are."""
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
