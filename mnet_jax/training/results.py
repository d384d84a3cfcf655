"""The progress and the results of a run: plain numbers, without JAX.

Results are stored next to the config that produced them. Displays and sweeps use this module, so it
does not import JAX.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mnet_jax.serialization import added


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """The results of one pass over the training images.

    Attributes:
      epoch: counted from 1.
      step: optimizer steps taken by the end of the epoch.
      learning_rate: learning rate at the last step.
      train_loss: mean over the steps, with label smoothing as trained.
      train_accuracy: accuracy on the training images during training, 0 to 1.
      validation_loss: cross-entropy without label smoothing, of the evaluated weights.
      validation_accuracy: accuracy, 0 to 1.
      seconds: wall time of the training steps.
      images_per_second: training speed without the first step, which may compile; if the epoch was
        interrupted, the speed after it was resumed.
      skipped: step numbers of the skipped updates; steps are counted from 1 over the whole run.
      rolled_back: step numbers at which training went back to the start of the epoch.
      dead_share: share of the depthwise channels that were dead after the epoch, 0 to 1; see
        `training.monitoring`.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    seconds: float
    images_per_second: float
    skipped: tuple[int, ...] = added(())
    rolled_back: tuple[int, ...] = added(())
    dead_share: float = added(0.0)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The outcome of a finished run.

    Attributes:
      params: number of trainable parameters of the network.
      madds: number of multiply-adds of the network per image at the run's resolution.
      test_loss: cross-entropy on the test split, which is read once, at the end.
      test_accuracy: accuracy on the test split, 0 to 1.
      test_count: number of test images.
      history: one record per epoch.
      images_per_second: median over epochs of the training speed, without compilation.
      seconds: wall time of the whole run, including compilation and data loading.
      oscillating: after quantization-aware training, the share of the quantized weights that
        oscillated, 0 to 1; see `quantization.qat`. Otherwise None.
    """

    params: int
    madds: int
    test_loss: float
    test_accuracy: float
    test_count: int
    history: tuple[EpochRecord, ...]
    images_per_second: float
    seconds: float
    oscillating: float | None = added(None)


# "epoch": an epoch has ended and is saved; "waiting": another run trains the network to quantize.
Phase = Literal["train", "validation", "epoch", "test", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a run, for displays.

    Attributes:
      phase: the current activity.
      epoch: the current epoch, counted from 1.
      epochs: total number of epochs.
      step: steps done in this phase of this epoch.
      steps: total number of steps in this phase; None if unknown.
      images_per_second: training speed in this epoch; None during evaluation.
      record: the epoch's record at its end; otherwise None.
    """

    phase: Phase
    epoch: int
    epochs: int
    step: int
    steps: int | None = None
    images_per_second: float | None = None
    record: EpochRecord | None = None


ProgressCallback: TypeAlias = Callable[[Progress], None]
