"""Schedules trials on a runner; the protocol `Runner` that all runners implement."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

from mnet_jax.ablation.runners.silence import Stalled
from mnet_jax.ablation.runners.work import Lost, Outcome
from mnet_jax.config import RunConfig
from mnet_jax.progress import Progress

Message: TypeAlias = Progress | Stalled | Lost | Outcome  # about a trial; the last two end it
POLL_SECONDS = 1.0  # interval after which an iterator of configs that yielded None is asked again


class Runner(Protocol):
    """Workers, each a process that runs one trial at a time."""

    def has_room(self) -> bool:
        """Returns whether another trial may start now."""

    def begin(self, config: RunConfig, directory: Path) -> None:
        """Starts a trial; call it only if `has_room` is true."""

    def wait(self, seconds: float) -> list[tuple[RunConfig, Message]]:
        """Waits at most `seconds` for messages from the workers; returns each with its trial."""

    def end(self) -> None:
        """Ends all workers, even in the middle of a trial."""


def run(
    configs: Iterator[RunConfig | None],
    runner: Runner,
    directory_of: Callable[[RunConfig], Path],
    begun: Callable[[RunConfig], None],
    report: Callable[[RunConfig, Progress | Stalled], None],
) -> Generator[Outcome, None, None]:
    """Runs trials on a runner, as many in parallel as it has room for.

    To stop early, close the generator: this ends the runner.

    Args:
      configs: the configs of the trials. The next one is requested only when there is room for it.
        None means that no trial is available now, but one may be later.
      runner: runs the trials; it is ended after the last one.
      directory_of: returns the directory for a trial's checkpoints and scalars.
      begun: called when a trial starts, and each time it is restarted.
      report: called with each `Progress` of a trial, and when it has `Stalled`.

    Yields:
      The outcome of each trial when it ends.
    """
    again: deque[RunConfig] = deque()
    running: set[RunConfig] = set()
    exhausted, asked = False, -POLL_SECONDS
    try:
        while True:
            while runner.has_room():
                if again:
                    config = again.popleft()
                elif exhausted or time.monotonic() < asked + POLL_SECONDS:
                    break
                else:
                    try:
                        offered = next(configs)
                    except StopIteration:
                        exhausted = True
                        break
                    if offered is None:
                        asked = time.monotonic()
                        break
                    config = offered
                runner.begin(config, directory_of(config))
                running.add(config)
                begun(config)
            if exhausted and not running and not again:
                return
            for config, message in runner.wait(POLL_SECONDS):
                if isinstance(message, Lost):
                    running.remove(config)
                    if message.again:
                        again.append(config)
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
