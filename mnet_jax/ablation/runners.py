"""Where trials run: in a process of their own, so that one that crashes takes nothing with it."""

import multiprocessing
import queue
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnet_jax.config import RunConfig
from mnet_jax.result import RunResult

_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one trial ended.

    Attributes:
      config: of the trial.
      result: what it found, or None if it failed.
      cause: why it failed, one line, or None.
      environment: the software and the device it ran on; empty if its process died.
    """

    config: RunConfig
    result: RunResult | None
    cause: str | None
    environment: dict[str, str]


def run_local(
    configs: Sequence[RunConfig],
    directory_of: Callable[[RunConfig], Path],
    report: Callable[[Any], None],
) -> Iterator[Outcome]:
    """Runs trials one after the other in a worker process, which uses all local devices.

    The worker stays from trial to trial, so that seeds of one arm share the compiled step; if it
    dies, that trial has failed and the next one gets a new worker.

    Args:
      configs: the trials, in order.
      directory_of: where a trial keeps checkpoints and scalars.
      report: called here with each `training.loop.Progress` of the worker.

    Yields:
      Each trial's outcome as it ends.
    """
    context = multiprocessing.get_context("spawn")
    progress: Any = context.Queue()
    worker: ProcessPoolExecutor | None = None
    try:
        for config in configs:
            worker = worker or ProcessPoolExecutor(
                1, mp_context=context, initializer=_start, initargs=(progress,)
            )
            future = worker.submit(_trial, config, directory_of(config))
            _forward(progress, future, report)
            try:
                yield future.result()
            except BrokenProcessPool:
                worker = None
                cause = "the trial's process died: killed, out of memory, or crashed"
                yield Outcome(config=config, result=None, cause=cause, environment={})
    finally:
        if worker:
            worker.shutdown(cancel_futures=True)


def _forward(progress: Any, future: Future, report: Callable[[Any], None]) -> None:
    """Passes the worker's progress on until the trial ends."""
    while True:
        try:
            report(progress.get(timeout=_POLL_SECONDS))
        except queue.Empty:
            if future.done():
                return


# What follows runs in the worker, the only process of a sweep that imports JAX.

_progress: Any = None


def _start(progress: Any) -> None:
    global _progress
    _progress = progress


def _trial(config: RunConfig, directory: Path) -> Outcome:
    """Runs one trial; whatever it raises becomes its cause."""
    from mnet_jax.run import environment, run

    try:
        result = run(config, directory, save_every_seconds=60.0, report=_progress.put)
    except Exception as error:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        lines = str(error).splitlines() or [""]
        cause = f"{type(error).__name__}: {lines[0]}"
        return Outcome(config=config, result=None, cause=cause, environment=environment())
    return Outcome(config=config, result=result, cause=None, environment=environment())
