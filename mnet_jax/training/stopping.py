"""Being told to stop: by Ctrl-C (SIGINT), or by SIGTERM, which schedulers and cloud machines send.

They send SIGKILL a while later, so whoever is told had better be quick. Where nothing would be lost
the process ends at once. Where something would, the loops ask at every step and every batch.

Nothing is raised where a signal happens to arrive: in a callback of the garbage collector, of which
JAX has one, Python prints an exception and goes on.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 128 + signal.SIGINT  # what shells say of a process that such a signal ended
TERMINATED = 128 + signal.SIGTERM


class StoppedError(Exception):
    """A run that was told to stop ends here; the message is one line.

    Attributes:
      code: the exit code of a process that ends with it.
    """

    def __init__(self, reason: str, code: int = TERMINATED) -> None:
        super().__init__(reason)
        self.code = code


class Stop:
    """Whether this process was told to stop; without `listen` nobody can tell it.

    Attributes:
      requested: whether a signal came while `deferred`, here or to another process of the run.
      number: which signal.
    """

    def __init__(self, leave: Callable[[int], object] = lambda number: None) -> None:
        """Not told yet.

        Args:
          leave: ends the process; called with the number of a signal that is not deferred.
        """
        self.requested = False
        self.number: int = signal.SIGTERM
        self._leave = leave
        self._deferred = self._raised = False
        self._lock = threading.RLock()  # the handler may come while this thread holds it

    def told(self) -> bool:
        """Whether it was told to stop, or another process of its run was; all have to ask."""
        from mnet_jax.training.agreement import most  # here: JAX takes a while to import

        number = most(self.number if self.requested else 0)
        if number:  # and else no word: the signal may have come while the others were asked
            self.requested, self.number = True, number
        return bool(number)

    def check(self) -> None:
        """Raises StoppedError if it was told to stop."""
        if self.told():
            interrupted = self.number == signal.SIGINT
            reason = "interrupted" if interrupted else "stopped by SIGTERM"
            raise StoppedError(f"{reason}, the run is saved", 128 + self.number)

    def listen(self) -> None:
        """Takes the signals from now on, also one that came while it was `blocked`.

        A process that was started without SIGINT, as shells start jobs in the background, stays so.
        """
        for number in SIGNALS:
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._take)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def watch(self) -> None:
        """Lets a signal end the process also while its main thread is in C, as in a compilation.

        Python calls a handler between two instructions of the main thread. C's own handler writes
        the signal's number to a pipe, which a thread reads. That thread also counts: the second
        SIGINT ends the process at once, whatever is unsaved.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        with blocked(*SIGNALS):  # the thread begins so too: all signals are the main thread's
            threading.Thread(target=self._count, args=(reading,), daemon=True).start()
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While something is unsaved: a signal is only noted, and so are those that follow it."""
        with self._lock:
            self._deferred = True
        try:
            yield
        finally:
            with self._lock:
                self._deferred = False
        if self.requested:  # it came behind the last question
            self._leave(self.number)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """While there are processes to end and no JAX in this one: a signal is KeyboardInterrupt.

        It is raised in the main thread, once.
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
            if self.requested:  # and on the way to its end
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
    """While the process is replaced by another, or starts one, which begins with these blocked.

    A signal is taken when this is left, or when who was started unblocks it (`Stop.listen`).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def interrupted_alone() -> Iterator[None]:
    """While `multiprocessing` starts a process: Ctrl-C, which a terminal sends to both, is not its.

    The parent decides; the child would say so by a traceback.
    """
    from multiprocessing import resource_tracker  # here: it takes a while to import

    resource_tracker.ensure_running()  # or its start, within, would take the block off
    with blocked(signal.SIGINT):
        yield
