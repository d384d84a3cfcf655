"""The position in the training batches, saved in a checkpoint once for all processes.

Grain's own handler writes a file for each process and requires the same number of processes to read
the files. Here each process reads its share of each batch, and all processes are at the same batch.
So a run that was saved by two processes can be resumed by one process.
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
from mnet_jax.training.checkpoints.manifest import DamageError
from mnet_jax.validation import is_whole

FILE_NAME = "process_0-of-1.json"  # Grain's name for a run in one process


class PositionHandler(ocp.CheckpointHandler):
    """An Orbax handler for a Grain iterator."""

    def save(self, directory: epath.Path, args: "SavePosition") -> None:
        """Writes the position, in the first process only."""
        if jax.process_index() == 0:
            state = json.dumps(args.batches.get_state(), indent=4)
            (directory / FILE_NAME).write_text(state)

    def restore(self, directory: epath.Path, args: "RestorePosition") -> Iterator[Any]:
        """Moves the iterator to the saved position.

        Raises:
          DamageError: the saved position is unreadable or not valid for this iterator.
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
            raise DamageError(f"its data position is {state}, after the last batch") from error
        return args.batches

    def metadata(self, directory: epath.Path) -> None:
        """Returns nothing; there is no metadata."""

    def finalize(self, directory: epath.Path) -> None:
        """Does nothing; `save` has written everything."""


@ocp.args.register_with_handler(PositionHandler, for_save=True)
@dataclass
class SavePosition(ocp.args.CheckpointArgs):
    """A Grain iterator whose position is to be saved."""

    batches: Any


@ocp.args.register_with_handler(PositionHandler, for_restore=True)
@dataclass
class RestorePosition(ocp.args.CheckpointArgs):
    """A Grain iterator that is to be moved to the saved position."""

    batches: Any
