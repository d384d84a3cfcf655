"""Where the commands print; names and messages that come from files are shown, not obeyed."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from experiments.entry import OutputError
from mnet_jax.validation import printable

# What stands for our own signs where the stream's encoding lacks them; anything else is escaped.
SUBSTITUTES = {
    "±": "+-", "\N{MULTIPLICATION SIGN}": "x", "²": "^2", "⁻": "^-", "¹": "1", "ⁿ": "^n", "…": "~",
}  # fmt: skip


class Terminal(Console):
    """A Rich console that shows every text as it is, on any stream.

    A string is one line: nothing in it is markup, and what would break the line, move the cursor or
    set colours is escaped. A `Text` is our own layout and may have several lines. What the stream's
    encoding lacks is replaced.
    """

    def __init__(self, file: TextIO, width: int) -> None:
        """A console on `file`, as wide as the terminal, or `width` characters where it is none."""
        # What moves is shown on a real terminal alone: notebooks and continuous integration ask for
        # colours (FORCE_COLOR), which Rich takes for a terminal, and would keep every frame of it.
        terminal = file.isatty()
        super().__init__(
            file=file,
            width=None if terminal else width,
            force_interactive=terminal,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints objects as Rich does.

        Raises:
          OutputError: they cannot be written.
        """
        try:
            super().print(*objects, **options)
        except OSError as error:
            raise OutputError(str(error)) from error

    def on_broken_pipe(self) -> None:
        """Raises OutputError; by Rich it would be exit code 1."""
        raise OutputError("nobody reads") from sys.exception()

    def render_str(self, text: str, **options: Any) -> Text:
        """What Rich makes of a string, that of a table's cell too."""
        options |= {"markup": False, "emoji": False}
        return super().render_str(self._shown(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What everything becomes in the end, for texts that came by other ways than strings."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                lines = map(self._shown, segment.text.split("\n"))
                yield Segment("\n".join(lines), segment.style)

    def _shown(self, text: str) -> str:
        text = printable(text)
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return "".join(map(self._encodable, text))
        return text

    def _encodable(self, sign: str) -> str:
        try:
            sign.encode(self.encoding)
        except UnicodeEncodeError:
            return SUBSTITUTES.get(sign) or ascii(sign)[1:-1]
        return sign


def console(width: int) -> Terminal:
    """Standard output."""
    return Terminal(sys.stdout, width)


def errors(width: int) -> Terminal:
    """Standard error."""
    return Terminal(sys.stderr, width)
