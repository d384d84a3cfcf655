"""Saves, keeps and restores a run's checkpoints, with Orbax.

A checkpoint holds everything that the run needs to continue: the training state, the data position,
the config and the history.
"""

import contextlib
import errno
import itertools
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mnet_jax import serialization
from mnet_jax.config import RunConfig
from mnet_jax.training.agreement import any_process, require_equal
from mnet_jax.training.checkpoints import manifest
from mnet_jax.training.checkpoints.matching import (
    CheckpointError,
    require_same_config,
    require_same_structure,
)
from mnet_jax.training.checkpoints.position import PositionHandler, RestorePosition, SavePosition
from mnet_jax.training.epoch import EpochProgress
from mnet_jax.training.memory import is_exhaustion
from mnet_jax.training.monitoring import NonFiniteStateError
from mnet_jax.training.results import EpochRecord
from mnet_jax.training.step import TrainState, all_finite
from mnet_jax.validation import one_line, require


class SavingError(OSError):
    """A checkpoint cannot be written; the message is one line with the reason."""


class Restored(NamedTuple):
    """The state and the history of a run, restored from a checkpoint.

    Attributes:
      state: the training state at the checkpoint.
      history: the finished epochs.
      seconds: wall time of the run up to the checkpoint.
      progress: progress within the next epoch.
    """

    state: TrainState
    history: tuple[EpochRecord, ...]
    seconds: float
    progress: EpochProgress = EpochProgress()


@dataclass(frozen=True, kw_only=True)
class _Past:
    """The part of a checkpoint besides the state and the config; for the fields see `Restored`."""

    history: tuple[EpochRecord, ...]
    seconds: float
    begun: EpochProgress  # `progress`, by its name in stored checkpoints

    def __post_init__(self) -> None:
        require(0 <= self.seconds < math.inf, "seconds", self.seconds, "0 or more")


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """The steps of the checkpoints that a process sees in the run's directory."""

    checkpoints: tuple[int, ...]


_DAMAGED = "damaged-"  # prefix of the new name of a damaged checkpoint


_is_finite = jax.jit(all_finite)


class Checkpoints:
    """The checkpoints of one run in one directory, one for each saved step.

    The last two checkpoints are kept. Of the checkpoints at the end of an epoch, the last and the
    one with the best validation accuracy are kept too.

    Use this class as a context manager. Saving is asynchronous: leaving the context waits until all
    saves have ended, and raises their errors.
    """

    def __init__(self, directory: Path, config: RunConfig) -> None:
        """Opens the directory, and creates it if needed.

        Args:
          directory: the directory of the checkpoints.
          config: the run's config; checkpoints saved under another config are refused.

        Raises:
          CheckpointError: the directory cannot be created, or is a file.
        """
        self._config = config
        self._directory = directory
        self._kept = Preservation()
        self._saving = 0
        if os.path.lexists(directory) and not directory.is_dir():
            raise CheckpointError(f"{directory}: cannot keep checkpoints, it is not a directory")
        try:
            self._manager = ocp.CheckpointManager(
                directory.absolute(),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._kept,
                    lightweight_initialize=True,  # one damaged step must not hide the others
                    create=True,
                    cleanup_tmp_directories=True,  # left by killed saves
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
        """Saves the run in the background, unless this step has a checkpoint already.

        A checkpoint saved before its epoch's validation is not replaced afterwards; a run that
        resumes from this checkpoint repeats the validation.

        Args:
          state: one copy of the state, as `Placement.get` returns it.
          batches: the grain iterator, after the last batch that the state has seen.
          history: the epochs so far.
          seconds: wall time of the run so far.
          progress: progress within the next epoch.

        Raises:
          NonFiniteStateError: the state is not finite; nothing is written.
          SavingError: this checkpoint or the previous one cannot be written.
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
        """Restores the newest checkpoint, or returns the run's start if there is none.

        A damaged checkpoint is renamed with a warning, and the previous checkpoint is tried.

        Args:
          first: the run's initial state; it determines shapes and placement.
          batches: a grain iterator at its start; it is moved to the saved position.

        Raises:
          CheckpointError: a checkpoint belongs to another run or network, or all are damaged.
          DisagreementError: processes of the run see different checkpoints.
        """
        require_equal(_Seen(checkpoints=tuple(sorted(self._manager.all_steps()))))
        for path in sorted(self._directory.iterdir()):
            if path.name.isdecimal() and not path.is_dir():  # Orbax skips it, and fails later
                self._set_aside(int(path.name), "it is not a directory")
        while steps := self._manager.all_steps():
            step = max(steps)
            try:
                restored = self._restore(step, first)
                position = ocp.args.Composite(data=RestorePosition(batches))
                self._manager.restore(step, args=position)
            except CheckpointError:
                raise
            except Exception as error:  # Orbax raises many types for damaged files
                if is_exhaustion(error):
                    raise
                self._set_aside(step, _text_of(error))
                self._reload()
            else:
                self._kept.accuracies = _accuracies(restored.history)
                return restored
        if any(path.is_dir() for path in self._directory.glob(f"{_DAMAGED}*")):
            raise CheckpointError(
                f"{self._directory}: all its checkpoints are damaged; remove them to start the run "
                "from the beginning"
            )
        return Restored(first, (), 0.0)

    def go_back(self, step: int, first: TrainState) -> Restored:
        """Restores the state at a step and deletes later checkpoints.

        The position in the training data does not change.

        Args:
          step: the step of a checkpoint, or 0 for the run's start.
          first: the run's initial state.

        Raises:
          CheckpointError: the checkpoint is missing or damaged.
          SavingError: an earlier asynchronous save failed.
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
        """Restores the state with the best validation accuracy among the kept checkpoints.

        Args:
          like: a state of the same run.

        Returns:
          The state; None if no checkpoint was saved at the end of an epoch.

        Raises:
          CheckpointError: the checkpoint is damaged.
          SavingError: an earlier asynchronous save failed.
        """
        with self._saving_errors():
            self._manager.wait_until_finished()
        step = self._kept.best(self._manager.all_steps())
        return None if step is None else self._required(step, like).state

    def _seal(self) -> None:
        """Writes the manifest; Orbax calls this before it gives the checkpoint its final name."""
        if jax.process_index() > 0:
            return
        unfinished = self._directory.glob(f"{self._saving}.*")
        manifest.write(next(unfinished, self._directory / str(self._saving)), self._saving)

    @contextlib.contextmanager
    def _saving_errors(self) -> Iterator[None]:
        """Turns any error of Orbax into a SavingError of one line."""
        try:
            yield
        except NonFiniteStateError:
            raise
        except Exception as error:
            raise SavingError(
                f"{self._directory}: cannot save a checkpoint, {_reason(error)}"
            ) from error

    def _set_aside(self, step: int, reason: str) -> None:
        """Renames a damaged checkpoint, with a warning, to a name that is not in use."""
        self._wait_for_all(f"found {step}")  # all processes read it before the rename
        aside = self._directory / f"{_DAMAGED}{step}"
        numbers = itertools.count(2)
        while os.path.lexists(aside):
            aside = aside.with_name(f"{_DAMAGED}{step}-{next(numbers)}")
        warnings.warn(
            f"the checkpoint at step {step} is damaged and now in {aside}: {reason}", stacklevel=3
        )
        self._wait_for_all(f"named {step}")
        if jax.process_index() == 0:
            (self._directory / str(step)).rename(aside)
        self._wait_for_all(f"renamed {step}")

    def _reload(self) -> None:
        """Makes Orbax list the steps again; first renames checkpoints with unreadable metadata."""
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
                self._set_aside(step, _text_of(error))
        self._manager.reload()

    def _wait_for_all(self, name: str) -> None:
        """Blocks until every process of the run has called this method with the same `name`."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"{self._directory} {name}")

    def _verify(self, step: int) -> None:
        """Raises DamageError in all processes if one of them finds the checkpoint damaged."""
        damage = None
        try:
            manifest.verify(self._directory / str(step), step)
        except manifest.DamageError as error:
            damage = error
        if any_process(damage is not None):
            raise damage or manifest.DamageError("another process cannot read it")

    def _required(self, step: int, like: TrainState) -> Restored:
        """Calls `_restore`, but raises CheckpointError if the checkpoint is damaged."""
        try:
            return self._restore(step, like)
        except CheckpointError:
            raise
        except Exception as error:
            if is_exhaustion(error):
                raise
            raise CheckpointError(f"{self._directory}: step {step}: {_text_of(error)}") from error

    def _restore(self, step: int, like: TrainState) -> Restored:
        """Verifies a checkpoint and restores everything but the position in the training data."""
        self._verify(step)
        run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
        if not isinstance(run, dict) or "config" not in run:
            raise manifest.DamageError("its run has no config")
        require_same_config(self._config, run.pop("config"), self._directory)
        try:
            past = serialization.from_plain(_Past, run)
        except ValueError as error:
            legal = ", ".join(field.name for field in fields(_Past))
            raise manifest.DamageError(f"its run record is invalid, legal: {legal}") from error
        shapes = self._manager.item_metadata(step).state.tree
        require_same_structure(like, shapes, self._directory / str(step))
        state = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        restored = self._manager.restore(step, args=ocp.args.Composite(state=state))
        return Restored(restored.state, past.history, past.seconds, past.begun)


_LATEST = 2  # not one, as the last may turn out to be damaged


class Preservation:
    """An Orbax preservation policy for the checkpoints of a run.

    It keeps the last two checkpoints and, of those at the end of an epoch, the last and the best.
    A checkpoint within an epoch has no validation accuracy, and is never the best.

    Attributes:
      accuracies: validation accuracy by step, for the finished epochs.
    """

    def __init__(self) -> None:
        self.accuracies: dict[int, float] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> list[bool]:
        """Returns whether to keep each checkpoint; Orbax calls this."""
        del context
        steps = sorted(info.step for info in checkpoints)
        whole = [step for step in steps if step in self.accuracies]
        kept = {*steps[-_LATEST:], *whole[-1:], self.best(steps)}
        return [info.step in kept for info in checkpoints]

    def best(self, steps: Iterable[int]) -> int | None:
        """Returns the step, among `steps`, with the best validation accuracy.

        Of equally good steps the earliest is best. The result is None if no step ends an epoch.
        """
        whole = [step for step in sorted(steps) if step in self.accuracies]
        return max(whole, key=lambda step: self.accuracies[step], default=None)


def _accuracies(history: tuple[EpochRecord, ...]) -> dict[int, float]:
    return {record.step: record.validation_accuracy for record in history}


_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO)


def _reason(error: Exception) -> str:
    """Returns the text of the system's error in Orbax's message, else the whole message."""
    texts = [os.strerror(code) for code in _WRITE_ERRORS if os.strerror(code) in str(error)]
    return texts[0] if texts else _text_of(error)


def _text_of(error: Exception) -> str:
    return one_line(error) or type(error).__name__
