"""Leases: file locks that record which process runs which trial.

A lease is an flock on `leases/<key>.lock`. The operating system releases it when its process ends,
however it ends. So no timeout is needed to detect a dead holder, and a reused process id causes no
confusion. The lock files are empty and are never deleted. If several machines share the directory,
its file system must support locks across machines (NFS does).

Leases are taken and checked only while the journal is locked. So a check (which takes the lock for
a moment) never makes another process's attempt fail, and the last `Started` event of a held lease
is always its holder's.
"""

import fcntl
import os
from pathlib import Path

from mnet_jax.files import open_regular


class Leases:
    """The leases in a directory; keeps track of those that this object holds."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: dict[str, int] = {}

    def take(self, key: str) -> bool:
        """Tries to take a lease; returns whether it succeeded.

        A lease that another thread or another `Leases` of this process holds is refused too.

        Raises:
          OSError: the lock file cannot be created, or its path is not a regular file.
        """
        self.directory.mkdir(exist_ok=True)
        file = open_regular(self._path(key), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(file)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._held[key] = file
        return True

    def release(self, key: str) -> None:
        """Releases a lease; does nothing if this object does not hold it."""
        file = self._held.pop(key, None)
        if file is not None:
            os.close(file)

    def release_all(self) -> None:
        """Releases every lease that this object holds."""
        for key in [*self._held]:
            self.release(key)

    def is_live(self, key: str) -> bool:
        """Returns whether any process holds a lease now.

        Raises:
          OSError: the lock file cannot be read.
        """
        try:
            file = open_regular(self._path(key), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(file)

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.lock"
