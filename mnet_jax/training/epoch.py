"""An epoch under way: what of it is kept, its losses and its time."""

import time
from collections import deque
from dataclasses import dataclass

import jax

from mnet_jax.training.divergence import (
    MOST_SKIPPED,
    WINDOW,
    DivergenceError,
    Guard,
    NonFiniteError,
    SpikeError,
)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """How far an epoch is, to the last bit of what comes of it; at its start with what it inherits.

    Attributes:
      losses: of its steps, but for those that were skipped.
      accuracies: the same.
      skipped: steps of the run whose updates were not applied.
      rolled_back: steps of the run that led back to the epoch's start.
      recent: the last losses, of the epochs before too; empty where no spikes are watched.
      in_row: updates that were skipped since the last one that was not.
      seconds: wall time of its steps.
      images_per_second: in them.
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
        """How many of its steps are done."""
        return len(self.losses) + len(self.skipped)

    @property
    def next(self) -> "Begun":
        """The epoch behind this one, before its first step."""
        return Begun(recent=self.recent, in_row=self.in_row)


class Watch:
    """Reads each step's metrics when the next one is under way, so that the device never waits."""

    def __init__(self, guard: Guard, steps_before: int, begun: Begun) -> None:
        self._guard = guard
        self._steps_before = steps_before
        self._begun = begun
        self._losses, self._accuracies = list(begun.losses), list(begun.accuracies)
        self._skipped, self._in_row = list(begun.skipped), begun.in_row
        self._recent = deque(begun.recent, maxlen=WINDOW)
        self._pending: dict[str, jax.Array] | None = None

    @property
    def limit(self) -> float:
        """The highest loss of the next step that is no spike."""
        return self._guard.limit([*self._recent])

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Takes a step's metrics and checks those of the step before.

        Raises:
          DivergenceError: the step before, or this one if it is judged at once, is not good enough.
        """
        self.settle()
        self._pending = metrics
        if self._guard.prompt:
            self.settle()

    def settle(self) -> None:
        """Waits for the last step and checks it; DivergenceError as in `add`."""
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
            if self._guard.spike_factor:
                self._recent.append(loss)
        elif self._guard.on_divergence == "skip" and self._in_row < MOST_SKIPPED:
            self._skipped.append(error.step)
            self._in_row += 1
        else:
            raise error

    def begun(self, seconds: float, images_per_second: float) -> Begun:
        """How far the epoch is, after `settle`."""
        return Begun(
            losses=tuple(self._losses),
            accuracies=tuple(self._accuracies),
            skipped=tuple(self._skipped),
            rolled_back=self._begun.rolled_back,
            recent=tuple(self._recent),
            in_row=self._in_row,
            seconds=seconds,
            images_per_second=images_per_second,
        )

    def _error(self, loss: float, finite: bool) -> DivergenceError | None:
        """What is wrong with the step, if anything."""
        step = self._steps_before + len(self._losses) + len(self._skipped) + 1
        behind = f", after {self._in_row} skipped ones," if self._in_row else ","
        if not finite:
            return NonFiniteError(
                step, f"loss {loss:g}{behind} a loss or gradient that is not finite stops the run"
            )
        if loss > self.limit:
            factor = self._guard.spike_factor
            return SpikeError(
                step, f"loss {loss:g}{behind} more than {factor:g} times those before stops the run"
            )
        return None


class Clock:
    """Seconds and images per second of an epoch; the rate leaves its first step out if it can."""

    def __init__(self, batch_size: int, begun: Begun) -> None:
        self.seconds = begun.seconds
        self.rate = begun.images_per_second
        self._before = begun.seconds
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
        """Reads the clock."""
        if not self._steps:
            return
        now = time.perf_counter()
        self.seconds = self._before + now - self._start
        counted, since = self._steps - 1, self._after_first
        if counted < 1 or since is None:
            counted, since = self._steps, self._start
        self.rate = counted * self._batch_size / max(now - since, 1e-9)
