"""What a run found: plain numbers, stored beside the config that produced them."""

from dataclasses import dataclass

from mnet_jax.serialization import added


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One pass over the training images.

    Attributes:
      epoch: counted from 1.
      step: optimizer steps taken by the end of it.
      learning_rate: at its last step.
      train_loss: mean over its steps, with label smoothing as trained.
      train_accuracy: share of the training images right while training, 0 to 1.
      validation_loss: cross-entropy without smoothing, of the evaluated weights.
      validation_accuracy: share right, 0 to 1.
      seconds: wall time of its training steps.
      images_per_second: without the first step, which may compile; of an epoch that was cut in two
        that of the second part.
      skipped: steps of the run whose updates were not applied, as they had diverged.
      rolled_back: steps of the run that diverged, so that the epoch began again.
      dead_share: share of the depthwise channels that were dead behind it, 0 to 1; see
        `training.dead_channels`.
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
      params: trainable parameters of the network.
      madds: its multiply-adds per image at the run's resolution.
      test_loss: cross-entropy on the test split, which is read once, at the end.
      test_accuracy: share of the test images right, 0 to 1.
      test_count: number of test images.
      history: one record an epoch.
      images_per_second: training speed, the median over epochs; what compiles is left out.
      seconds: wall time of the whole run, compilation and data included.
    """

    params: int
    madds: int
    test_loss: float
    test_accuracy: float
    test_count: int
    history: tuple[EpochRecord, ...]
    images_per_second: float
    seconds: float
