"""Preparing our own builders: once, atomically, and even where nothing can be written.

TFDS's data folder is `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`. A set is prepared in a scratch
folder beside its place and renamed into it. So a killed preparation leaves no half set, and of two
processes that prepare at once the second finds the first one's and takes that.
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
from mnet_jax.data.errors import DataError, reason
from mnet_jax.data.metadata import INFO, open_prepared

_log = logging.getLogger(__name__)
SCRATCH = ".mnet_jax_preparing_"
_WRITE_ERRORS = (OSError, RuntimeError)  # ArrayRecord's own, where the disk is full, is the latter
_STALE_SECONDS = 24 * 3600  # no preparation of ours takes a day: a killed process left it


def data_root(directory: str | None = None) -> Path:
    """TFDS's data folder: `directory`, `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`.

    TFDS reads the variable once, when it is imported; this reads it at each call.
    """
    return Path(
        directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()


@contextlib.contextmanager
def prepared(make: Callable[[Path], ArraysBuilder]) -> Iterator[tfds.core.DatasetBuilder]:
    """The prepared set of `make(data_dir)`, for reading; prepares it first where need be.

    Where the data folder cannot be written, a temporary one serves while the context is open and a
    warning says so: a run on a read-only or full home then costs seconds more, not its life.

    Raises:
      DataError: neither folder can be written, or the builder's own files are at fault.
    """
    root = data_root()
    with contextlib.ExitStack() as stack:
        try:
            place = _place(make, root)
        except _WRITE_ERRORS as error:
            _log.warning(
                "%s cannot be written (%s): prepared in a temporary folder, for this run only; "
                "set TFDS_DATA_DIR to a folder that can",
                root,
                reason(error),
            )
            try:
                place = _place(make, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            except _WRITE_ERRORS as second:
                raise DataError(
                    f"cannot prepare data in {root} ({reason(error)}) nor in a temporary folder "
                    f"({reason(second)}); set TFDS_DATA_DIR to a folder that can be written"
                ) from second
        yield open_prepared(place)


def _place(make: Callable[[Path], ArraysBuilder], root: Path) -> Path:
    """The folder of the prepared set under `root`, where it now is."""
    # A builder reads what is in its place and fails where that is damaged: ask one elsewhere.
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
    """Moves the `finished` set to its `place`, unless a complete one came to be there first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        try:
            # A rename onto a folder that is not empty fails: it never mixes two sets.
            finished.rename(place)
            return
        except OSError:
            if _is_complete(place):
                return
            shutil.rmtree(place, ignore_errors=True)  # remains of something else, unreadable
    finished.rename(place)


def _is_complete(place: Path) -> bool:
    """Whether every split of the set in `place` can be opened and read at both ends."""
    if not (place / INFO).is_file():
        return False
    try:
        builder = open_prepared(place)
        for split in builder.info.splits:
            # Their length comes from the metadata; only reading opens the files.
            records = builder.as_data_source(split)
            records.__getitems__([0, len(records) - 1])
    except Exception:  # TFDS and ArrayRecord raise many kinds for damaged files; all mean "no"
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
    """Keeps TFDS's progress bars and notices off the terminal of a preparation of seconds."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)
