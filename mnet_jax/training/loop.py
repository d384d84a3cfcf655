"""The loop: epochs of steps, an evaluation after each, a checkpoint now and then."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import jax

from mnet_jax.result import EpochRecord
from mnet_jax.training.evaluation import Evaluation, evaluate
from mnet_jax.training.placement import Placement
from mnet_jax.training.recipe import Numbers
from mnet_jax.training.step import Batch, EvalStep, TrainState, TrainStep


class NonFiniteError(FloatingPointError):
    """A loss, a gradient or a state that is not finite; the message is one line with the step."""


Phase = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, for whoever shows it.

    Attributes:
      phase: what is going on.
      epoch: the current one, counted from 1.
      epochs: how many there will be.
      step: steps taken in this phase of this epoch.
      steps: how many there will be, or None if that is not known.
      images_per_second: training speed in this epoch; None in an evaluation.
    """

    phase: Phase
    epoch: int
    epochs: int
    step: int
    steps: int | None = None
    images_per_second: float | None = None


Report = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The parts of a training run, compiled and placed.

    Attributes:
      train_step: (state, batch, numbers) -> (state, metrics), reusing the state's memory.
      eval_step: (variables, batch) -> sums.
      placement: puts states and batches on the devices.
      numbers: of every step of an epoch, counted from 1.
      epochs: how many to train.
      steps_per_epoch: optimizer steps in each.
      batch_size: images a step.
    """

    train_step: TrainStep
    eval_step: EvalStep
    placement: Placement
    numbers: Callable[[int], Sequence[Numbers]]
    epochs: int
    steps_per_epoch: int
    batch_size: int

    def fit(
        self,
        state: TrainState,
        batches: Iterator[Batch],
        validation: Callable[[], Iterable[Batch]],
        history: tuple[EpochRecord, ...],
        on_epoch: Callable[[TrainState, tuple[EpochRecord, ...]], None],
        report: Report,
    ) -> tuple[TrainState, tuple[EpochRecord, ...]]:
        """Trains from where `history` ends to the last epoch.

        Args:
          state: on the devices, after `len(history)` epochs; its memory is reused.
          batches: the training batches from there on, without end.
          validation: makes the batches to evaluate after each epoch.
          history: the epochs already trained.
          on_epoch: called after each epoch with the state and the history so far.
          report: called at every step.

        Returns:
          The last state and the whole history.

        Raises:
          NonFiniteError: a loss or gradient is not finite; at most one step after it.
        """
        for epoch in range(len(history) + 1, self.epochs + 1):
            state, record = self._epoch(state, batches, validation, epoch, report)
            history = (*history, record)
            on_epoch(state, history)
        return state, history

    def evaluate(
        self,
        state: TrainState,
        batches: Iterable[Batch],
        phase: Phase,
        epoch: int,
        report: Report,
    ) -> Evaluation:
        """The evaluated weights on every image of a split, once.

        Args:
          state: on the devices.
          batches: the split, padded and masked.
          phase: which split, for `report`.
          epoch: after which it is, for `report`.
          report: called at every step.

        Raises:
          NonFiniteError: the loss is not finite.
        """

        def on_batch(done: int) -> None:
            report(Progress(phase=phase, epoch=epoch, epochs=self.epochs, step=done))

        found = evaluate(self.eval_step, self.placement, state.evaluated, batches, on_batch)
        if not math.isfinite(found.loss):
            step = int(self.placement.get(state.step))
            raise NonFiniteError(f"step {step}: the {phase} loss is {found.loss}, the run stops")
        return found

    def _epoch(
        self,
        state: TrainState,
        batches: Iterator[Batch],
        validation: Callable[[], Iterable[Batch]],
        epoch: int,
        report: Report,
    ) -> tuple[TrainState, EpochRecord]:
        steps, numbers = self.steps_per_epoch, self.numbers(epoch)
        watch, clock = _Watch((epoch - 1) * steps), _Clock(self.batch_size)
        for i in range(steps):
            batch = self.placement.put_batch(next(batches))
            state, metrics = self.train_step(state, batch, numbers[i])
            watch.add(self.placement.get(metrics))
            if i == 0:
                watch.settle()  # the first step may compile, which is no training speed
            clock.tick()
            report(
                Progress(
                    phase="train",
                    epoch=epoch,
                    epochs=self.epochs,
                    step=i + 1,
                    steps=steps,
                    images_per_second=clock.rate,
                )
            )
        watch.settle()
        clock.stop()
        validated = self.evaluate(state, validation(), "validation", epoch, report)
        return state, EpochRecord(
            epoch=epoch,
            step=epoch * steps,
            learning_rate=float(numbers[-1].learning_rate),
            train_loss=statistics.fmean(watch.losses),
            train_accuracy=statistics.fmean(watch.accuracies),
            validation_loss=validated.loss,
            validation_accuracy=validated.accuracy,
            seconds=clock.seconds,
            images_per_second=clock.rate,
        )


class _Watch:
    """Reads each step's metrics when the next one is under way, so that the device never waits."""

    def __init__(self, steps_before: int) -> None:
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self._steps_before = steps_before
        self._pending: dict[str, jax.Array] | None = None

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Takes a step's metrics and checks those of the step before."""
        self.settle()
        self._pending = metrics

    def settle(self) -> None:
        """Waits for the last step and checks it."""
        if self._pending is None:
            return
        loss, accuracy = float(self._pending["loss"]), float(self._pending["accuracy"])
        finite = bool(self._pending["finite"])
        self._pending = None
        self.losses.append(loss)
        self.accuracies.append(accuracy)
        if not finite:
            step = self._steps_before + len(self.losses)
            raise NonFiniteError(
                f"step {step}: loss {loss:g}, a loss or gradient that is not finite stops the run"
            )


class _Clock:
    """Seconds and images per second of an epoch; the rate leaves its first step out if it can."""

    def __init__(self, batch_size: int) -> None:
        self.seconds = 0.0
        self.rate = 0.0
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
        now = time.perf_counter()
        self.seconds = now - self._start
        counted, since = self._steps - 1, self._after_first
        if counted < 1 or since is None:
            counted, since = self._steps, self._start
        self.rate = counted * self._batch_size / max(now - since, 1e-9)
