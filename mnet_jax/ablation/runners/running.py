"""Trials side by side, whoever runs them."""

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
POLL_SECONDS = 1.0  # how often it is asked again for trials that were not to be had


class Runner(Protocol):
    """Workers, each a process that runs one trial at a time."""

    def has_room(self) -> bool:
        """Whether a further trial may begin now."""

    def begin(self, config: RunConfig, directory: Path) -> None:
        """Starts a trial; there is room."""

    def wait(self, seconds: float) -> list[tuple[RunConfig, Message]]:
        """What the workers say, each with its trial, or nothing after so many seconds."""

    def end(self) -> None:
        """Ends all workers, whatever they are at."""


def run(
    configs: Iterator[RunConfig | None],
    runner: Runner,
    directory_of: Callable[[RunConfig], Path],
    begun: Callable[[RunConfig], None],
    report: Callable[[RunConfig, Progress | Stalled], None],
) -> Generator[Outcome, None, None]:
    """Runs trials on a runner, as many at once as it has room for.

    Close the generator to leave before the last outcome: that ends the runner.

    Args:
      configs: the trials, each asked for when there is room for it; None where there is none just
        now, but may be later.
      runner: has the workers; it is ended when the trials are.
      directory_of: where a trial keeps checkpoints and scalars.
      begun: called when a trial starts, again too.
      report: called with each `Progress` of a trial, and where it is `Stalled`.

    Yields:
      Each trial's outcome as it ends.
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
