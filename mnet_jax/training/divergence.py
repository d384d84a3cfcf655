"""When a training has diverged: a loss or gradient that is not finite, or a loss that leaps."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnet_jax.training.recipe import Hyperparameters
from mnet_jax.training.types import OnDivergence

WINDOW = 100  # losses before a step that its own is compared with
LEAST = 10  # of them, before there is anything to compare with
MOST_SKIPPED = 10  # updates in a row
MOST_ROLLBACKS = 3  # in a run


class DivergenceError(FloatingPointError):
    """A training that does not go on; the message is one line with the step.

    Attributes:
      step: whose loss, gradient or state it is, counted from 1.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step = step


class NonFiniteError(DivergenceError):
    """A loss, a gradient or a state that is not finite."""


class NonFiniteStateError(NonFiniteError):
    """A state that is not finite, which is seen when it is saved; it stops the run.

    To go back would depend on when that happens to be.
    """


class SpikeError(DivergenceError):
    """A loss far above those before it."""


@dataclass(frozen=True, kw_only=True)
class DivergencePolicy:
    """What counts as divergence, and what is done about it: as in `TrainingConfig`."""

    on_divergence: OnDivergence = "halt"
    spike_factor: float = 0.0

    @property
    def prompt(self) -> bool:
        """Whether each step is to be judged before the next one begins, though the device waits.

        What is done must not depend on when a step happens to be judged.
        """
        return self.on_divergence == "rollback" or self.spike_factor > 0

    def limit(self, losses: Sequence[float]) -> float:
        """The highest loss after these that is no spike; infinite where none is one."""
        if not self.spike_factor or len(losses) < LEAST:
            return float("inf")
        return float(np.float32(self.spike_factor * statistics.median(losses[-WINDOW:])))

    def hyperparams(self, hyperparams: Hyperparameters, limit: float) -> Hyperparameters:
        """A step's numbers, with the limit where the step itself is to keep to it."""
        if self.on_divergence == "skip" and self.spike_factor:
            return hyperparams._replace(loss_limit=np.float32(limit))
        return hyperparams
