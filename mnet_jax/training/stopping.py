"""Stop requests: Ctrl-C (SIGINT), or SIGTERM, which schedulers and cloud machines send.

Schedulers send SIGKILL a while later, so a process must stop quickly. If no work would be lost, the
signal handler ends the process at once. Otherwise the handler only records the signal, and the
loops check for a recorded signal at every step and every batch.

Except in `Stop.raised`, the handler raises no exception. The signal could arrive in a callback of
the garbage collector, such as JAX's, where Python prints the exception and continues.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 128 + signal.SIGINT  # a shell's exit code for a process ended by SIGINT
TERMINATED = 128 + signal.SIGTERM


class StoppedError(Exception):
    """A run ends because of a stop request; the message is one line.

    Attributes:
      code: the exit code for a process that ends with this error.
    """

    def __init__(self, reason: str, code: int = TERMINATED) -> None:
        super().__init__(reason)
        self.code = code


class Stop:
    """The stop requests to this process; signals are handled only after `listen`.

    Attributes:
      requested: whether a signal arrived during `deferred` or `raised`, in this or another process
        of the run.
      number: the number of that signal.
    """

    def __init__(self, leave: Callable[[int], object] = lambda number: None) -> None:
        """Creates an object that handles no signals until `listen` is called.

        Args:
          leave: ends the process; called with the number of a signal that is not deferred.
        """
        self.requested = False
        self.number: int = signal.SIGTERM
        self._leave = leave
        self._deferred = self._raised = False
        self._lock = threading.RLock()  # the handler may run while this thread holds it

    def stop_requested(self) -> bool:
        """Returns whether a stop of any process of the run was requested; a collective call."""
        from mnet_jax.training.agreement import max_over_processes  # JAX is slow to import

        number = max_over_processes(self.number if self.requested else 0)
        if number:  # else change nothing: a signal may have arrived during the call
            self.requested, self.number = True, number
        return bool(number)

    def check(self) -> None:
        """Raises StoppedError if a stop was requested."""
        if self.stop_requested():
            interrupted = self.number == signal.SIGINT
            reason = "interrupted" if interrupted else "stopped by SIGTERM"
            raise StoppedError(f"{reason}, the run is saved", 128 + self.number)

    def listen(self) -> None:
        """Installs the signal handlers; a signal that arrived while it was blocked is handled now.

        A process that was started with SIGINT ignored, as shells start background jobs, keeps
        ignoring SIGINT.
        """
        for number in SIGNALS:
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._take)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def watch(self) -> None:
        """Makes signals end the process even while its main thread runs C code, such as compiling.

        Python runs signal handlers only between instructions of the main thread. But CPython's own
        handler runs at once: it writes the signal's number to a pipe, which a new thread reads. The
        thread also counts signals: a second SIGINT ends the process at once, even with unsaved
        work.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        with blocked(*SIGNALS):  # the thread inherits the mask, so the main thread gets all signals
            threading.Thread(target=self._count, args=(reading,), daemon=True).start()
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defers signals while work is unsaved: records the first signal and ignores later ones.

        With `watch`, a second SIGINT still ends the process.
        """
        with self._lock:
            self._deferred = True
        try:
            yield
        finally:
            with self._lock:
                self._deferred = False
        if self.requested:  # the signal arrived after the last check
            self._leave(self.number)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Raises KeyboardInterrupt once, in the main thread, if a signal arrives in this context.

        Use this in a process without JAX that must end its child processes.
        """
        self._raised = True
        try:
            yield
        finally:
            self._raised = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._raised and not self.requested:
            self.requested, self.number = True, number
            raise KeyboardInterrupt
        self._note(number)

    def _note(self, number: int) -> None:
        with self._lock:
            if self.requested:  # the process is already ending
                return
            if self._deferred:
                self.requested, self.number = True, number
                return
        self._leave(number)

    def _count(self, reading: int) -> None:
        interruptions = 0
        while True:
            for number in os.read(reading, 64):
                interruptions += number == signal.SIGINT
                if interruptions > 1:
                    self._leave(number)
                elif number in SIGNALS and not self._raised:
                    self._note(number)


@contextlib.contextmanager
def blocked(*numbers: int) -> Iterator[None]:
    """Blocks signals in a context that replaces this process or starts another.

    The new program or process inherits the block. A signal that arrives meanwhile is delivered when
    the context ends, or when the new program or process unblocks the signal (`Stop.listen`).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def interrupted_alone() -> Iterator[None]:
    """Blocks SIGINT in the processes that `multiprocessing` starts in this context.

    A terminal sends Ctrl-C to parent and child. The parent decides what to do; the child would only
    print a traceback.
    """
    from multiprocessing import resource_tracker  # slow to import

    resource_tracker.ensure_running()  # starting it inside the block would unblock the signal

    with blocked(signal.SIGINT):
        yield
