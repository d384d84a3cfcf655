"""Atomic writes, durable directories, and locks on files."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file atomically and flushes it to disk; creates its directory if it is missing.

    Raises:
      OSError: the file cannot be written; an old file at this path is unchanged. The error's
        `filename` is the path.
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
        if isinstance(error, OSError) and error.errno:  # its `filename` is None or `temporary`
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_directory(path.parent)


def make_directory(directory: Path) -> None:
    """Creates a directory and its missing parents, and flushes them to disk."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Flushes a directory's entries to disk if the file system supports it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # network and FUSE mounts may not support this
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Opens a regular file with `flags` and returns its descriptor.

    This function does not block. Python's `open` waits at a FIFO until a process opens the FIFO's
    other end.

    Raises:
      OSError: the file cannot be opened, or is not a regular file.
    """
    file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, f"{path.name} is not a regular file", str(path))
    return file


def read_file(path: Path) -> bytes:
    """Returns the content of a regular file.

    Raises:
      OSError: the file cannot be read, or is not a regular file.
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
    """Opens a file with `flags`, locks it, and yields its descriptor.

    The lock excludes other processes and other threads. A shared lock excludes only exclusive ones.
    The operating system releases a lock when the process that holds it ends, even if it is killed.

    Args:
      path: the path of a regular file.
      flags: the flags for `os.open`.
      shared: whether the lock is shared rather than exclusive.
      wait: whether to wait until the lock is free.

    Raises:
      BlockingIOError: the lock is taken, and `wait` is false.
      OSError: the file cannot be opened or locked, or is not a regular file.
    """
    import fcntl  # here, so that systems without it can use the rest of this module

    file = open_regular(path, flags)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        yield file
    finally:
        os.close(file)
