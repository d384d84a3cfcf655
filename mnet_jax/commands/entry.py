"""The start and end of every command: signals, standard output, exit code and error message.

This module imports nothing slow, so signals are handled from a command's first line on.
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

from mnet_jax import host_memory
from mnet_jax.commands import supervision
from mnet_jax.commands.messages import FAILED, REFUSED, LogLines, program, say, tell, warn
from mnet_jax.training.stopping import INTERRUPTED, SIGNALS, TERMINATED, Stop
from mnet_jax.validation import one_line

BROKEN_PIPE = 128 + signal.SIGPIPE  # the exit code that shells report for death by SIGPIPE
_LAST_STREAM = 2


class OutputError(Exception):
    """Raised when standard output cannot be written; the cause is an OSError."""


@contextlib.contextmanager
def command(name: str, *, resumable: bool = False, terminated: int = TERMINATED) -> Iterator[Stop]:
    """Runs the block as the command `name`, and exits the process.

    On a signal, the process exits immediately with one line, unless the yielded `Stop` defers the
    exit. An exception is also reported in one line; only an unexpected exception prints a
    traceback, with exit code 1.

    Args:
      name: the name of the command's module.
      resumable: whether the same command continues after an interruption. If true, the line at an
        interruption says so.
      terminated: the exit code after SIGTERM.

    Yields:
      The `Stop` that receives the signals.
    """
    _require_streams(name)
    supervision.begin(name)
    codes: dict[int, int] = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: terminated}
    leaving = threading.Lock()

    def leave(number: int) -> None:
        if leaving.acquire(blocking=False):  # two threads may call `leave`
            _leave(name, reason_of(number), codes[number])

    def reason_of(number: int) -> str:
        by = "stopped by SIGTERM" if codes[number] == TERMINATED else "interrupted"
        return by + ", the same command goes on" * resumable

    atexit.register(_deafen)  # registered first, so it is called last
    stop = Stop(leave)
    stop.watch()
    stop.listen()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    warnings.showwarning = functools.partial(warn, name)
    logging.getLogger("mnet_jax").addHandler(LogLines(name))
    code = 0
    try:
        host_memory.require_addresses()  # else later imports may abort or hang
        yield stop
    except KeyboardInterrupt:  # see Stop.raised
        code = codes[stop.number]
        tell(name, reason_of(stop.number))
    except BaseException as error:
        code = report_error(name, error)
    failure = _failure_of_output()
    if failure and not code:
        code = _output_failed(name, failure)
    if code:  # exits at once: everything is saved, and threads may be waiting for a full disk
        os._exit(code)
    sys.exit()


def report_error(name: str, error: BaseException) -> int:
    """Prints the error that ends the command, in one line if possible; returns the exit code."""
    if isinstance(error, SystemExit):
        if isinstance(error.code, int | None):
            return error.code or 0
        tell(name, error.code)  # a library's sys.exit with a message
        return FAILED
    failure = error.__cause__ if isinstance(error, OutputError) else _failure_of_output()
    if isinstance(failure, OSError):
        return _output_failed(name, failure)
    if host_memory.is_exhaustion(error):
        tell(name, f"out of memory: {one_line(error) or 'the system gives no more'}")
        return FAILED
    if isinstance(error, OSError):  # the disk is full, or no longer accessible
        tell(name, f"{error.filename or 'a file'}: {error.strerror or error}")
        return FAILED
    from mnet_jax.commands import platforms  # needed only after an unexpected error

    reason = platforms.refusal()
    if reason:
        tell(name, reason)
        return REFUSED
    tell(name, "unexpected error")
    for line in "".join(traceback.format_exception(error)).splitlines():
        say(line)
    return FAILED


def _require_streams(name: str) -> None:
    """Exits if standard output is closed; opens the null device for other closed streams.

    If the file descriptor of a stream stayed free, the next opened file would get this descriptor,
    and libraries would print into the file.
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
    """Flushes standard output; returns the error if this fails, else None.

    After an error, standard output is redirected to the null device, since Python flushes standard
    output again on exit.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return error
    return None


def _output_failed(name: str, failure: OSError) -> int:
    if isinstance(failure, BrokenPipeError):  # after `| head`, say: programs then end silently
        return BROKEN_PIPE
    tell(name, f"standard output: {failure.strerror}")
    return FAILED


def _leave(name: str, reason: str, code: int) -> None:
    """Kills the children and exits at once; called by a signal handler or another thread."""
    with contextlib.suppress(Exception):  # the module may be in the middle of its import
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    with contextlib.suppress(OSError):
        if os.isatty(1) and os.environ.get("TERM") not in (None, "dumb", "unknown"):
            os.write(1, b"\r\x1b[K\x1b[?25h")  # clears a progress bar's line, and shows the cursor
        os.write(_LAST_STREAM, f"{program(name)}: {reason}\n".encode())
    os._exit(code)


def _deafen() -> None:
    """Ignores signals from now on: all work is done, and Python is about to remove the handlers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
