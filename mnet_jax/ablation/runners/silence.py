"""How long trials have said nothing: a trial that hangs never ends by itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from mnet_jax.ablation.runners.work import Lost
from mnet_jax.config import RunConfig

TOLD_SECONDS = 600.0  # compiling is the longest silence of a sound trial, a few minutes
MOST_SECONDS = 30.0  # of a single look that count: a machine or a process may have been suspended


@dataclass(frozen=True, kw_only=True)
class Stalled:
    """A trial runs, and has said nothing for so many seconds; told once for each silence."""

    seconds: float


class StallMonitor:
    """The silences of the trials that run now."""

    def __init__(
        self, limit_seconds: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts with none.

        Args:
          limit_seconds: the silence with which a trial is to be ended; None for none.
          clock: seconds.
        """
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._looked = clock()
        self._silences: dict[RunConfig, float] = {}

    def heard(self, config: RunConfig) -> None:
        """A trial has begun, or said something."""
        self._silences[config] = 0.0

    def forget(self, config: RunConfig) -> None:
        """A trial runs no more."""
        self._silences.pop(config, None)

    def look(self) -> list[tuple[RunConfig, Stalled | Lost]]:
        """The trials whose silence has become long since the last look; Lost are to be ended."""
        now = self._clock()
        step, self._looked = min(now - self._looked, MOST_SECONDS), now
        found: list[tuple[RunConfig, Stalled | Lost]] = []
        for config, before in self._silences.items():
            after = self._silences[config] = before + step
            if self._limit_seconds is not None and after >= self._limit_seconds:
                cause = f"it said nothing for {self._limit_seconds:g} seconds, and was ended"
                found.append((config, Lost(cause=cause, again=False)))
            elif before < TOLD_SECONDS <= after:
                found.append((config, Stalled(seconds=after)))
        return found
