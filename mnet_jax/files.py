"""Files that are there whole or not at all, or that one process has at a time."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, and on disk when this returns; makes its directory.

    Raises:
      OSError: it cannot be written; what was there before still is. Its `filename` is the path.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    make_directory(path.parent)
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # a full disk's has no name, or that of ours
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_directory(path.parent)


def make_directory(directory: Path) -> None:
    """Makes a directory and its parents; what was made is on disk when this returns."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Asks for a directory's entries to be put on disk, where the file system knows how."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # network and FUSE mounts know no fsync of a directory
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """A regular file's descriptor, opened with `flags`.

    Raises:
      OSError: it cannot be opened, or is something else. To open a FIFO would be to wait until
        somebody opens its other end.
    """
    file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, f"{path.name} is not a regular file", str(path))
    return file


def read_file(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
      OSError: it cannot be read, or is no regular file.
    """
    with open(open_regular(path), "rb") as file:
        return file.read()


@contextlib.contextmanager
def locked(
    path: Path,
    flags: int = os.O_RDWR | os.O_CREAT,
    *,
    shared: bool = False,
    wait: bool = True,
) -> Iterator[int]:
    """A file's descriptor, opened with `flags`, while no other process or thread has it.

    Those that share it are in the way of none but those that do not. The operating system frees a
    file when its holder dies, however that happens.

    Args:
      path: of a regular file.
      flags: of `os.open`.
      shared: whether others may have it that share it too.
      wait: whether to wait for those that have it.

    Raises:
      BlockingIOError: another has it, and this one does not wait.
      OSError: it cannot be opened or locked, or is no regular file.
    """
    import fcntl  # here, as systems that lack it can do everything else

    file = open_regular(path, flags)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        yield file
    finally:
        os.close(file)
