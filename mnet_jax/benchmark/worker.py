"""A contender's process: it prepares cases, and runs them when told."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from mnet_jax import process
from mnet_jax.benchmark.cases import Case, CompileCase
from mnet_jax.benchmark.contenders import BY_NAME, Contender
from mnet_jax.training.stopping import interrupted_alone

SAMPLE_SECONDS = 0.1  # a call shorter than this is repeated until a sample takes about as long
MOST_CALLS = 1000
GRACE_SECONDS = 5.0


class WorkerError(RuntimeError):
    """A contender that could not run a case; the message is one line saying why."""


class Worker:
    """A process that runs one contender, on one case after the other.

    The first case starts it. A context manager; leaving ends the process.

    Attributes:
      contender: whom.
    """

    def __init__(self, contender: Contender, environment: Mapping[str, str]) -> None:
        self.contender = contender
        self._environment = environment
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def prepare(self, case: Case) -> float:
        """Seconds from the imported framework to the end of the first call, which compiles.

        Raises:
          WorkerError: the contender fails on the case; others may go well.
        """
        if self._process is None or not self._process.is_alive():
            self._start()
        return self._ask(case)

    def run(self) -> float:
        """Seconds of a call of what was prepared last, the mean over one sample."""
        return self._ask(None)

    def end(self) -> None:
        """Ends the process, if there is one."""
        if self._process and self._pipe:
            self._pipe.close()
            self._process.join(GRACE_SECONDS)
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def _start(self) -> None:
        self.end()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.contender.name))
        with process.started_with(self._environment), interrupted_alone():
            self._process.start()
        theirs.close()

    def _ask(self, case: Case | None) -> float:
        assert self._pipe and self._process
        try:
            self._pipe.send(case)
            message = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            message = f"its process ended with exit code {self._process.exitcode}"
        if isinstance(message, str):
            raise WorkerError(message)
        return message


def _serve(pipe: Connection, contender: str) -> None:
    """Prepares each case that comes, and runs a sample for each None, until the parent is gone."""
    sample: Callable[[], float] | None = None
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        if case is None:
            assert sample
            pipe.send(sample())
            continue
        sample = None  # what the last case holds is free before the next one takes its memory
        try:
            sample, setup_seconds = _prepare(contender, case)
        except Exception as error:
            lines = str(error).splitlines() or [""]
            pipe.send(f"{type(error).__name__}: {lines[0]}"[:300])
        else:
            pipe.send(setup_seconds)


def _prepare(contender: str, case: Case) -> tuple[Callable[[], float], float]:
    """What takes a sample, and the seconds of the setup."""
    chosen = BY_NAME[contender]
    make = chosen.load()  # importing is no part of the setup
    start = time.perf_counter()
    call = make(case.network if isinstance(case, CompileCase) else case)
    call()
    setup_seconds = time.perf_counter() - start
    calls = max(1, min(round(SAMPLE_SECONDS / _seconds(call, 1)), MOST_CALLS))

    def sample() -> float:
        if calls > 1:
            call()  # the others have left nothing in the caches
        return _seconds(call, calls) / chosen.networks

    return sample, setup_seconds


def _seconds(call: Callable[[], Any], calls: int) -> float:
    """Of a call, the mean over some."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
