"""Workers on this machine: processes that stay from trial to trial."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType

import psutil

from mnet_jax import process
from mnet_jax.ablation.runners.machine import Slots
from mnet_jax.ablation.runners.running import Message
from mnet_jax.ablation.runners.silence import Stalled, StallMonitor
from mnet_jax.ablation.runners.work import Lost, Outcome, TrialFunction, outcome_of, train
from mnet_jax.config import RunConfig
from mnet_jax.host_memory import available_bytes
from mnet_jax.progress import Progress
from mnet_jax.training.stopping import interrupted_alone

# A worker that is ended leaves semaphores. Python's tracker, which starts with it, frees them, and
# would tell of it behind the one line that says what happened.
QUIET = {"PYTHONWARNINGS": "ignore:resource_tracker:UserWarning"}
GRACE_SECONDS = 3.0  # a worker that is told to leave has this long to close its files
LEAST_BYTES = 2**30  # a trial takes this much, until one has shown what it takes
RESERVE_BYTES = 2**29  # with less than this left, the machine is about to run out of memory


@dataclass
class _Running:
    """A trial and its worker; `shown` once its first step has shown what memory it takes."""

    config: RunConfig
    worker: "_Worker"
    shown: bool = False


class LocalRunner:
    """As many workers as there are slots, each a process with the slot's cores or accelerators.

    A worker stays from trial to trial, so that those that differ in seeds and numbers alone share
    the compiled step; if it dies, its trial has failed and the slot's next one gets a new worker.

    Further trials begin only if there is memory for them, by what those before have taken. If it
    runs out all the same, the trial that began last is ended, to go on later from its checkpoint.
    """

    def __init__(
        self,
        slots: Slots,
        trial: TrialFunction = train,
        environment: Mapping[str, str] = MappingProxyType({}),
        available: Callable[[], int] = available_bytes,
        timeout_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing yet.

        Args:
          slots: places for workers.
          trial: what a worker does; a function that it can import.
          environment: variables that workers are started with, where they are not set already.
          available: bytes of memory that are left.
          timeout_seconds: a trial that says nothing for so long is ended; None for none.
          clock: seconds.
        """
        self._slots = slots.environments
        self._trial = trial
        self._environment = environment
        self._available = available
        self._idle: dict[int, _Worker] = {}
        self._running: dict[int, _Running] = {}  # by slot, in the order in which they began
        self._need_bytes = LEAST_BYTES
        self._silences = StallMonitor(timeout_seconds, clock)

    def has_room(self) -> bool:
        """Whether there is a slot, and memory for one more trial beside those that run."""
        if len(self._running) == len(self._slots):
            return False
        starting = sum(not running.shown for running in self._running.values())
        needed = RESERVE_BYTES + self._need_bytes * (starting + 1)
        return not self._running or self._available() >= needed

    def begin(self, config: RunConfig, directory: Path) -> None:
        """Sends a trial to the worker of a free slot, which is started if it is not there."""
        slot = next(i for i in range(len(self._slots)) if i not in self._running)
        worker = self._idle.pop(slot, None)
        if not (worker and worker.send(config, directory)):
            worker = _Worker(self._trial, self._environment, self._slots[slot])
            worker.send(config, directory)
        self._running[slot] = _Running(config, worker)
        self._silences.heard(config)

    def wait(self, seconds: float) -> list[tuple[RunConfig, Message]]:
        """See `Runner`."""
        slots = {running.worker.pipe: slot for slot, running in self._running.items()}
        said: list[tuple[RunConfig, Message]] = []
        for pipe in connection.wait(list(slots), seconds):
            assert isinstance(pipe, Connection)
            slot = slots[pipe]
            running = self._running[slot]
            self._silences.heard(running.config)
            try:
                message: Message = pipe.recv()
            except (EOFError, ConnectionError):
                message = Lost(cause=running.worker.cause_of_death(), again=False)
            else:
                running.shown = True
                self._need_bytes = max(self._need_bytes, running.worker.memory_bytes())
                if isinstance(message, Outcome):
                    self._idle[slot] = running.worker
            if isinstance(message, Outcome | Lost):
                self._forget(slot)
            said.append((running.config, message))
        return [*said, *self._relieved(), *self._hung()]

    def _forget(self, slot: int) -> _Running:
        running = self._running.pop(slot)
        self._silences.forget(running.config)
        return running

    def _relieved(self) -> list[tuple[RunConfig, Lost]]:
        """Ends the trial that began last, if memory runs out with several."""
        if len(self._running) < 2 or self._available() >= RESERVE_BYTES:
            return []
        running = self._forget([*self._running][-1])
        running.worker.terminate()
        running.worker.join()
        return [(running.config, Lost(cause="memory ran out", again=True))]

    def _hung(self) -> list[tuple[RunConfig, Stalled | Lost]]:
        """The trials that have said nothing for long; those past the limit are ended."""
        found = self._silences.look()
        ended = {config for config, message in found if isinstance(message, Lost)}
        for slot, running in [*self._running.items()]:
            if running.config in ended:
                self._forget(slot)
                running.worker.terminate()
                running.worker.join()
        return found

    def end(self) -> None:
        """See `Runner`: a run can be killed anywhere."""
        workers = [*self._idle.values(), *(running.worker for running in self._running.values())]
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        self._idle, self._running = {}, {}


class _Worker:
    """A process that runs the trials it is sent; it ends when this end of the pipe is closed."""

    def __init__(
        self, trial: TrialFunction, environment: Mapping[str, str], slot: Mapping[str, str]
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, trial))
        unset = {n: v for n, v in {**environment, **QUIET}.items() if n not in os.environ}
        with process.started_with({**unset, **slot}), interrupted_alone():
            self._process.start()
        theirs.close()  # so that reading ends when the worker's own end does

    def send(self, config: RunConfig, directory: Path) -> bool:
        """Gives it a trial; False if it is dead."""
        try:
            self.pipe.send((config, directory))
        except ConnectionError:
            self.join()
            return False
        return True

    def memory_bytes(self) -> int:
        """What it has of memory."""
        try:
            return psutil.Process(self._process.pid).memory_info().rss
        except psutil.Error:  # it has just died
            return 0

    def cause_of_death(self) -> str:
        """How the process ended, in one line."""
        self.pipe.close()
        self._process.join()
        code = self._process.exitcode or 0
        if code >= 0:
            return f"the trial's process ended with exit code {code}"
        name = signal.strsignal(-code) or "unknown"
        return f"the trial's process died of signal {-code} ({name}); out of memory, or a crash?"

    def terminate(self) -> None:
        """Tells it to leave."""
        self._process.terminate()

    def join(self) -> None:
        """Waits until the process has left, and ends it if it does not."""
        self._process.join(GRACE_SECONDS)
        self._process.kill()  # it may be compiling, and deaf
        self._process.join()
        self.pipe.close()


# What follows runs in the worker.


def _serve(pipe: Connection, trial: TrialFunction) -> None:
    """Runs trials until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both; the parent decides
    # At once: an exception here would come up in whatever runs, in a callback of the collector too.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    process.quiet()  # a failure's cause is sent

    def send(message: Progress | Outcome) -> None:
        try:
            pipe.send(message)
        except ConnectionError:  # nobody is left to work for, and a new sweep may want the files
            sys.exit()

    while True:
        try:
            config, directory = pipe.recv()
        except EOFError:
            return
        send(outcome_of(trial, config, directory, send))
