"""How every command begins and ends: signals, standard output, the exit code and the last line.

    if __name__ == "__main__":  # before the rest is imported, which takes a while
        with entry.command("cost"):
            from experiments import cost

            cost.main()

Imports nothing that takes time, so that signals are taken from a command's first line on.
"""

import atexit
import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator

from experiments import supervision
from experiments.messages import FAILED, REFUSED, LogLines, say, tell, warn
from mnet_jax import host_memory
from mnet_jax.training.stopping import INTERRUPTED, SIGNALS, TERMINATED, Stop
from mnet_jax.validation import one_line

BROKEN_PIPE = 128 + signal.SIGPIPE  # what shells say of a process that SIGPIPE ended
_LAST_STREAM = 2


class OutputError(Exception):
    """Standard output takes no more; the cause is an OSError."""


@contextlib.contextmanager
def command(name: str, *, goes_on: bool = False, terminated: int = TERMINATED) -> Iterator[Stop]:
    """Runs what is within as `python -m experiments.<name>`, and ends the process.

    A signal ends it at once, with one line, unless what is yielded defers that. Whatever is raised
    is one line too, or a traceback with exit code 1 where it is our fault.

    Args:
      name: the module's.
      goes_on: whether the same command goes on with what was stored, which the line then says.
      terminated: the exit code after SIGTERM.

    Yields:
      What the signals tell.
    """
    _require_streams(name)
    supervision.begin(name)
    codes: dict[int, int] = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: terminated}
    leaving = threading.Lock()

    def leave(number: int) -> None:
        if leaving.acquire(blocking=False):  # it is called from two threads
            _leave(name, said(number), codes[number])

    def said(number: int) -> str:
        by = "stopped by SIGTERM" if codes[number] == TERMINATED else "interrupted"
        return by + ", the same command goes on" * goes_on

    atexit.register(_deafen)  # before any other, so that it is the last one that is called
    stop = Stop(leave)
    stop.watch()
    stop.listen()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    warnings.showwarning = functools.partial(warn, name)
    logging.getLogger("mnet_jax").addHandler(LogLines(name))
    code = 0
    try:
        host_memory.require_addresses()  # what is imported next would abort or wait for ever
        yield stop
    except KeyboardInterrupt:  # see Stop.raised
        code = codes[stop.number]
        tell(name, said(stop.number))
    except BaseException as error:
        code = conclude(name, error)
    failure = _failure_of_output()
    if failure and not code:
        code = _output_failed(name, failure)
    if code:  # at once: what is to be kept is, and threads may wait for a full disk
        os._exit(code)
    sys.exit()


def conclude(name: str, error: BaseException) -> int:
    """Says why the command `name` ends, in one line where it can, and returns its exit code."""
    if isinstance(error, SystemExit):
        if isinstance(error.code, int | None):
            return error.code or 0
        tell(name, error.code)  # a library's, which leaves by its words
        return FAILED
    failure = error.__cause__ if isinstance(error, OutputError) else _failure_of_output()
    if isinstance(failure, OSError):
        return _output_failed(name, failure)
    if host_memory.is_exhaustion(error):
        tell(name, f"out of memory: {one_line(error) or 'the system gives no more'}")
        return FAILED
    if isinstance(error, OSError):  # the disk is full, or no longer ours
        tell(name, f"{error.filename or 'a file'}: {error.strerror or error}")
        return FAILED
    from experiments import platforms  # here: for those who look for a fault

    reason = platforms.refusal()
    if reason:
        tell(name, reason)
        return REFUSED
    tell(name, "an error that was not foreseen")
    for line in "".join(traceback.format_exception(error)).splitlines():
        say(line)
    return FAILED


def _require_streams(name: str) -> None:
    """Ends the process if standard output is closed.

    The first file that is opened would take its number, and get what libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STREAM:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(_LAST_STREAM, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        tell(name, "standard output is closed")
        os._exit(FAILED)


def _failure_of_output() -> OSError | None:
    """Why what was printed cannot be written, None if it is; Python would try again at its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return error
    return None


def _output_failed(name: str, failure: OSError) -> int:
    if isinstance(failure, BrokenPipeError):  # as `| head` ends all programs, without a word
        return BROKEN_PIPE
    tell(name, f"standard output: {failure.strerror}")
    return FAILED


def _leave(name: str, said: str, code: int) -> None:
    """Ends the process at once, from a signal's handler or another thread, and its children."""
    with contextlib.suppress(Exception):  # it may be about to be imported
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    with contextlib.suppress(OSError):
        if os.isatty(1) and os.environ.get("TERM") not in (None, "dumb", "unknown"):
            os.write(1, b"\r\x1b[K\x1b[?25h")  # a progress bar's line, and the cursor that it hides
        os.write(_LAST_STREAM, f"experiments.{name}: {said}\n".encode())
    os._exit(code)


def _deafen() -> None:
    """Has signals pass: all is done, and Python is about to take the handlers off."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
