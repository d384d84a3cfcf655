"""The journal: an append-only file of events that stays readable if a process is killed.

Several processes may read and append at the same time.

`journal.jsonl` has one line for each event, in chronological order; `events` defines the format of
a line. Existing lines are never changed. A reader holds a shared lock on the file (flock), and a
writer an exclusive lock, so lines never mix and no reader sees a partial line. Failures are handled
as follows:

- A process killed while appending leaves a last line without a line break. This torn line is
  ignored, and the next writer moves it to a file `journal.torn-<digits>`, which is kept.
- A failed write (disk full) is undone by truncating the file to its previous length.
- A line that was damaged later, or that this version cannot read, is skipped; the other lines are
  read. Lines that end with CRLF, from an editor or from Git on Windows, are accepted.
- A path that is not a regular file (a FIFO, a directory) is refused.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mnet_jax.ablation.events import Event, from_line, to_line
from mnet_jax.files import locked, make_directory, replace_file, sync_directory
from mnet_jax.validation import one_line

NAME = "journal.jsonl"


class StoreError(ValueError):
    """Raised if a store cannot be read or written; the message is one line with the path."""


@contextlib.contextmanager
def store_errors(verb: str, path: Path) -> Iterator[None]:
    """Turns an OSError into a StoreError that names the path, as in `cannot write <path>: ...`."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {verb} {path}: {error.strerror or error}") from error


class Journal:
    """The journal in a directory; its file `path` is created with the first event."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._complaints: dict[str, None] = {}
        self._events: dict[bytes, Event] = {}  # a cache of decoded lines

    @property
    def complaints(self) -> tuple[str, ...]:
        """One message for each damaged or torn line read so far."""
        return tuple(self._complaints)

    @contextlib.contextmanager
    def reading(self) -> Iterator[list[Event]]:
        """Locks the journal against appending and yields all events; [] if there is no file.

        Raises:
          StoreError: the file cannot be read.
        """
        with contextlib.ExitStack() as stack:
            with store_errors("read", self.path):
                try:
                    file = stack.enter_context(locked(self.path, os.O_RDONLY, shared=True))
                    content = _content(file)
                except FileNotFoundError:
                    content = b""
            yield self._read(content)

    @contextlib.contextmanager
    def writing(self) -> Iterator["Writer"]:
        """Locks the journal exclusively and yields its writer; first moves a torn last line away.

        Raises:
          StoreError: the file cannot be written.
        """
        with contextlib.ExitStack() as stack:
            with store_errors("write", self.path):
                make_directory(self.path.parent)
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
                file = stack.enter_context(locked(self.path, flags))
                content = _content(file)
                if not content:
                    sync_directory(self.path.parent)
                events = self._read(content)
                end = content.rfind(b"\n") + 1
                if end < len(content):
                    replace_file(self._torn(content[end:]), content[end:])
                    os.ftruncate(file, end)
            yield Writer(self.path, file, events, end)

    def append(self, event: Event) -> None:
        """Appends an event and flushes it to disk.

        Raises:
          ValueError: a number is not finite; the message is one line with the number's name.
          StoreError: the file cannot be written.
        """
        line = to_line(event)  # before the file is created, as this may raise
        with self.writing() as writer:
            writer.append(line)

    def _read(self, content: bytes) -> list[Event]:
        """Returns the events of the intact lines; adds a complaint for each other line."""
        events = []
        *lines, torn = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                event = self._events.get(line) or from_line(line.removesuffix(b"\r"))
            except ValueError as error:
                self._complain(number, f"not used, {one_line(error)}")
                continue
            self._events[line] = event
            events.append(event)
        if torn:
            aside = self._torn(torn).name
            self._complain(len(lines) + 1, f"cut off, not used; the next write moves it to {aside}")
        return events

    def _torn(self, line: bytes) -> Path:
        """Returns the path to which a torn line is moved; equal lines have equal paths."""
        digits = hashlib.sha256(line).hexdigest()[:8]
        return self.path.with_name(f"{self.path.stem}.torn-{digits}")

    def _complain(self, number: int, what: str) -> None:
        self._complaints[f"{self.path}, line {number}: {what}"] = None


class Writer:
    """A journal that is locked for writing; `events` are those already in the journal."""

    def __init__(self, path: Path, file: int, events: list[Event], end: int) -> None:
        self.events = events
        self._path, self._file, self._end = path, file, end

    def append(self, line: bytes) -> None:
        """Appends a line from `events.to_line` completely or not at all, and flushes it to disk.

        Raises:
          StoreError: the line cannot be written; the file is unchanged.
        """
        with store_errors("write", self._path):
            try:
                left = memoryview(line)
                while left:
                    left = left[os.write(self._file, left) :]
                os.fsync(self._file)
            except BaseException:
                os.ftruncate(self._file, self._end)
                raise
        self._end += len(line)


def _content(file: int) -> bytes:
    with open(file, "rb", buffering=0, closefd=False) as reader:
        return reader.read()
