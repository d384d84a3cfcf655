"""Prints lines on standard error; escapes control characters, which file names may contain."""

import contextlib
import logging
import sys

from mnet_jax.validation import printable

FAILED, REFUSED = 1, 2  # exit codes


def program(name: str) -> str:
    """Returns the command's name in messages: `mnet <name>` or `experiments.<name>`."""
    return sys.argv[0] if sys.argv[:1] == [f"mnet {name}"] else f"experiments.{name}"


def invocation(name: str) -> list[str]:
    """Returns the words that start the command in a shell, without its arguments."""
    called = program(name)
    return called.split() if called.startswith("mnet ") else ["python", "-m", called]


def tell(name: str, reason: object) -> None:
    """Prints `<program>: <reason>` on standard error, for example `experiments.train: ...`."""
    say(f"{program(name)}: {reason}")


def say(line: str) -> None:
    """Prints a text as one line on standard error; control characters are escaped."""
    with contextlib.suppress(OSError):  # there is nowhere else to report an error
        sys.stderr.write(printable(line) + "\n")
        sys.stderr.flush()


class LogLines(logging.Handler):
    """A logging handler that prints each record as one escaped line on standard error."""

    def __init__(self, command_name: str) -> None:
        super().__init__()
        self._command_name = command_name

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record as one line on standard error."""
        tell(self._command_name, f"{record.levelname.lower()}: {record.getMessage()}")


def warn(name: str, message: object, *where: object) -> None:
    """Prints a warning as one line; `where`, given by `warnings.showwarning`, is unused."""
    tell(name, f"warning: {' '.join(str(message).split())}")
