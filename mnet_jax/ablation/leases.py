"""Who runs which trial: a lock for each, which the operating system frees when its holder dies.

A lease is an flock on `leases/<key>.lock`. It ends with its process, however that ends, so there is
no time after which a holder counts as dead, and no number of a process that may come again. The
files are empty, and stay. Directories that several machines share must pass locks on (NFS does).

Leases are taken and looked at while the journal is locked, which is what makes both exact: nobody's
look is in the way of another's lease, and the last `Started` of a held lease is its holder's.
"""

import fcntl
import os
from pathlib import Path

from mnet_jax.files import open_regular


class Leases:
    """The leases under a directory, and those among them that are held here."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: dict[str, int] = {}

    def take(self, key: str) -> bool:
        """Whether a lease could be had; threads and other `Leases` of this process count too.

        Raises:
          OSError: its file cannot be made, or something else is in its place.
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
        """Gives a lease up; nothing where it is not held here."""
        file = self._held.pop(key, None)
        if file is not None:
            os.close(file)

    def release_all(self) -> None:
        """Gives up everything that is held here."""
        for key in [*self._held]:
            self.release(key)

    def is_live(self, key: str) -> bool:
        """Whether someone holds a lease now.

        Raises:
          OSError: its file cannot be read.
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
