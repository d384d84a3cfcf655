"""The files that a run writes while it trains: checkpoints, scalars and a model."""

import contextlib
import errno
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mnet_jax import data, models
from mnet_jax.config import RunConfig
from mnet_jax.files import locked, make_directory, read_file
from mnet_jax.training.agreement import any_process
from mnet_jax.training.checkpoints.checkpoint import Checkpoints
from mnet_jax.training.epoch import EpochProgress
from mnet_jax.training.loop import Callbacks, History, Loop
from mnet_jax.training.monitoring import Scalars
from mnet_jax.training.results import EpochRecord, ProgressCallback
from mnet_jax.training.step import TrainState
from mnet_jax.training.stopping import Stop
from mnet_jax.validation import one_line

LOCK = "run.lock"
# Errors of file systems that do not support locks.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class DirectoryInUseError(ValueError):
    """Another run is using the directory; the message is one line that names its process."""


@contextlib.contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Locks a directory, so that no other run on any machine uses it at the same time.

    The first of a run's processes holds the lock `run.lock` until the context ends. Reading a run's
    files needs no lock. If the file system does not support locks, there is a warning.

    Raises:
      DirectoryInUseError: another run uses the directory; all processes of this run raise the
        error.
      OSError: the lock file cannot be made.
    """
    with contextlib.ExitStack() as held:
        refusal = _taken(directory, held) if jax.process_index() == 0 else None
        if any_process(refusal is not None):
            raise refusal or DirectoryInUseError(f"run: {directory}: another run is at work there")
        yield


def _taken(directory: Path, held: contextlib.ExitStack) -> DirectoryInUseError | None:
    """Locks a directory until `held` is closed; returns the error if another run holds the lock."""
    path = directory / LOCK
    make_directory(directory)
    try:
        file = held.enter_context(locked(path, wait=False))
    except BlockingIOError:
        holder = one_line(read_file(path).decode(errors="replace")) or "another process"
        return DirectoryInUseError(
            f"run: got {directory}, where {holder} trains, legal: another directory, or to wait"
        )
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
            raise
        warnings.warn(f"{directory}: cannot be locked, so let no other run use it", stacklevel=4)
        return None
    with contextlib.suppress(OSError):  # a full disk does not affect the lock
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {platform.node()}\n".encode())
    return None


class Timer:
    """A timer for a repeated interval; all processes of a run get the same answer."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.perf_counter()

    def passed(self) -> bool:
        """Returns whether the interval is over; if so, starts the next one. A collective call."""
        now = time.perf_counter()
        if not any_process(now - self._last >= self.seconds):
            return False
        self._last = now
        return True


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """Keeps a run's files up to date while it trains.

    Attributes:
      loop: the training loop.
      batches: the training batches, whose position is saved with the state.
      begin: makes the state before the first step; checkpoints are restored into its structure.
      checkpoints: saves the state.
      log: writes the scalars.
      keep_model: writes variables (`TrainState.evaluated`) as a model.
      save_timer: the timer for checkpoints.
      start: the time, by `perf_counter`, at which the run would have started without interruptions.
    """

    loop: Loop
    batches: Any
    begin: Callable[[], TrainState]
    checkpoints: Checkpoints
    log: Scalars
    keep_model: Callable[[Mapping[str, Any]], None]
    save_timer: Timer
    start: float

    def callbacks(self, report: ProgressCallback, stop: Stop) -> Callbacks:
        """Returns the functions for the loop to call."""
        return Callbacks(
            report=report,
            on_epoch=self.on_epoch,
            save=self.save,
            is_save_due=lambda: self.save_timer.seconds > 0 and self.save_timer.passed(),
            go_back=self.go_back,
            stop=stop,
        )

    def save(self, state: TrainState, history: History, progress: EpochProgress) -> None:
        """Saves a checkpoint of the run, within or after an epoch."""
        elapsed, state = time.perf_counter() - self.start, self.loop.placement.get(state)
        self.checkpoints.save(state, self.batches, history, elapsed, progress)

    def on_epoch(self, state: TrainState, history: History, progress: EpochProgress) -> None:
        """Writes an epoch's scalars, and a checkpoint and the model if they are due.

        Checkpoint and model are due when the timer's interval is over, and after the last epoch. If
        the reaction to divergence is a rollback, they are due after every epoch.
        """
        self.log.write(history[-1].step, _scalars_of(history[-1]))
        is_over = len(history) == self.loop.epochs
        if self.save_timer.passed() or is_over or self.loop.divergence.on_divergence == "rollback":
            self.save(state, history, progress)
            self.keep_model(self.loop.placement.get(state.evaluated))

    def go_back(self, step: int) -> tuple[TrainState, EpochProgress]:
        """Restores the state and progress that were saved at the end of an epoch."""
        state, _, _, progress = self.checkpoints.go_back(step, self.begin())
        if progress.steps:  # saved before the epoch's validation
            progress = progress.next
        return self.loop.placement.put_state(state), progress


def model_keeper(
    config: RunConfig,
    dataset: data.Dataset,
    directory: Path,
    model: models.MobileNet | None = None,
) -> Callable[[Mapping[str, Any]], None]:
    """Returns a function that writes variables (`TrainState.evaluated`) as a saved model.

    Args:
      config: the config of the run.
      dataset: the data set of the run; the model is saved with its class names.
      directory: the run's directory.
      model: the network; None for the one that the run trains.
    """
    if model is None:
        setting = config.quantization.setting if config.quantization else None
        model = models.MobileNet(spec=config.spec, quantization=setting)
    view = config.data.view(photographs=dataset.test.shape is None)

    def keep(variables: Mapping[str, Any]) -> None:
        if jax.process_index() > 0:
            return  # only the first process writes it
        models.save(
            directory / models.FILE_NAME,
            model,
            variables,
            class_names=dataset.class_names,
            view=view,
        )

    return keep


def _scalars_of(record: EpochRecord) -> dict[str, float]:
    names = (
        "epoch", "learning_rate", "train_loss", "train_accuracy",
        "validation_loss", "validation_accuracy", "images_per_second", "dead_share",
    )  # fmt: skip
    return {name: getattr(record, name) for name in names}
