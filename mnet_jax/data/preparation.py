"""Prepares the sets of our own builders once and atomically; needs no writable data folder.

TFDS's data folder is `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`. A set is prepared in a scratch
folder next to its final place and then renamed. So a killed preparation leaves no incomplete set,
and if two processes prepare at the same time, the second one uses the set of the first.
"""

import contextlib
import io
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging as absl_logging

from mnet_jax.data.builders import ArraysBuilder
from mnet_jax.data.metadata import INFO, open_prepared
from mnet_jax.data.types import DataError, reason

_log = logging.getLogger(__name__)
SCRATCH = ".mnet_jax_preparing_"
_WRITE_ERRORS = (OSError, RuntimeError)  # ArrayRecord raises RuntimeError on a full disk
_STALE_SECONDS = 24 * 3600  # no preparation takes a day: an older folder is from a killed process


def data_root(directory: str | None = None) -> Path:
    """Returns TFDS's data folder: `directory`, `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`.

    TFDS reads `$TFDS_DATA_DIR` only when TFDS is imported; this function reads it at each call.
    """
    return Path(
        directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()


@contextlib.contextmanager
def prepared(make: Callable[[Path], ArraysBuilder]) -> Iterator[tfds.core.DatasetBuilder]:
    """Opens the set of the builder `make(data_dir)` for reading; prepares it first if needed.

    If the data folder is not writable, the set is prepared, with a warning, in a temporary folder
    that exists as long as the context. So a run on a read-only or full home takes some seconds
    longer, but does not fail.

    Raises:
      DataError: neither folder is writable, or a file that the builder reads is missing or damaged.
    """
    root = data_root()
    with contextlib.ExitStack() as stack:
        try:
            place = _place(make, root)
        except _WRITE_ERRORS as error:
            _log.warning(
                "%s cannot be written (%s): prepared in a temporary folder, for this run only; "
                "set TFDS_DATA_DIR to a writable folder",
                root,
                reason(error),
            )
            try:
                place = _place(make, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            except _WRITE_ERRORS as second:
                raise DataError(
                    f"cannot prepare data in {root} ({reason(error)}) nor in a temporary folder "
                    f"({reason(second)}); set TFDS_DATA_DIR to a writable folder"
                ) from second
        yield open_prepared(place)


def _place(make: Callable[[Path], ArraysBuilder], root: Path) -> Path:
    """Returns the folder of the prepared set under `root`; prepares the set if needed."""
    # A new builder reads its folder and fails if the folder is damaged. So it gets another root.
    elsewhere = root / f"{SCRATCH}nowhere"
    with _quiet():
        builder = make(elsewhere)
        place = root / Path(builder.data_path).relative_to(elsewhere)
    if _is_complete(place):
        return place
    builder.require_files()
    root.mkdir(parents=True, exist_ok=True)
    remove_stale(root)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=root) as scratch, _quiet():
        builder = make(Path(scratch))
        builder.download_and_prepare(file_format="array_record", download_dir=scratch)
        _rename(Path(builder.data_path), place)
    return place


def _rename(finished: Path, place: Path) -> None:
    """Moves the `finished` set to its `place`, unless a complete set appeared there first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        try:
            # A rename onto a folder that is not empty fails: it never mixes two sets.
            finished.rename(place)
            return
        except OSError:
            if _is_complete(place):
                return
            shutil.rmtree(place, ignore_errors=True)  # remains of a damaged set
    finished.rename(place)


def _is_complete(place: Path) -> bool:
    """Returns whether the first and last record of every split of the set can be read."""
    if not (place / INFO).is_file():
        return False
    try:
        builder = open_prepared(place)
        for split in builder.info.splits:
            # The length comes from the metadata; only reading opens the files.
            records = builder.as_data_source(split)
            records.__getitems__([0, len(records) - 1])
    except Exception:  # TFDS and ArrayRecord raise many types for damaged files; all mean "no"
        return False
    return bool(builder.info.splits)


def remove_stale(root: Path) -> None:
    """Removes the scratch folders that killed preparations left in `root`."""
    for path in root.glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses TFDS's progress bars and notices; the preparation takes only seconds."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)
