"""Being told to stop: SIGTERM, which schedulers and cloud machines send before they take a machine.

They send SIGKILL a while later, so whoever is told had better be quick. Where nothing would be lost
the process ends at once. Where something would, the loops ask at every step and every batch.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator

EXIT_CODE = 128 + signal.SIGTERM  # what shells say of a process that SIGTERM ended


class StoppedError(Exception):
    """A run that was told to stop ends here; the message is one line."""


class Stop:
    """Whether this process was told to stop; without `listen` nobody can tell it.

    Attributes:
      requested: whether the signal came while `deferred`, here or to another process of the run.
    """

    def __init__(self, leave: Callable[[], object] = lambda: None) -> None:
        """Not told yet.

        Args:
          leave: ends the process; called for a signal that is not deferred.
        """
        self.requested = False
        self._leave = leave
        self._deferred = False

    def told(self) -> bool:
        """Whether it was told to stop, or another process of its run was; all have to ask."""
        from mnet_jax.training.agreement import any_says  # here: JAX takes a while to import

        told = any_says(self.requested)
        if told:  # and else no word: the signal may have come while the others were asked
            self.requested = True
        return told

    def check(self) -> None:
        """Raises StoppedError if it was told to stop."""
        if self.told():
            raise StoppedError("stopped by SIGTERM, the run is saved")

    def listen(self) -> None:
        """Takes SIGTERM from now on, also one that came while it was `blocked`."""
        signal.signal(signal.SIGTERM, self._take)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While something is unsaved: a signal is only noted, and so are those that follow it."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:  # it came behind the last question
            self._leave()

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """While the process may be replaced by another, which gets the signal when it listens."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        yield
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _take(self, number: int, frame: object) -> None:
        if self._deferred:
            self.requested = True
        else:
            self._leave()
