"""Where the commands print."""

import sys

from rich.console import Console


def console(width: int) -> Console:
    """Standard output, as wide as the terminal, or `width` characters where it is none.

    What moves is shown on a real terminal alone: notebooks and continuous integration ask for
    colours (FORCE_COLOR), which Rich takes for a terminal, and would keep every frame of it.
    """
    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else width, force_interactive=terminal)
