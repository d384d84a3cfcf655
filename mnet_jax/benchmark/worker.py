"""The process of a contender, which prepares and runs cases on request."""

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
    """Raised if a contender cannot run a case; the message says why in one line."""


class Worker:
    """A process that runs one contender, on one case after the other.

    The process is started with the first case. A `Worker` is a context manager; its exit ends the
    process.

    Attributes:
      contender: the contender.
    """

    def __init__(self, contender: Contender, environment: Mapping[str, str]) -> None:
        self.contender = contender
        self._environment = environment
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def prepare(self, case: Case) -> float:
        """Prepares a case and calls it once, which compiles it.

        Returns:
          The seconds from the end of the imports to the end of the call.

        Raises:
          WorkerError: the contender fails on the case. Other cases may still run.
        """
        if self._process is None or not self._process.is_alive():
            self._start()
        return self._ask(case)

    def run(self) -> float:
        """Runs a sample (one call or more) of the case prepared last; returns seconds per call."""
        return self._ask(None)

    def end(self) -> None:
        """Ends the process if it was started."""
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
        with process.child_environment(self._environment), interrupted_alone():
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
    """Runs in the worker's process: prepares each case received; for each None, times a sample.

    Returns when the parent closes the pipe or exits.
    """
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
        sample = None  # frees the memory of the previous case before the next one is prepared
        try:
            sample, setup_seconds = _prepare(contender, case)
        except Exception as error:
            lines = str(error).splitlines() or [""]
            pipe.send(f"{type(error).__name__}: {lines[0]}"[:300])
        else:
            pipe.send(setup_seconds)


def _prepare(contender: str, case: Case) -> tuple[Callable[[], float], float]:
    """Makes the contender's function for a case, and calls it once.

    Returns:
      A function without arguments that measures one sample of time, and the seconds that the setup
      took.
    """
    chosen = BY_NAME[contender]
    make = chosen.load()  # the imports are not part of the setup
    start = time.perf_counter()
    call = make(case.network if isinstance(case, CompileCase) else case)
    call()
    setup_seconds = time.perf_counter() - start
    calls = max(1, min(round(SAMPLE_SECONDS / _seconds(call, 1)), MOST_CALLS))

    def sample() -> float:
        if calls > 1:
            call()  # other contenders have evicted this contender's data from the caches
        return _seconds(call, calls) / chosen.networks

    return sample, setup_seconds


def _seconds(call: Callable[[], Any], calls: int) -> float:
    """Returns the mean seconds of a call, over several calls."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
