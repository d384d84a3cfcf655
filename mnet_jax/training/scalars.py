"""Scalars of a run over its steps: one JSON object a line, and TensorBoard's event files."""

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
    """Writes scalars under a directory; a resumed run drops what it is about to repeat.

    A context manager, which closes the files. Of a run's several processes the first one writes.

    Attributes:
      path: the JSON lines, `{"step": 11, "train_loss": 1.5, ...}`.
    """

    def __init__(self, directory: Path, *, from_step: int) -> None:
        """Opens the files.

        Args:
          directory: where; made if missing.
          from_step: steps already taken. Lines of later steps, written before a run was cut off
            and resumed from an earlier checkpoint, are removed. Lines that cannot be read are
            too, with a warning.

        Raises:
          OSError: they cannot be written, or there is something that is no file.
        """
        self.path = directory / FILE_NAME
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        directory.mkdir(parents=True, exist_ok=True)
        kept = [line for step, line in _readable(self.path) if step <= from_step]
        replace_file(self.path, b"".join(kept))  # a kill leaves the one or the other
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
    """The lines that `Scalars` wrote, each with its step, and a warning where there are others.

    A kill may have torn the last one, and a power cut leaves NULs.
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
    """The step of a line; None if it is none of ours."""
    try:
        values = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(values, dict):
        return None
    step = values.get("step")
    return step if is_whole(step) and all(map(is_number, values.values())) else None
