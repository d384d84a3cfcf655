"""The manifest of a checkpoint: a digest of each of its files, to detect changes.

Orbax notices truncated or missing files when it reads them, but not flipped bits.
"""

import hashlib
import json
import os
from pathlib import Path

from mnet_jax.files import open_regular, read_file, replace_file, sync_directory
from mnet_jax.validation import one_line

CHECKPOINTS = "checkpoints"  # subdirectory of a run's directory
FILE_NAME = "manifest.json"
# Files that a manifest does not list: the manifest, and those that Orbax writes when it commits a
# checkpoint. The latter are never read here.
OTHERS = (FILE_NAME, "_CHECKPOINT_METADATA", "commit_success.txt")


class DamageError(ValueError):
    """A directory differs from its manifest; the message is one line that says where."""


def write(directory: Path, step: int) -> None:
    """Syncs a directory's files to disk, then writes their SHA-256 digests into its manifest.

    Args:
      directory: the finished checkpoint.
      step: the checkpoint's step, so that `verify` detects a checkpoint of another step.

    Raises:
      OSError: the manifest cannot be written.
    """
    digests = {str(file.relative_to(directory)): _digest(file) for file in _files(directory)}
    for inner, _, _ in os.walk(directory):
        sync_directory(Path(inner))
    text = json.dumps({"step": step, "sha256": digests}, sort_keys=True)
    replace_file(directory / FILE_NAME, text.encode())


def verify(directory: Path, step: int) -> None:
    """Reads every file and compares it with the manifest.

    Raises:
      DamageError: the manifest or a file is missing, has changed, or belongs to another step, or an
        entry is neither a file nor a directory.
    """
    require_files(directory)
    try:
        found = json.loads(read_file(directory / FILE_NAME))
        of, digests = found["step"], dict(found["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(f"its {FILE_NAME} cannot be read, {one_line(error)}") from error
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
        raise DamageError(f"{min(unknown)} was added after it was written")


def require_files(directory: Path) -> None:
    """Checks that a checkpoint has no special files; Orbax would block while opening a FIFO.

    Raises:
      DamageError: `directory` is not a directory, or contains something other than files and
        directories.
    """
    if not directory.is_dir():
        raise DamageError("it is not a directory")
    for path in directory.rglob("*"):
        if not path.is_file() and not path.is_dir():
            raise DamageError(f"{path.relative_to(directory)} is not a readable file")


def _files(directory: Path) -> list[Path]:
    """Returns all files that belong in a manifest, sorted."""
    others = {directory / name for name in OTHERS}
    return sorted(p for p in directory.rglob("*") if p.is_file() and p not in others)


def _digest(file: Path) -> str:
    """Syncs a file to disk and returns the digest of its content."""
    with open(open_regular(file), "rb") as opened:
        os.fsync(opened.fileno())
        return hashlib.file_digest(opened, "sha256").hexdigest()
