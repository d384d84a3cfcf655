"""One epoch of training: its progress, the check of its losses, and its time."""

import time
from collections import deque
from dataclasses import dataclass

import jax

from mnet_jax.training.monitoring import (
    MOST_SKIPPED,
    WINDOW,
    DivergenceError,
    DivergencePolicy,
    NonFiniteError,
    SpikeError,
)


@dataclass(frozen=True, kw_only=True)
class EpochProgress:
    """Progress within an epoch: everything needed to continue it exactly.

    Attributes:
      losses: training loss of each step whose update was applied.
      accuracies: training accuracy of the same steps, 0 to 1.
      skipped: step numbers of the skipped updates; steps are counted from 1 over the whole run.
      rolled_back: step numbers at which training went back to the start of this epoch.
      recent: the last losses, earlier epochs included; empty if loss spikes are not checked.
      in_row: number of updates skipped since the last update that was applied.
      seconds: wall time of the steps so far.
      images_per_second: training speed so far.
    """

    losses: tuple[float, ...] = ()
    accuracies: tuple[float, ...] = ()
    skipped: tuple[int, ...] = ()
    rolled_back: tuple[int, ...] = ()
    recent: tuple[float, ...] = ()
    in_row: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0

    @property
    def steps(self) -> int:
        """Number of steps done."""
        return len(self.losses) + len(self.skipped)

    @property
    def next(self) -> "EpochProgress":
        """Progress at the start of the next epoch."""
        return EpochProgress(recent=self.recent, in_row=self.in_row)


class LossMonitor:
    """Checks the loss of each step for divergence.

    Unless `DivergencePolicy.checks_every_step` is true, the metrics of a step are read while the
    next step runs, so that the device does not wait.
    """

    def __init__(
        self, divergence: DivergencePolicy, steps_before: int, progress: EpochProgress
    ) -> None:
        self._divergence = divergence
        self._steps_before = steps_before
        self._progress = progress
        self._losses, self._accuracies = list(progress.losses), list(progress.accuracies)
        self._skipped, self._in_row = list(progress.skipped), progress.in_row
        self._recent = deque(progress.recent, maxlen=WINDOW)
        self._pending: dict[str, jax.Array] | None = None

    @property
    def limit(self) -> float:
        """The limit above which the next step's loss is a spike."""
        return self._divergence.limit([*self._recent])

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Stores a step's metrics and checks the metrics of the previous step.

        Raises:
          DivergenceError: the previous step has diverged, and the policy does not skip it. If
            `DivergencePolicy.checks_every_step` is true, the error can also be this step's.
        """
        self.settle()
        self._pending = metrics
        if self._divergence.checks_every_step:
            self.settle()

    def settle(self) -> None:
        """Waits for the last step's metrics and checks them; raises as `add` does."""
        if self._pending is None:
            return
        loss, accuracy = float(self._pending["loss"]), float(self._pending["accuracy"])
        finite = bool(self._pending["finite"])
        self._pending = None
        error = self._error(loss, finite)
        if error is None:
            self._losses.append(loss)
            self._accuracies.append(accuracy)
            self._in_row = 0
            if self._divergence.spike_factor:
                self._recent.append(loss)
        elif self._divergence.on_divergence == "skip" and self._in_row < MOST_SKIPPED:
            self._skipped.append(error.step)
            self._in_row += 1
        else:
            raise error

    def progress(self, seconds: float, images_per_second: float) -> EpochProgress:
        """Returns the progress of the epoch; call `settle` first."""
        return EpochProgress(
            losses=tuple(self._losses),
            accuracies=tuple(self._accuracies),
            skipped=tuple(self._skipped),
            rolled_back=self._progress.rolled_back,
            recent=tuple(self._recent),
            in_row=self._in_row,
            seconds=seconds,
            images_per_second=images_per_second,
        )

    def _error(self, loss: float, finite: bool) -> DivergenceError | None:
        """Returns the error of a step that has diverged, else None."""
        step = self._steps_before + len(self._losses) + len(self._skipped) + 1
        after = f", after {self._in_row} skipped ones," if self._in_row else ","
        if not finite:
            return NonFiniteError(
                step, f"loss {loss:g}{after} loss or gradient is not finite: the run stops"
            )
        if loss > self.limit:
            factor = self._divergence.spike_factor
            return SpikeError(
                step,
                f"loss {loss:g}{after} more than {factor:g} times earlier losses: the run stops",
            )
        return None


class Clock:
    """Measures the seconds and images per second of an epoch.

    The rate excludes the first step if there are others, because the first step may compile.
    """

    def __init__(self, batch_size: int, progress: EpochProgress) -> None:
        self.seconds = progress.seconds
        self.rate = progress.images_per_second
        self._before = progress.seconds
        self._batch_size = batch_size
        self._start = time.perf_counter()
        self._after_first: float | None = None
        self._steps = 0

    def tick(self) -> None:
        """Counts a step."""
        self._steps += 1
        if self._after_first is None:
            self._after_first = time.perf_counter()
        self.stop()

    def stop(self) -> None:
        """Updates `seconds` and `rate` to the present time."""
        if not self._steps:
            return
        now = time.perf_counter()
        self.seconds = self._before + now - self._start
        counted, since = self._steps - 1, self._after_first
        if counted < 1 or since is None:
            counted, since = self._steps, self._start
        self.rate = counted * self._batch_size / max(now - since, 1e-9)
