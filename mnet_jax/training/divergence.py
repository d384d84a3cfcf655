"""Divergence: a loss or gradient that is not finite, or a loss that spikes."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnet_jax.training.recipe import Hyperparameters
from mnet_jax.training.types import OnDivergence

WINDOW = 100  # number of previous losses that a loss is compared with
LEAST = 10  # previous losses needed for a comparison
MOST_SKIPPED = 10  # limit on consecutive skipped updates
MOST_ROLLBACKS = 3  # limit for a run


class DivergenceError(FloatingPointError):
    """Training has diverged and stops; the message is one line with the step.

    Attributes:
      step: the step with the bad loss, gradient or state, counted from 1.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step = step


class NonFiniteError(DivergenceError):
    """A loss, a gradient or a state is not finite."""


class NonFiniteStateError(NonFiniteError):
    """A state that is about to be saved is not finite; this always stops the run.

    A rollback would make the result depend on when the state happens to be saved.
    """


class SpikeError(DivergenceError):
    """A loss is far above the losses before it."""


@dataclass(frozen=True, kw_only=True)
class DivergencePolicy:
    """The definition of divergence and the reaction to it; fields as in `TrainingConfig`."""

    on_divergence: OnDivergence = "halt"
    spike_factor: float = 0.0

    @property
    def prompt(self) -> bool:
        """Whether each step is checked before the next one starts, although the device then waits.

        Otherwise the reaction would depend on when a step happens to be checked.
        """
        return self.on_divergence == "rollback" or self.spike_factor > 0

    def limit(self, losses: Sequence[float]) -> float:
        """Returns the limit above which the next loss is a spike; infinite if there is none."""
        if not self.spike_factor or len(losses) < LEAST:
            return float("inf")
        return float(np.float32(self.spike_factor * statistics.median(losses[-WINDOW:])))

    def hyperparams(self, hyperparams: Hyperparameters, limit: float) -> Hyperparameters:
        """Returns a step's hyperparameters, with the loss limit if the step itself enforces it."""
        if self.on_divergence == "skip" and self.spike_factor:
            return hyperparams._replace(loss_limit=np.float32(limit))
        return hyperparams
