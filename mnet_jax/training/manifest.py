"""A digest of every file of a checkpoint, kept in it: whether all of them are what was written.

Orbax notices a file that is torn or gone where it reads it, and takes flipped bits for numbers.
"""

import hashlib
import json
import os
from pathlib import Path

from mnet_jax.files import open_regular, read_file, replace_file, sync_directory
from mnet_jax.validation import one_line

CHECKPOINTS = "checkpoints"  # the directory of all of them, in a run's
FILE_NAME = "manifest.json"
# Not in it: itself, and what Orbax writes when it commits a checkpoint, of which nothing is used.
OTHERS = (FILE_NAME, "_CHECKPOINT_METADATA", "commit_success.txt")


class DamageError(ValueError):
    """A directory that is not what its manifest says; the message is one line saying where."""


def write(directory: Path, step: int) -> None:
    """Puts a directory's files on disk, and then their SHA-256 digests into its manifest.

    Args:
      directory: finished.
      step: whose it is, so that it cannot be taken for another's.

    Raises:
      OSError: it cannot be written.
    """
    digests = {str(file.relative_to(directory)): _digest(file) for file in _files(directory)}
    for inner, _, _ in os.walk(directory):
        sync_directory(Path(inner))
    text = json.dumps({"step": step, "sha256": digests}, sort_keys=True)
    replace_file(directory / FILE_NAME, text.encode())


def verify(directory: Path, step: int) -> None:
    """Reads every file again.

    Raises:
      DamageError: the manifest or a file is missing, is not as it was, or is another step's; or
        something is no file.
    """
    require_files(directory)
    try:
        found = json.loads(read_file(directory / FILE_NAME))
        of, digests = found["step"], dict(found["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(f"no {FILE_NAME} that can be read, {one_line(error)}") from error
    if of != step:
        raise DamageError(f"it is the checkpoint of step {of}")
    for name, digest in digests.items():
        file = directory / name
        if not file.is_file():
            raise DamageError(f"{name} is missing")
        if _digest(file) != digest:
            raise DamageError(f"{name} has changed since it was written")
    unknown = {str(file.relative_to(directory)) for file in _files(directory)} - digests.keys()
    if unknown:
        raise DamageError(f"{min(unknown)} has come to it since it was written")


def require_files(directory: Path) -> None:
    """Looks for what cannot be read: Orbax would open a FIFO, and wait for a writer.

    Raises:
      DamageError: it is no directory, or holds what is neither a file nor a directory.
    """
    if not directory.is_dir():
        raise DamageError("it is no directory")
    for path in directory.rglob("*"):
        if not path.is_file() and not path.is_dir():
            raise DamageError(f"{path.relative_to(directory)} is no file that can be read")


def _files(directory: Path) -> list[Path]:
    """All files that a manifest is about, in an order."""
    others = {directory / name for name in OTHERS}
    return sorted(p for p in directory.rglob("*") if p.is_file() and p not in others)


def _digest(file: Path) -> str:
    """Of a file's content, which is on disk when this returns."""
    with open(open_regular(file), "rb") as opened:
        os.fsync(opened.fileno())
        return hashlib.file_digest(opened, "sha256").hexdigest()
