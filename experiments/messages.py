"""The lines that commands print on standard error, escaped, as anything may be in them."""

import contextlib
import logging
import sys

from mnet_jax.validation import printable

FAILED, REFUSED = 1, 2  # exit codes


def tell(name: str, reason: object) -> None:
    """Prints the line of the command `name` that is about `reason` on standard error."""
    say(f"experiments.{name}: {reason}")


def say(line: str) -> None:
    """Prints one line on standard error, whatever is in it."""
    with contextlib.suppress(OSError):  # there is nobody else to tell
        sys.stderr.write(printable(line) + "\n")
        sys.stderr.flush()


class LogLines(logging.Handler):
    """Has what our modules log said as warnings are: it may hold names of files."""

    def __init__(self, command_name: str) -> None:
        super().__init__()
        self._command_name = command_name

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record as one line on standard error."""
        tell(self._command_name, f"{record.levelname.lower()}: {record.getMessage()}")


def warn(name: str, message: object, *where: object) -> None:
    """Prints a warning as one line, in the place of `warnings.showwarning`."""
    tell(name, f"warning: {' '.join(str(message).split())}")
