"""Where the training batches stand, in a checkpoint: the same on every process, so written once.

Grain's own handler writes a file for each process and wants as many to read them. Here a process
reads its share of each batch of the run, and all stand at the same batch; a run that was saved by
two processes is gone on with by one.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from mnet_jax.files import read_file
from mnet_jax.training.manifest import DamageError
from mnet_jax.validation import is_whole

FILE_NAME = "process_0-of-1.json"  # Grain's, of a run in one process


class PositionHandler(ocp.CheckpointHandler):
    """Orbax's handler of an iterator of Grain's."""

    def save(self, directory: epath.Path, args: "SavePosition") -> None:
        """Writes the position, if this is the first process."""
        if jax.process_index() == 0:
            state = json.dumps(args.batches.get_state(), indent=4)
            (directory / FILE_NAME).write_text(state)

    def restore(self, directory: epath.Path, args: "RestorePosition") -> Iterator[Any]:
        """Moves the iterator to the position that was saved.

        Raises:
          DamageError: it is none of this iterator's.
        """
        try:
            state = json.loads(read_file(Path(directory) / FILE_NAME))
        except (OSError, ValueError, RecursionError) as error:
            raise DamageError("its data position cannot be read") from error
        names = args.batches.get_state().keys()
        is_position = (
            isinstance(state, dict)
            and state.keys() == names
            and all(is_whole(count) and count >= 0 for count in state.values())
        )
        if not is_position:
            legal = f"{', '.join(names)}: a whole number, 0 or more"
            raise DamageError(f"its data position is {state}, legal: {legal}")
        try:
            args.batches.set_state(state)
        except IndexError as error:
            raise DamageError(f"its data position is {state}, behind the last batch") from error
        return args.batches

    def metadata(self, directory: epath.Path) -> None:
        """There is none."""

    def finalize(self, directory: epath.Path) -> None:
        """All is written."""


@ocp.args.register_with_handler(PositionHandler, for_save=True)
@dataclass
class SavePosition(ocp.args.CheckpointArgs):
    """An iterator of Grain's whose position is to be saved."""

    batches: Any


@ocp.args.register_with_handler(PositionHandler, for_restore=True)
@dataclass
class RestorePosition(ocp.args.CheckpointArgs):
    """An iterator of Grain's that is to be moved."""

    batches: Any
