"""A contender's process: it prepares a case, and runs it when told."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection

from mnet_jax.benchmark.cases import Case, CompileCase
from mnet_jax.benchmark.contenders import BY_NAME

SAMPLE_SECONDS = 0.1  # a call shorter than this is repeated until a sample takes about as long
MOST_CALLS = 1000
GRACE_SECONDS = 5.0


class WorkerError(RuntimeError):
    """A contender that could not run a case; the message is one line saying why."""


class Worker:
    """A process that runs one contender on one case.

    A context manager; leaving ends the process.

    Attributes:
      setup_seconds: from the imported framework to the end of the first call, compilation included.
    """

    def __init__(self, contender: str, case: Case, environment: Mapping[str, str]) -> None:
        """Starts the process and waits for its first call.

        Raises:
          WorkerError: the contender fails on the case.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender, case))
        with environment_of(environment):
            self._process.start()
        theirs.close()
        self.setup_seconds = self._receive()

    def run(self) -> float:
        """Seconds of a call, the mean over one sample."""
        self._pipe.send("run")
        return self._receive()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pipe.close()
        self._process.join(GRACE_SECONDS)
        self._process.kill()
        self._process.join()

    def _receive(self) -> float:
        try:
            message = self._pipe.recv()
        except EOFError:
            self._process.join()
            message = f"its process ended with exit code {self._process.exitcode}"
        if isinstance(message, str):
            raise WorkerError(message)
        return message


@contextlib.contextmanager
def environment_of(changes: Mapping[str, str]) -> Iterator[None]:
    """Sets what processes started inside are to find; allocators read it only at a start."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: Connection, contender: str, case: Case) -> None:
    """Prepares, then runs a sample for each message until the parent is gone."""
    try:
        make = BY_NAME[contender].load()  # importing is no part of the setup
        start = time.perf_counter()
        call = make(case.network if isinstance(case, CompileCase) else case)
        call()
        pipe.send(time.perf_counter() - start)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        pipe.send(f"{type(error).__name__}: {lines[0]}"[:300])
        return
    start = time.perf_counter()
    call()
    calls = max(1, min(round(SAMPLE_SECONDS / (time.perf_counter() - start)), MOST_CALLS))
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        start = time.perf_counter()
        for _ in range(calls):
            call()
        pipe.send((time.perf_counter() - start) / calls)
