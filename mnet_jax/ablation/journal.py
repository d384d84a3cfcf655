"""The journal: a file to which several processes append events, and which no kill can spoil.

`journal.jsonl` has one line for each event, in the order in which they happened; `events` has the
format of a line. Nothing in it is ever changed. Whoever reads holds a shared lock on the file
(flock), whoever appends an exclusive one, so lines never mix and nobody sees half of one. What can
go wrong, and what then holds:

- A kill while appending leaves a last line without its line break. It is not used; the next writer
  moves it to `journal.torn-<digits>`, which is kept.
- A write that fails (disk full) is undone: the file has the length that it had.
- A line that was damaged later, or holds what this version cannot use, is not used, and the others
  are. Lines that an editor, or Git on Windows, has ended by CRLF are as good as before.
- What stands in the file's place but is none (a FIFO, a directory) is refused.
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
    """A directory that cannot be read or written; the message is one line with its path."""


@contextlib.contextmanager
def store_errors(verb: str, path: Path) -> Iterator[None]:
    """Turns an OSError into a StoreError that names the path, as in `cannot write <path>: ...`."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {verb} {path}: {error.strerror or error}") from error


class Journal:
    """The journal in a directory; `path` is its file, which appears with the first event."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._complaints: dict[str, None] = {}
        self._events: dict[bytes, Event] = {}  # lines that were read before cost no time again

    @property
    def complaints(self) -> tuple[str, ...]:
        """A line about each damaged or torn line met so far."""
        return tuple(self._complaints)

    @contextlib.contextmanager
    def reading(self) -> Iterator[list[Event]]:
        """All events, while nobody appends; none where there is no file.

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
        """The journal, while nobody else reads or appends; a torn last line is set aside.

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
        """Adds an event; when this returns, it is on disk.

        Raises:
          ValueError: a number in it is not finite; one line with its name.
          StoreError: the file cannot be written.
        """
        line = to_line(event)  # first, so that what is refused leaves no file
        with self.writing() as writer:
            writer.append(line)

    def _read(self, content: bytes) -> list[Event]:
        """The events of the sound lines; the others go to the complaints."""
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
        """Where a torn line goes: the same place again, if a kill comes in between."""
        digits = hashlib.sha256(line).hexdigest()[:8]
        return self.path.with_name(f"{self.path.stem}.torn-{digits}")

    def _complain(self, number: int, what: str) -> None:
        self._complaints[f"{self.path}, line {number}: {what}"] = None


class Writer:
    """A journal that is locked for writing; `events` is what it holds so far."""

    def __init__(self, path: Path, file: int, events: list[Event], end: int) -> None:
        self.events = events
        self._path, self._file, self._end = path, file, end

    def append(self, line: bytes) -> None:
        """Adds a line of `events.to_line` whole or not at all, on disk when this returns.

        Raises:
          StoreError: it cannot be written; the file is as it was.
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
