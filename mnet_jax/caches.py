"""Caches on disk for results that were compiled or measured for this machine.

Caches only save time. If a cache is missing, damaged or unusable, the program continues without it,
and warns once if the cache is damaged or unusable.
"""

import hashlib
import os
import platform
import tempfile
import warnings
from functools import cache
from pathlib import Path

from mnet_jax.files import replace_file

PROBE_BYTES = 2**20  # about the size of a compiled training step


def cache_directory(kind: str) -> Path:
    """Returns the directory of a cache, such as `xla`, for this processor; does not create it.

    The directory is in `$XDG_CACHE_HOME/mnet_jax`, by default `~/.cache/mnet_jax`. Machines with
    different processors may share a home directory, so each kind of processor has its own cache.

    Raises:
      OSError: there is no home directory, as for unknown users in containers.
    """
    return _root() / "mnet_jax" / f"{kind}-{_processor_digest()}"


def _root() -> Path:
    """Returns the directory of all programs' caches; ignores a relative `$XDG_CACHE_HOME`."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if configured.is_absolute():
        return configured
    home = Path(os.path.expanduser("~"))  # remains "~" for an unknown user
    if not home.is_absolute():
        legal = "an absolute path in HOME or XDG_CACHE_HOME"
        raise OSError(f"cache: got no home directory to keep anything in, legal: {legal}")
    return home / ".cache"


@cache
def _processor_digest() -> str:
    """Returns a digest of the machine's instruction set and its extensions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    extensions = [line for line in lines if line.startswith(("flags", "Features"))]
    text = " ".join([platform.machine(), *extensions[:1]])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def require_room(directory: Path) -> None:
    """Creates a directory if it is missing, and tests that a file can be written there.

    Raises:
      OSError: the path is not a directory, it is not writable, or the disk is full.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(PROBE_BYTES))


def store_in_cache(made: Path, path: Path) -> None:
    """Moves a file into a cache on the same file system; stores a digest of it for `is_intact`.

    The digest is written first, so that a file in the cache always has its digest.

    Raises:
      OSError: the file cannot be moved, or the digest cannot be written.
    """
    path.unlink(missing_ok=True)  # an old file would not match the new digest
    replace_file(_beside(path), f"{_digest(made)}  {path.name}\n".encode())  # for `sha256sum -c`
    os.replace(made, path)


def is_intact(path: Path) -> bool:
    """Whether a cached file exists and matches its digest; warns once if it is damaged.

    Raises:
      OSError: the file or its digest cannot be read.
    """
    if not path.exists() or not _beside(path).exists():
        return False
    known, *_ = _beside(path).read_bytes().split() or [b""]
    if known == _digest(path).encode():
        return True
    warn_once(f"cache: {path} is damaged and ignored")
    return False


def _beside(path: Path) -> Path:
    """Returns the path of a file's digest."""
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def warn_once(text: str) -> None:
    """Issues a warning, at most once in a process for each text."""
    warnings.warn(text, stacklevel=2)
