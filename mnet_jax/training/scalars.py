"""Logs scalars by step: as JSON, one object a line, and as TensorBoard event files."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import jax
from tensorboardX import SummaryWriter

from mnet_jax.files import read_file, replace_file
from mnet_jax.validation import is_number, is_whole

FILE_NAME = "scalars.jsonl"


class Scalars:
    """Logs scalars into a directory; a resumed run removes the lines it is about to repeat.

    Use it as a context manager, which closes the files. If a run has several processes, only the
    first one writes.

    Attributes:
      path: the JSON lines, `{"step": 11, "train_loss": 1.5, ...}`.
    """

    def __init__(self, directory: Path, *, from_step: int) -> None:
        """Opens the files.

        Args:
          directory: the directory of the logs; created if missing.
          from_step: steps already taken. Lines of later steps are removed; they were written before
            the run was interrupted and resumed from an earlier checkpoint. Unreadable lines are
            removed too, with a warning.

        Raises:
          OSError: the files cannot be written, or something other than a file has their name.
        """
        self.path = directory / FILE_NAME
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        directory.mkdir(parents=True, exist_ok=True)
        kept = [line for step, line in _readable(self.path) if step <= from_step]
        replace_file(self.path, b"".join(kept))  # atomic: a kill leaves the old or the new file
        self._file = self.path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of one step, in this order."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writes:
            self._file.close()
            self._events.close()


def _readable(path: Path) -> list[tuple[int, bytes]]:
    """Returns the lines that `Scalars` wrote, with their steps; warns if there are others.

    A kill may have truncated the last line, and a power failure can leave NULs.
    """
    if not path.exists():
        return []
    lines = read_file(path).splitlines(keepends=True)
    steps = [_step_of(line) for line in lines]
    readable = [(step, line) for step, line in zip(steps, lines, strict=True) if step is not None]
    if dropped := len(lines) - len(readable):
        warnings.warn(
            f"{path}: {dropped} of {len(lines)} lines cannot be read and are dropped", stacklevel=3
        )
    return readable


def _step_of(line: bytes) -> int | None:
    """Returns the step of a line; None if `Scalars` did not write the line."""
    try:
        values = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(values, dict):
        return None
    step = values.get("step")
    return step if is_whole(step) and all(map(is_number, values.values())) else None
