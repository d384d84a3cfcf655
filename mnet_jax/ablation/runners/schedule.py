"""Schedules trials on a runner, and detects trials that hang.

All runners implement the protocol `Runner`. A trial hangs if it has not reported progress for too
long.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from mnet_jax.ablation.runners.work import Outcome, TrialLost
from mnet_jax.config import RunConfig
from mnet_jax.training.results import Progress


@dataclass(frozen=True, kw_only=True)
class TrialStalled:
    """A message: a running trial has not reported progress for `seconds`; sent once per stall."""

    seconds: float


Message: TypeAlias = Progress | TrialStalled | TrialLost | Outcome  # the last two end a trial
POLL_SECONDS = 1.0  # an iterator that yielded None is advanced again after this time


class Runner(Protocol):
    """A set of worker processes, each of which runs one trial at a time."""

    def has_room(self) -> bool:
        """Returns whether another trial may start now."""

    def begin(self, config: RunConfig, directory: Path) -> None:
        """Starts a trial; call it only if `has_room` is true."""

    def wait(self, seconds: float) -> list[tuple[RunConfig, Message]]:
        """Waits at most `seconds` for messages; returns each with the config of its trial."""

    def end(self) -> None:
        """Ends all workers, even in the middle of a trial."""


def run(
    configs: Iterator[RunConfig | None],
    runner: Runner,
    directory_of: Callable[[RunConfig], Path],
    begun: Callable[[RunConfig], None],
    report: Callable[[RunConfig, Progress | TrialStalled], None],
) -> Generator[Outcome, None, None]:
    """Runs trials on a runner, as many in parallel as it has room for.

    To stop early, close the generator, which also ends the runner.

    Args:
      configs: the configs of the trials. The next config is requested only when there is room for
        it. None means that no config is available now, but one may be later.
      runner: runs the trials; it is ended after the last one.
      directory_of: returns the directory for a trial's checkpoints and scalars.
      begun: called each time that a trial starts or is restarted.
      report: called with each `Progress` and each `TrialStalled` message of a trial.

    Yields:
      The outcome of each trial when it ends.
    """
    queue = _Queue(configs)
    running: set[RunConfig] = set()
    try:
        while True:
            while runner.has_room() and (config := queue.next()):
                runner.begin(config, directory_of(config))
                running.add(config)
                begun(config)
            if queue.is_exhausted and not running:
                return
            for config, message in runner.wait(POLL_SECONDS):
                if isinstance(message, TrialLost):
                    running.remove(config)
                    if message.again:
                        queue.put_back(config)
                    else:
                        yield Outcome(
                            config=config, result=None, cause=message.cause, environment={}
                        )
                elif isinstance(message, Outcome):
                    running.remove(config)
                    yield message
                else:
                    report(config, message)
    finally:
        runner.end()


class _Queue:
    """The configs that remain: first those that were put back, then those of an iterator."""

    def __init__(self, configs: Iterator[RunConfig | None]) -> None:
        self._configs = configs
        self._again: deque[RunConfig] = deque()
        self._ended = False
        self._polled = -POLL_SECONDS  # when the iterator last yielded None

    @property
    def is_exhausted(self) -> bool:
        """Whether no config remains."""
        return self._ended and not self._again

    def put_back(self, config: RunConfig) -> None:
        """Adds a config whose trial must be run again."""
        self._again.append(config)

    def next(self) -> RunConfig | None:
        """Returns the next config; None if no config remains, or none is available now."""
        if self._again:
            return self._again.popleft()
        if self._ended or time.monotonic() < self._polled + POLL_SECONDS:
            return None
        try:
            config = next(self._configs)
        except StopIteration:
            self._ended = True
            return None
        if config is None:
            self._polled = time.monotonic()
        return config


# A healthy trial reports nothing for a few minutes at most, while it compiles.
_STALLED_SECONDS = 600.0
# Of the time between two checks, at most this counts: the machine may have been suspended.
_MOST_COUNTED_SECONDS = 30.0


class StallMonitor:
    """Measures how long each running trial has reported no progress."""

    def __init__(
        self, limit_seconds: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Creates a monitor without trials.

        Args:
          limit_seconds: time without progress after which a trial must be terminated; None for no
            limit.
          clock: returns the time in seconds.
        """
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._checked = clock()
        self._seconds_without_progress: dict[RunConfig, float] = {}

    def record_progress(self, config: RunConfig) -> None:
        """Records that a trial has started, or has reported progress."""
        self._seconds_without_progress[config] = 0.0

    def forget(self, config: RunConfig) -> None:
        """Removes a trial, which no longer runs."""
        self._seconds_without_progress.pop(config, None)

    def check(self) -> list[tuple[RunConfig, TrialStalled | TrialLost]]:
        """Returns messages for the trials that have reported no progress for too long.

        The message is `TrialStalled`, once, after `_STALLED_SECONDS` without progress, and
        `TrialLost` after `limit_seconds`. The caller must terminate and `forget` a lost trial.
        """
        now = self._clock()
        step, self._checked = min(now - self._checked, _MOST_COUNTED_SECONDS), now
        found: list[tuple[RunConfig, TrialStalled | TrialLost]] = []
        for config, before in self._seconds_without_progress.items():
            after = self._seconds_without_progress[config] = before + step
            if self._limit_seconds is not None and after >= self._limit_seconds:
                cause = f"no progress for {self._limit_seconds:g} seconds, the trial was ended"
                found.append((config, TrialLost(cause=cause, again=False)))
            elif before < _STALLED_SECONDS <= after:
                found.append((config, TrialStalled(seconds=after)))
        return found
