"""The progress of a run. Displays and sweeps use this module, so it does not import JAX."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mnet_jax.result import EpochRecord

Phase = Literal["train", "validation", "epoch", "test"]  # "epoch": an epoch has ended and is saved


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
