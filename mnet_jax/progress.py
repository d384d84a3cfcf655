"""The progress of a run. Displays and sweeps use this module, so it does not import JAX."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mnet_jax.result import EpochRecord

Phase = Literal["train", "validation", "epoch", "test"]  # "epoch": one is over and saved


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
      record: of the epoch, when it is over; else None.
    """

    phase: Phase
    epoch: int
    epochs: int
    step: int
    steps: int | None = None
    images_per_second: float | None = None
    record: EpochRecord | None = None


ProgressCallback: TypeAlias = Callable[[Progress], None]
