"""Caches on disk of what was compiled or measured for this machine.

They save time and nothing else: whoever finds a cache missing, damaged or unusable goes on without
it, and says so once.
"""

import hashlib
import os
import platform
import tempfile
import warnings
from functools import cache
from pathlib import Path

from mnet_jax.files import replace_file

PROBE_BYTES = 2**20  # about what a compiled training step takes


def cache_directory(kind: str) -> Path:
    """Where a kind of cache for this machine's processor lies, whether or not anybody made it.

    Under `$XDG_CACHE_HOME/mnet_jax`, by default `~/.cache/mnet_jax`. Machines of several kinds may
    share a home, so each kind has a directory of its own.

    Raises:
      OSError: there is no home, as for the unknown users that containers run as.
    """
    return _root() / "mnet_jax" / f"{kind}-{_processor_digest()}"


def _root() -> Path:
    """The directory of all programs' caches; as XDG has it, a relative path is passed over."""
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if asked.is_absolute():
        return asked
    home = Path(os.path.expanduser("~"))  # stays "~" where nobody knows the user
    if not home.is_absolute():
        legal = "an absolute path in HOME or XDG_CACHE_HOME"
        raise OSError(f"cache: got no home directory to keep anything in, legal: {legal}")
    return home / ".cache"


@cache
def _processor_digest() -> str:
    """Of the machine's instruction set and its extensions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    extensions = [line for line in lines if line.startswith(("flags", "Features"))]
    text = " ".join([platform.machine(), *extensions[:1]])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def require_room(directory: Path) -> None:
    """Makes a directory, unless it is there, and tries to write into it.

    Raises:
      OSError: it is no directory, cannot be written, or the disk is full.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(PROBE_BYTES))


def keep(made: Path, path: Path) -> None:
    """Moves a file into a cache, from the same file system, where `is_intact` then knows it.

    Its digest goes before it, so that nobody who finds the file lacks the digest.

    Raises:
      OSError: it cannot be moved, or the digest cannot be written.
    """
    path.unlink(missing_ok=True)  # what the new digest is not of
    replace_file(_beside(path), f"{_digest(made)}  {path.name}\n".encode())  # for `sha256sum -c`
    os.replace(made, path)


def is_intact(path: Path) -> bool:
    """Whether a file of a cache is as `keep` left it; one that is not is said once.

    Raises:
      OSError: it cannot be read.
    """
    if not path.exists() or not _beside(path).exists():
        return False
    known, *_ = _beside(path).read_bytes().split() or [b""]
    if known == _digest(path).encode():
        return True
    say_once(f"cache: {path} is damaged and passed over")
    return False


def _beside(path: Path) -> Path:
    """Where a file's digest lies."""
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def say_once(text: str) -> None:
    """Warns, at the first time in a process that anybody says this."""
    warnings.warn(text, stacklevel=2)
