"""The consoles that commands print to; markup and control characters are not interpreted."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from mnet_jax.commands.entry import OutputError
from mnet_jax.validation import printable

# Replacements for the commands' own characters if an encoding lacks them; others are escaped.
SUBSTITUTES = {
    "±": "+-", "\N{MULTIPLICATION SIGN}": "x", "²": "^2", "⁻": "^-", "¹": "1", "ⁿ": "^n", "…": "~",
}  # fmt: skip


class Terminal(Console):
    """A Rich console that prints every text literally, on any stream.

    A string is printed as one line: no part of it is interpreted as markup, and characters that
    would break the line, move the cursor or set colours are escaped. A `Text`, which only the
    commands themselves make, may have several lines. Characters that the stream's encoding lacks
    are replaced.
    """

    def __init__(self, file: TextIO, width: int) -> None:
        """Creates a console.

        Args:
          file: the stream to print to.
          width: the console's width in characters if `file` is not a terminal.
        """
        # Animations are shown on a real terminal only. Notebooks and continuous integration set
        # FORCE_COLOR, from which Rich infers a terminal, but keep every frame of an animation.
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
          OutputError: the stream cannot be written.
        """
        try:
            super().print(*objects, **options)
        except OSError as error:
            raise OutputError(str(error)) from error

    def on_broken_pipe(self) -> None:
        """Raises OutputError; Rich's method would exit with code 1."""
        raise OutputError("nobody reads") from sys.exception()

    def render_str(self, text: str, **options: Any) -> Text:
        """Converts a string, such as a table's cell, to escaped text without markup."""
        options |= {"markup": False, "emoji": False}
        return super().render_str(self._shown(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Renders as Rich does and escapes all text, also text that bypassed `render_str`."""
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
    """Returns a console on standard output."""
    return Terminal(sys.stdout, width)


def errors(width: int) -> Terminal:
    """Returns a console on standard error."""
    return Terminal(sys.stderr, width)
