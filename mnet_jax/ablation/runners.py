"""Where trials run: in a process of their own, so that one that crashes takes nothing with it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mnet_jax.config import RunConfig
from mnet_jax.result import RunResult

# A worker that is ended leaves semaphores. Python's tracker, which starts with it, frees them, and
# would tell of it behind the one line that says what happened.
QUIET = {"PYTHONWARNINGS": "ignore:resource_tracker:UserWarning"}
GRACE_SECONDS = 3.0  # a worker that is told to leave has this long to close its files

Report = Callable[[Any], None]  # takes each `training.loop.Progress`
Trial = Callable[[RunConfig, Path, Report], RunResult]


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


def train(config: RunConfig, directory: Path, report: Report) -> RunResult:
    """The trial of a sweep: the run, with a checkpoint a minute."""
    from mnet_jax.run import run  # here: the worker is the only process of a sweep with JAX

    return run(config, directory, save_every_seconds=60.0, report=report)


def run_local(
    configs: Iterable[RunConfig],
    directory_of: Callable[[RunConfig], Path],
    report: Report,
    trial: Trial = train,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Generator[Outcome, None, None]:
    """Runs trials one after the other in a worker process, which uses all local devices.

    The worker stays from trial to trial, so that those that differ in seeds and numbers alone share
    the compiled step; if it dies, that trial has failed and the next one gets a new worker. Whoever
    leaves before the last outcome closes the generator, which ends the worker.

    Args:
      configs: the trials, in order; each is asked for when its turn has come.
      directory_of: where a trial keeps checkpoints and scalars.
      report: called here with each `training.loop.Progress` of the worker.
      trial: what the worker does; a function that it can import.
      environment: variables that the worker is started with, where they are not set already.

    Yields:
      Each trial's outcome as it ends.
    """
    worker: _Worker | None = None
    try:
        for config in configs:
            worker = worker or _Worker(trial, environment)
            try:
                outcome = worker.run(config, directory_of(config), report)
            except (EOFError, ConnectionError):
                cause = worker.cause_of_death()
                worker = None
                outcome = Outcome(config=config, result=None, cause=cause, environment={})
            yield outcome
    finally:
        if worker:
            worker.dismiss()


class _Worker:
    """A process that runs the trials it is sent; it ends when this end of the pipe is closed."""

    def __init__(self, trial: Trial, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, trial))
        with _set({**environment, **QUIET}):
            self._process.start()
        theirs.close()  # so that reading ends when the worker's own end does

    def run(self, config: RunConfig, directory: Path, report: Report) -> Outcome:
        """The outcome of a trial; EOFError or ConnectionError if the process dies before it."""
        self._pipe.send((config, directory))
        while not isinstance(message := self._pipe.recv(), Outcome):
            report(message)
        return message

    def cause_of_death(self) -> str:
        """How the process ended, in one line."""
        self._pipe.close()
        self._process.join()
        code = self._process.exitcode or 0
        if code >= 0:
            return f"the trial's process ended with exit code {code}"
        name = signal.strsignal(-code) or "unknown"
        return f"the trial's process died of signal {-code} ({name}); out of memory, or a crash?"

    def dismiss(self) -> None:
        """Ends the process, whatever it is at: a run can be killed anywhere."""
        self._process.terminate()
        self._process.join(GRACE_SECONDS)
        self._process.kill()  # it may be compiling, and deaf
        self._process.join()
        self._pipe.close()


@contextlib.contextmanager
def _set(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while, but for those that the user has set otherwise."""
    ours = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


# What follows runs in the worker.


def _serve(pipe: Connection, trial: Trial) -> None:
    """Runs trials until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both; the parent decides
    # At once: an exception here would come up in whatever runs, in a callback of the collector too.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))

    def send(message: Any) -> None:
        try:
            pipe.send(message)
        except ConnectionError:  # nobody is left to work for, and a new sweep may want the files
            sys.exit()

    while True:
        try:
            config, directory = pipe.recv()
        except EOFError:
            return
        send(_outcome(trial, config, directory, send))


def _outcome(trial: Trial, config: RunConfig, directory: Path, report: Report) -> Outcome:
    """Runs one trial; whatever it raises becomes its cause."""
    result, cause = None, None
    try:
        result = trial(config, directory, report)
    except Exception as error:
        with contextlib.suppress(OSError):  # the cause is worth more than its traceback
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        lines = str(error).splitlines() or [""]
        cause = f"{type(error).__name__}: {lines[0]}"
    return Outcome(config=config, result=result, cause=cause, environment=_environment())


def _environment() -> dict[str, str]:
    """The worker's software and devices; nothing where JAX does not start."""
    try:
        from mnet_jax.run import environment

        return environment()
    except Exception:
        return {}
