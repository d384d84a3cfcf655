"""The training loop: epochs of steps, with an evaluation after each and regular checkpoints."""

import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mnet_jax.training.epoch import Clock, EpochProgress, LossMonitor
from mnet_jax.training.evaluation import Evaluation, evaluate
from mnet_jax.training.hyperparameters import Hyperparameters
from mnet_jax.training.monitoring import (
    DEAD_WARNING_SHARE,
    MOST_ROLLBACKS,
    DivergenceError,
    DivergencePolicy,
    NonFiniteError,
    NonFiniteStateError,
    dead_share,
)
from mnet_jax.training.placement import Placement
from mnet_jax.training.results import EpochRecord, Phase, Progress, ProgressCallback
from mnet_jax.training.step import Batch, EvalStep, TrainState, TrainStep
from mnet_jax.training.stopping import Stop, StoppedError

History: TypeAlias = tuple[EpochRecord, ...]
Saved = Callable[[TrainState, History, EpochProgress], object]


def _cannot_go_back(step: int) -> tuple[TrainState, EpochProgress]:
    raise NotImplementedError(f"nothing is kept of step {step}")


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions that the loop calls to report progress, save the run, and check for a stop.

    Attributes:
      report: called at every step with the progress.
      on_epoch: called after each epoch with the state, the history and the next epoch's progress.
      save: called within an epoch with the state, the history and the epoch's progress, if
        `is_save_due` returns True or a stop was requested.
      is_save_due: returns whether it is time to save; called at every step.
      go_back: called with the last step of an epoch; returns the state after that step, on the
        devices, and the progress that was saved with it.
      stop: checked before every step and every evaluation batch.
    """

    report: ProgressCallback = lambda progress: None
    on_epoch: Saved = lambda state, history, progress: None
    save: Saved = lambda state, history, progress: None
    is_save_due: Callable[[], bool] = lambda: False
    go_back: Callable[[int], tuple[TrainState, EpochProgress]] = _cannot_go_back
    stop: Stop = field(default_factory=Stop)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The compiled functions, the placement and the settings with which a run is trained.

    Attributes:
      train_step: (state, batch, hyperparams) -> (state, metrics); reuses the state's memory.
      eval_step: (variables, batch) -> sums.
      placement: puts states and batches on the devices.
      hyperparams: maps an epoch, counted from 1, to the hyperparameters of each of its steps.
      epochs: the number of epochs.
      steps_per_epoch: optimizer steps in each epoch.
      batch_size: images per step.
      divergence: the definition of divergence and the reaction to it.
    """

    train_step: TrainStep
    eval_step: EvalStep
    placement: Placement
    hyperparams: Callable[[int], Sequence[Hyperparameters]]
    epochs: int
    steps_per_epoch: int
    batch_size: int
    divergence: DivergencePolicy = field(default_factory=DivergencePolicy)

    def fit(
        self,
        state: TrainState,
        batches: Iterator[Batch],
        validation: Callable[[], Iterable[Batch]],
        history: History,
        callbacks: Callbacks,
        progress: EpochProgress = EpochProgress(),
    ) -> tuple[TrainState, History]:
        """Trains to the last epoch, continuing after `history` and `progress`.

        Args:
          state: the state after `history` and `progress`, on the devices; its memory is reused.
          batches: an endless iterator over the training batches that come next.
          validation: makes the batches to evaluate after each epoch.
          history: the epochs already trained.
          callbacks: the functions that report, save and stop the run.
          progress: progress within the next epoch.

        Returns:
          The last state and the whole history.

        Raises:
          DivergenceError: a loss or gradient is not finite, or a loss is a spike. The error is
            raised at most one step later.
          StoppedError: the process received a stop signal; the run is saved.
        """
        while len(history) < self.epochs:
            epoch = len(history) + 1
            try:
                state, progress = self._train(state, batches, history, progress, callbacks)
                validated = self._validate(state, validation(), history, progress, callbacks)
            except NonFiniteStateError:
                raise
            except DivergenceError as error:
                rolled_back = self._rolled_back(error, history, progress)
                state, progress = callbacks.go_back((epoch - 1) * self.steps_per_epoch)
                progress = dataclasses.replace(progress, rolled_back=rolled_back)
                continue
            dead = dead_share(self.placement.get(state.values))
            if dead > DEAD_WARNING_SHARE:
                warnings.warn(
                    f"epoch {epoch}: {dead:.0%} of the depthwise channels are dead", stacklevel=2
                )
            history = (*history, self._record(epoch, progress, validated, dead))
            progress = progress.next
            callbacks.on_epoch(state, history, progress)
            callbacks.report(self._epoch_end(history[-1]))
        return state, history

    def evaluate(
        self,
        state: TrainState,
        batches: Iterable[Batch],
        phase: Phase,
        epoch: int,
        report: ProgressCallback,
        stop: Stop | None = None,
    ) -> Evaluation:
        """Evaluates the state's `evaluated` variables on a split; every image counts once.

        Args:
          state: the state, on the devices.
          batches: the split, padded and masked.
          phase: the split's name, for `report`.
          epoch: the last trained epoch, for `report`.
          report: called at every batch.
          stop: checked before every batch.

        Raises:
          NonFiniteError: the loss is not finite.
          StoppedError: the process received a stop signal.
        """
        if stop:
            stop.check()

        def on_batch(done: int) -> None:
            report(Progress(phase=phase, epoch=epoch, epochs=self.epochs, step=done))
            if stop:
                stop.check()

        found = evaluate(self.eval_step, self.placement, state.evaluated, batches, on_batch)
        if not math.isfinite(found.loss):
            step = int(self.placement.get(state.step))
            raise NonFiniteError(step, f"the {phase} loss is {found.loss}, the run stops")
        return found

    def _train(
        self,
        state: TrainState,
        batches: Iterator[Batch],
        history: History,
        progress: EpochProgress,
        callbacks: Callbacks,
    ) -> tuple[TrainState, EpochProgress]:
        """Runs the remaining steps of an epoch."""
        epoch, steps, first = len(history) + 1, self.steps_per_epoch, progress.steps
        hyperparams = self.hyperparams(epoch)
        monitor = LossMonitor(self.divergence, (epoch - 1) * steps, progress)
        clock = Clock(self.batch_size, progress)
        for i in range(first, steps):
            if callbacks.stop.stop_requested() or (i > first and callbacks.is_save_due()):
                monitor.settle()
                callbacks.save(state, history, monitor.progress(clock.seconds, clock.rate))
                callbacks.stop.check()
            batch = self.placement.put_batch(next(batches))
            state, metrics = self.train_step(
                state, batch, self.divergence.hyperparams(hyperparams[i], monitor.limit)
            )
            monitor.add(self.placement.get(metrics))
            if i == first:
                monitor.settle()  # the first step may compile, so the clock starts after it
            clock.tick()
            callbacks.report(
                Progress(
                    phase="train",
                    epoch=epoch,
                    epochs=self.epochs,
                    step=i + 1,
                    steps=steps,
                    images_per_second=clock.rate,
                )
            )
        monitor.settle()
        clock.stop()
        progress = monitor.progress(clock.seconds, clock.rate)
        if not progress.losses:
            raise NonFiniteError(epoch * steps, f"every update of epoch {epoch} was skipped")
        return state, progress

    def _validate(
        self,
        state: TrainState,
        batches: Iterable[Batch],
        history: History,
        progress: EpochProgress,
        callbacks: Callbacks,
    ) -> Evaluation:
        """Evaluates the validation split after an epoch.

        If a stop is requested, saves the run. A resumed run then repeats the whole evaluation.
        """
        try:
            return self.evaluate(
                state, batches, "validation", len(history) + 1, callbacks.report, callbacks.stop
            )
        except StoppedError:
            callbacks.save(state, history, progress)
            raise

    def _record(
        self, epoch: int, progress: EpochProgress, validated: Evaluation, dead: float
    ) -> EpochRecord:
        return EpochRecord(
            epoch=epoch,
            step=epoch * self.steps_per_epoch,
            learning_rate=float(self.hyperparams(epoch)[-1].learning_rate),
            train_loss=statistics.fmean(progress.losses),
            train_accuracy=statistics.fmean(progress.accuracies),
            validation_loss=validated.loss,
            validation_accuracy=validated.accuracy,
            seconds=progress.seconds,
            images_per_second=progress.images_per_second,
            skipped=progress.skipped,
            rolled_back=progress.rolled_back,
            dead_share=dead,
        )

    def _epoch_end(self, record: EpochRecord) -> Progress:
        """Returns the progress to report at the end of an epoch."""
        return Progress(
            phase="epoch", epoch=record.epoch, epochs=self.epochs, step=self.steps_per_epoch,
            steps=self.steps_per_epoch, record=record,
        )  # fmt: skip

    def _rolled_back(
        self, error: DivergenceError, history: History, progress: EpochProgress
    ) -> tuple[int, ...]:
        """Returns the steps of the epoch that were rolled back, including the step of `error`.

        Raises `error` if rollbacks are off, or after `MOST_ROLLBACKS` rollbacks.
        """
        before = sum(len(record.rolled_back) for record in history) + len(progress.rolled_back)
        if self.divergence.on_divergence != "rollback" or before >= MOST_ROLLBACKS:
            raise error
        return (*progress.rolled_back, error.step)
