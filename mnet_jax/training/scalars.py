"""Scalars of a run over its steps: one JSON object a line, and TensorBoard's event files."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
from tensorboardX import SummaryWriter

from mnet_jax.files import replace_file

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
            and resumed from an earlier checkpoint, are removed.
        """
        self.path = directory / FILE_NAME
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        directory.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(self.path) if json.loads(line)["step"] <= from_step]
        replace_file(self.path, "".join(kept).encode())  # a kill leaves the one or the other
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


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a kill may have torn the last."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [line for line in file if line.endswith("\n")]
