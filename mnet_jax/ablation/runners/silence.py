"""Detects trials that hang, by the time since they last reported progress."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from mnet_jax.ablation.runners.work import Lost
from mnet_jax.config import RunConfig

TOLD_SECONDS = 600.0  # a healthy trial is silent longest while it compiles, for a few minutes
# A longer time between two looks counts only this much: the machine may have been suspended.
MOST_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Stalled:
    """A running trial has reported nothing for `seconds`; sent once for each silence."""

    seconds: float


class StallMonitor:
    """Measures how long each running trial has been silent."""

    def __init__(
        self, limit_seconds: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Creates a monitor without trials.

        Args:
          limit_seconds: the silence after which a trial must be terminated; None for no limit.
          clock: returns the time in seconds.
        """
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._looked = clock()
        self._silences: dict[RunConfig, float] = {}

    def heard(self, config: RunConfig) -> None:
        """Notes that a trial has started, or reported something."""
        self._silences[config] = 0.0

    def forget(self, config: RunConfig) -> None:
        """Notes that a trial no longer runs."""
        self._silences.pop(config, None)

    def look(self) -> list[tuple[RunConfig, Stalled | Lost]]:
        """Returns the trials whose silence has become too long since the last look.

        The caller must terminate those that are `Lost`.
        """
        now = self._clock()
        step, self._looked = min(now - self._looked, MOST_SECONDS), now
        found: list[tuple[RunConfig, Stalled | Lost]] = []
        for config, before in self._silences.items():
            after = self._silences[config] = before + step
            if self._limit_seconds is not None and after >= self._limit_seconds:
                cause = f"no progress for {self._limit_seconds:g} seconds, the trial was ended"
                found.append((config, Lost(cause=cause, again=False)))
            elif before < TOLD_SECONDS <= after:
                found.append((config, Stalled(seconds=after)))
        return found
