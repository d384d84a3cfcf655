"""Runs trials on this machine, in worker processes that are reused from trial to trial."""

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
from mnet_jax.ablation.runners.schedule import Message, StallMonitor, TrialStalled
from mnet_jax.ablation.runners.work import Outcome, TrialFunction, TrialLost, outcome_of, train
from mnet_jax.config import RunConfig
from mnet_jax.host_memory import available_bytes
from mnet_jax.training.results import Progress
from mnet_jax.training.stopping import interrupted_alone

# A terminated worker leaves semaphores. Python's resource tracker, which starts with the worker,
# frees them and would print a warning after the one line of the error message.
QUIET = {"PYTHONWARNINGS": "ignore:resource_tracker:UserWarning"}
GRACE_SECONDS = 3.0  # a terminated worker has this long to exit before it is killed
LEAST_BYTES = 2**30  # assumed memory of a trial, until that of the first trial is measured
RESERVE_BYTES = 2**29  # with less available, the machine is about to run out of memory


@dataclass
class _Running:
    """A running trial and its worker.

    Attributes:
      config: the trial's config.
      worker: the process that runs it.
      shown: whether the trial has sent a message. Each message causes a measurement of the
        worker's memory.
    """

    config: RunConfig
    worker: "_Worker"
    shown: bool = False


class LocalRunner:
    """Runs trials on this machine, with one worker process for each slot.

    A slot is a share of the machine's CPU cores or accelerators (`machine.Slots`). A worker runs
    one trial after another, with the resources of its slot. Consecutive trials that differ only in
    the seed and in numeric settings share the compiled training step. If a worker dies, its trial
    has failed, and the next trial in its slot gets a new worker.

    If a trial already runs, another one starts only if the memory that earlier trials needed is
    available. If memory runs out nevertheless, the trial that started last is terminated, and
    continues from its checkpoint later.
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
        """Creates a runner; workers are started by `begin`.

        Args:
          slots: the slots, each with the environment variables of its worker.
          trial: the function that a worker calls for each trial; workers must be able to import it.
          environment: environment variables for the workers. Variables that are already set in this
            process take precedence.
          available: returns the available memory in bytes.
          timeout_seconds: a trial that reports no progress for this long is terminated; None for no
            limit.
          clock: returns the time in seconds.
        """
        self._slots = slots.environments
        self._trial = trial
        self._environment = environment
        self._available = available
        self._idle: dict[int, _Worker] = {}
        self._running: dict[int, _Running] = {}  # by slot, in the order of their starts
        self._need_bytes = LEAST_BYTES
        self._stall_monitor = StallMonitor(timeout_seconds, clock)

    def has_room(self) -> bool:
        """Returns whether there is a free slot, and enough memory for one more trial."""
        if len(self._running) == len(self._slots):
            return False
        starting = sum(not running.shown for running in self._running.values())
        needed = RESERVE_BYTES + self._need_bytes * (starting + 1)
        return not self._running or self._available() >= needed

    def begin(self, config: RunConfig, directory: Path) -> None:
        """Sends a trial to the worker of a free slot; starts a worker if the slot has none."""
        slot = next(i for i in range(len(self._slots)) if i not in self._running)
        worker = self._idle.pop(slot, None)
        if not (worker and worker.send(config, directory)):
            worker = _Worker(self._trial, self._environment, self._slots[slot])
            worker.send(config, directory)
        self._running[slot] = _Running(config, worker)
        self._stall_monitor.record_progress(config)

    def wait(self, seconds: float) -> list[tuple[RunConfig, Message]]:
        """See `Runner`."""
        slots = {running.worker.pipe: slot for slot, running in self._running.items()}
        messages: list[tuple[RunConfig, Message]] = []
        for pipe in connection.wait(list(slots), seconds):
            assert isinstance(pipe, Connection)
            slot = slots[pipe]
            running = self._running[slot]
            self._stall_monitor.record_progress(running.config)
            try:
                message: Message = pipe.recv()
            except (EOFError, ConnectionError):
                message = TrialLost(cause=running.worker.cause_of_death(), again=False)
            else:
                running.shown = True
                self._need_bytes = max(self._need_bytes, running.worker.memory_bytes())
                if isinstance(message, Outcome):
                    self._idle[slot] = running.worker
            if isinstance(message, Outcome | TrialLost):
                self._forget(slot)
            messages.append((running.config, message))
        return [*messages, *self._relieved(), *self._stalled()]

    def _forget(self, slot: int) -> _Running:
        running = self._running.pop(slot)
        self._stall_monitor.forget(running.config)
        return running

    def _relieved(self) -> list[tuple[RunConfig, TrialLost]]:
        """If memory runs out, terminates the trial that started last and returns its `TrialLost`.

        A trial that runs alone is not terminated.
        """
        if len(self._running) < 2 or self._available() >= RESERVE_BYTES:
            return []
        running = self._forget([*self._running][-1])
        running.worker.terminate()
        running.worker.join()
        return [(running.config, TrialLost(cause="memory ran out", again=True))]

    def _stalled(self) -> list[tuple[RunConfig, TrialStalled | TrialLost]]:
        """Returns the messages of `StallMonitor.check`; terminates the trials that are lost."""
        found = self._stall_monitor.check()
        ended = {config for config, message in found if isinstance(message, TrialLost)}
        for slot, running in [*self._running.items()]:
            if running.config in ended:
                self._forget(slot)
                running.worker.terminate()
                running.worker.join()
        return found

    def end(self) -> None:
        """See `Runner`. Terminates the workers at once, since interrupted trials can be resumed."""
        workers = [*self._idle.values(), *(running.worker for running in self._running.values())]
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        self._idle, self._running = {}, {}


class _Worker:
    """A worker process: runs the trials that it receives from a pipe, until the pipe is closed."""

    def __init__(
        self, trial: TrialFunction, environment: Mapping[str, str], slot: Mapping[str, str]
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, trial))
        unset = {n: v for n, v in {**environment, **QUIET}.items() if n not in os.environ}
        with process.child_environment({**unset, **slot}), interrupted_alone():
            self._process.start()
        theirs.close()  # only the worker keeps this end open, so reading fails when it exits

    def send(self, config: RunConfig, directory: Path) -> bool:
        """Sends a trial to the process; returns False if the process is dead."""
        try:
            self.pipe.send((config, directory))
        except ConnectionError:
            self.join()
            return False
        return True

    def memory_bytes(self) -> int:
        """Returns the resident memory of the process in bytes."""
        try:
            return psutil.Process(self._process.pid).memory_info().rss
        except psutil.Error:  # the process has just died
            return 0

    def cause_of_death(self) -> str:
        """Returns one line that says how the process ended."""
        self.pipe.close()
        self._process.join()
        code = self._process.exitcode or 0
        if code >= 0:
            return f"the trial's process ended with exit code {code}"
        name = signal.strsignal(-code) or "unknown"
        return f"the trial's process died of signal {-code} ({name}); out of memory, or a crash?"

    def terminate(self) -> None:
        """Sends SIGTERM to the process."""
        self._process.terminate()

    def join(self) -> None:
        """Waits for the process to exit, and kills it after `GRACE_SECONDS`."""
        self._process.join(GRACE_SECONDS)
        self._process.kill()  # a process that compiles does not handle SIGTERM
        self._process.join()
        self.pipe.close()


# The code below runs in the worker.


def _serve(pipe: Connection, trial: TrialFunction) -> None:
    """Runs each trial received from the pipe, until the parent closes the pipe or exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its workers
    # Exits at once: an exception could be raised anywhere, even in a garbage collector's callback.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    process.silence_libraries()  # the cause of a failure is sent over the pipe instead

    def send(message: Progress | Outcome) -> None:
        try:
            pipe.send(message)
        except ConnectionError:  # the parent has died, and a new sweep may use this trial's files
            sys.exit()

    while True:
        try:
            config, directory = pipe.recv()
        except EOFError:
            return
        send(outcome_of(trial, config, directory, send))
