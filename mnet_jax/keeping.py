"""What a run leaves in its directory: checkpoints, scalars and a model, while it goes on."""

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
from mnet_jax.progress import ProgressCallback
from mnet_jax.result import EpochRecord
from mnet_jax.training.agreement import any_says
from mnet_jax.training.checkpoint import Checkpoints
from mnet_jax.training.epoch import EpochProgress
from mnet_jax.training.loop import Callbacks, History, Loop
from mnet_jax.training.scalars import Scalars
from mnet_jax.training.step import TrainState
from mnet_jax.training.stopping import Stop
from mnet_jax.validation import one_line

LOCK = "run.lock"
# What a file system says that has no locks, or whose server does not pass them on.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class DirectoryInUseError(ValueError):
    """A directory in which another run is at work; the message is one line saying whose."""


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """While no other run, of whatever process or machine, is at work in a directory.

    The first of a run's processes holds the lock `run.lock`, which ends with it. Whoever only reads
    what a run has left needs none. Where the file system has no locks, there is a warning.

    Raises:
      DirectoryInUseError: another run is; all processes of this one raise it.
      OSError: the lock cannot be made.
    """
    with contextlib.ExitStack() as held:
        refusal = _taken(directory, held) if jax.process_index() == 0 else None
        if any_says(refusal is not None):
            raise refusal or DirectoryInUseError(f"run: {directory}: another run is at work there")
        yield


def _taken(directory: Path, held: contextlib.ExitStack) -> DirectoryInUseError | None:
    """Takes a directory's lock until `held` is closed; the refusal if another has it."""
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
        warnings.warn(f"{directory}: no lock can be had, so let no other run use it", stacklevel=4)
        return None
    with contextlib.suppress(OSError):  # the lock holds on a full disk too
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {platform.node()}\n".encode())
    return None


class Timer:
    """Says when an interval has passed since it last said so, to all processes at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.perf_counter()

    def passed(self) -> bool:
        """Whether it has; then the next interval begins."""
        now = time.perf_counter()
        if not any_says(now - self._last >= self.seconds):
            return False
        self._last = now
        return True


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """What a run leaves in its directory while it goes on.

    Attributes:
      loop: that it follows.
      batches: the data, whose position is saved with the state.
      begin: makes the state before the first step, by which checkpoints are read.
      checkpoints, log: where things go.
      keep_model: keeps the variables that are evaluated.
      due: whether it is time to save.
      start: when the run would have begun if it had not been cut off, by `perf_counter`.
    """

    loop: Loop
    batches: Any
    begin: Callable[[], TrainState]
    checkpoints: Checkpoints
    log: Scalars
    keep_model: Callable[[Mapping[str, Any]], None]
    due: Timer
    start: float

    def callbacks(self, report: ProgressCallback, stop: Stop) -> Callbacks:
        """What the loop calls."""
        return Callbacks(
            report=report,
            on_epoch=self.on_epoch,
            save=self.save,
            due=lambda: self.due.seconds > 0 and self.due.passed(),
            go_back=self.go_back,
            stop=stop,
        )

    def save(self, state: TrainState, history: History, progress: EpochProgress) -> None:
        """Saves the run, within an epoch or behind it."""
        elapsed, state = time.perf_counter() - self.start, self.loop.placement.get(state)
        self.checkpoints.save(state, self.batches, history, elapsed, progress)

    def on_epoch(self, state: TrainState, history: History, progress: EpochProgress) -> None:
        """Writes an epoch's scalars, and if it is time or the last one all the rest."""
        self.log.write(history[-1].step, _scalars_of(history[-1]))
        is_over = len(history) == self.loop.epochs
        if self.due.passed() or is_over or self.loop.divergence.on_divergence == "rollback":
            self.save(state, history, progress)
            self.keep_model(self.loop.placement.get(state.evaluated))

    def go_back(self, step: int) -> tuple[TrainState, EpochProgress]:
        """What was saved behind that step, an epoch's last."""
        state, _, _, progress = self.checkpoints.go_back(step, self.begin())
        if progress.steps:  # it was saved before the epoch's validation
            progress = progress.next
        return self.loop.placement.put_state(state), progress


def model_keeper(
    config: RunConfig, dataset: data.Dataset, directory: Path
) -> Callable[[Mapping[str, Any]], None]:
    """A function that keeps the evaluated weights as a model that loads by itself."""
    model = models.MobileNet(spec=config.spec)
    photographs = dataset.test.shape is None
    view = models.View(
        resolution=config.data.resolution, photographs=photographs, scaling=config.data.scaling
    )

    def keep(variables: Mapping[str, Any]) -> None:
        if jax.process_index() > 0:
            return  # the first of several processes keeps it
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
