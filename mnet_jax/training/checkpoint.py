"""Orbax checkpoints of all that a run needs to go on: state, data position, config and history."""

import contextlib
import errno
import itertools
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mnet_jax import serialization
from mnet_jax.config import RunConfig
from mnet_jax.result import EpochRecord
from mnet_jax.training import manifest
from mnet_jax.training.agreement import any_says, require_alike
from mnet_jax.training.divergence import NonFiniteStateError
from mnet_jax.training.epoch import EpochProgress
from mnet_jax.training.matching import (
    CheckpointError,
    require_same_config,
    require_same_structure,
)
from mnet_jax.training.memory import is_exhaustion
from mnet_jax.training.position import PositionHandler, RestorePosition, SavePosition
from mnet_jax.training.preservation import Preservation
from mnet_jax.training.step import TrainState, all_finite
from mnet_jax.validation import one_line, require

SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO)
DAMAGED = "damaged-"  # and its step: the name of a checkpoint that was set aside
_is_finite = jax.jit(all_finite)


class SavingError(OSError):
    """A checkpoint that cannot be written; the message is one line saying why."""


class Restored(NamedTuple):
    """A run as it was when it was saved.

    Attributes:
      state: after the last epoch, and what there is of the next one.
      history: the epochs.
      seconds: wall time up to then.
      progress: of the next epoch.
    """

    state: TrainState
    history: tuple[EpochRecord, ...]
    seconds: float
    progress: EpochProgress = EpochProgress()


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """The steps of the checkpoints in the directory that a process calls the run's."""

    checkpoints: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Past:
    """What is saved of a run beside its state and its config; see `Restored`."""

    history: tuple[EpochRecord, ...]
    seconds: float
    begun: EpochProgress  # the name that stored checkpoints have

    def __post_init__(self) -> None:
        require(0 <= self.seconds < math.inf, "seconds", self.seconds, "0 or more")


class Checkpoints:
    """The checkpoints of one run in one directory, a step each.

    The last two are kept, and of those behind a whole epoch the last and the best.

    Use as a context manager: saving is asynchronous, and leaving waits for it and raises what it
    raised.
    """

    def __init__(self, directory: Path, config: RunConfig) -> None:
        """Opens or makes the directory.

        Args:
          directory: where.
          config: of the run; what is saved under another is refused.
        """
        self._config = config
        self._directory = directory
        self._kept = Preservation()
        self._saving = 0
        if os.path.lexists(directory) and not directory.is_dir():
            raise CheckpointError(f"{directory}: cannot keep checkpoints here, it is no directory")
        try:
            self._manager = ocp.CheckpointManager(
                directory.absolute(),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._kept,
                    lightweight_initialize=True,  # one damaged step must not hide the others
                    create=True,
                    cleanup_tmp_directories=True,  # what killed saves have left
                    async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                ),
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "data": PositionHandler(),
                    "run": ocp.JsonCheckpointHandler(),
                },
            )
        except OSError as error:
            raise CheckpointError(f"{directory}: cannot keep checkpoints here, {error}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._saving_errors():
            self._manager.wait_until_finished()
            self._manager.close()

    def save(
        self,
        state: TrainState,
        batches: Iterator[Any],
        history: tuple[EpochRecord, ...],
        seconds: float,
        progress: EpochProgress = EpochProgress(),
    ) -> None:
        """Saves the run in the background, if there is no checkpoint of this step.

        One that was saved before its epoch's validation stays as it is: the validation is done
        again by whoever goes on from it.

        Args:
          state: one copy of it, as `Placement.get` gives.
          batches: the grain iterator, after the last batch that the state has seen.
          history: the epochs so far.
          seconds: wall time of the run so far.
          progress: of the next epoch.

        Raises:
          NonFiniteStateError: the state is not finite; nothing is written.
          SavingError: this checkpoint cannot be written, or the one before could not.
        """
        step = int(state.step)
        past = serialization.to_plain(_Past(history=history, seconds=seconds, begun=progress))
        run = {"config": serialization.to_plain(self._config), **past}
        with self._saving_errors():
            self._manager.wait_until_finished()
            self._kept.accuracies = _accuracies(history)
            if step == 0 or step in self._manager.all_steps():
                return
            if not _is_finite((state.params, state.batch_stats, state.opt_state, state.average)):
                raise NonFiniteStateError(step, "the state is not finite and is not saved")
            self._saving = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=SavePosition(batches),
                    run=ocp.args.JsonSave(run),
                ),
            )

    def restore(self, first: TrainState, batches: Iterator[Any]) -> Restored:
        """What was saved last, or the run's start if there is no checkpoint.

        A damaged checkpoint is set aside, with a warning, and the one before it is taken.

        Args:
          first: the run's first state; it gives shapes and placement.
          batches: a grain iterator as at the start; it is moved to where the saved one stood.

        Raises:
          CheckpointError: the checkpoint is another run's or another network's, or all are damaged.
          DisagreementError: processes of the run see different checkpoints.
        """
        require_alike(_Seen(checkpoints=tuple(sorted(self._manager.all_steps()))))
        for path in sorted(self._directory.iterdir()):
            if path.name.isdecimal() and not path.is_dir():  # Orbax passes over it, and then fails
                self._set_aside(int(path.name), "it is no directory")
        while steps := self._manager.all_steps():
            step = max(steps)
            try:
                restored = self._restore(step, first)
                position = ocp.args.Composite(data=RestorePosition(batches))
                self._manager.restore(step, args=position)
            except CheckpointError:
                raise
            except Exception as error:  # Orbax raises whatever a torn file leads it to
                if is_exhaustion(error):
                    raise
                self._set_aside(step, one_line(error) or type(error).__name__)
                self._reload()
            else:
                self._kept.accuracies = _accuracies(restored.history)
                return restored
        if any(path.is_dir() for path in self._directory.glob(f"{DAMAGED}*")):
            raise CheckpointError(
                f"{self._directory}: all its checkpoints are damaged; once they are taken away, "
                "the run begins again"
            )
        return Restored(first, (), 0.0)

    def go_back(self, step: int, first: TrainState) -> Restored:
        """What was saved at a step, while the data stay where they are; deletes what came later.

        Args:
          step: of a checkpoint, or 0 for the run's start.
          first: the run's first state.

        Raises:
          CheckpointError: the checkpoint is not there or damaged.
          SavingError: it could not be written.
        """
        with self._saving_errors():
            self._manager.wait_until_finished()
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)
        if not step:
            return Restored(first, (), 0.0)
        return self._required(step, first)

    def best(self, like: TrainState) -> TrainState | None:
        """The state behind the epoch with the best validation accuracy, of those kept.

        Args:
          like: a state of the same run.

        Returns:
          The state; None if no checkpoint is behind a whole epoch.

        Raises:
          CheckpointError: the checkpoint is damaged.
          SavingError: it could not be written.
        """
        with self._saving_errors():
            self._manager.wait_until_finished()
        step = self._kept.best(self._manager.all_steps())
        return None if step is None else self._required(step, like).state

    def _seal(self) -> None:
        """Gives the checkpoint its manifest; Orbax calls this before it gives it its name."""
        if jax.process_index() > 0:
            return
        unfinished = self._directory.glob(f"{self._saving}.*")
        manifest.write(next(unfinished, self._directory / str(self._saving)), self._saving)

    @contextlib.contextmanager
    def _saving_errors(self) -> Iterator[None]:
        """Turns whatever Orbax raises into one line."""
        try:
            yield
        except NonFiniteStateError:
            raise
        except Exception as error:
            raise SavingError(
                f"{self._directory}: cannot save a checkpoint, {_reason(error)}"
            ) from error

    def _set_aside(self, step: int, reason: str) -> None:
        """Takes a damaged checkpoint out of the way; what is there by that name already stays."""
        self._wait_for_all(f"found {step}")  # none of them is gone, which is no damage
        aside = self._directory / f"{DAMAGED}{step}"
        numbers = itertools.count(2)
        while os.path.lexists(aside):
            aside = aside.with_name(f"{DAMAGED}{step}-{next(numbers)}")
        warnings.warn(
            f"the checkpoint at step {step} is damaged and now in {aside}: {reason}", stacklevel=3
        )
        self._wait_for_all(f"named {step}")
        if jax.process_index() == 0:
            (self._directory / str(step)).rename(aside)
        self._wait_for_all(f"renamed {step}")

    def _reload(self) -> None:
        """Has Orbax look again which steps there are; it then reads the metadata of all."""
        left = [
            step for step in self._manager.all_steps() if (self._directory / str(step)).exists()
        ]
        for step in left:
            try:
                manifest.require_files(self._directory / str(step))
                self._manager.metadata(step)
            except Exception as error:
                if is_exhaustion(error):
                    raise
                self._set_aside(step, one_line(error) or type(error).__name__)
        self._manager.reload()

    def _wait_for_all(self, name: str) -> None:
        """Waits until every process of the run is here."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"{self._directory} {name}")

    def _verify(self, step: int) -> None:
        """Raises DamageError in all processes if one of them finds a checkpoint damaged."""
        damage = None
        try:
            manifest.verify(self._directory / str(step), step)
        except manifest.DamageError as error:
            damage = error
        if any_says(damage is not None):
            raise damage or manifest.DamageError("another process cannot read it")

    def _required(self, step: int, like: TrainState) -> Restored:
        """`_restore` where no other checkpoint will do: CheckpointError if it is damaged."""
        try:
            return self._restore(step, like)
        except CheckpointError:
            raise
        except Exception as error:
            if is_exhaustion(error):
                raise
            reason = one_line(error) or type(error).__name__
            raise CheckpointError(f"{self._directory}: step {step}: {reason}") from error

    def _restore(self, step: int, like: TrainState) -> Restored:
        """All but the data's position."""
        self._verify(step)
        run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
        if not isinstance(run, dict) or "config" not in run:
            raise manifest.DamageError("its run has no config")
        require_same_config(self._config, run.pop("config"), self._directory)
        try:
            past = serialization.from_plain(_Past, run)
        except ValueError as error:
            legal = ", ".join(field.name for field in fields(_Past))
            raise manifest.DamageError(f"its run is not one, legal: {legal}") from error
        shapes = self._manager.item_metadata(step).state.tree
        require_same_structure(like, shapes, self._directory / str(step))
        state = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        restored = self._manager.restore(step, args=ocp.args.Composite(state=state))
        return Restored(restored.state, past.history, past.seconds, past.begun)


def _reason(error: Exception) -> str:
    """Why something cannot be written: in the system's words, if Orbax has them among its own."""
    words = [os.strerror(code) for code in SYSTEM_ERRORS if os.strerror(code) in str(error)]
    return words[0] if words else one_line(error) or type(error).__name__


def _accuracies(history: tuple[EpochRecord, ...]) -> dict[int, float]:
    return {record.step: record.validation_accuracy for record in history}
