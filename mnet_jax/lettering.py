"""Users' text in figures: names of models, arms and classes, drawn literally.

Matplotlib reads `$` as the start of mathematics, and leaves a label that begins with an underscore
out of a legend. It draws the same empty box for every character that a font lacks.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from mnet_jax.validation import one_line

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # Matplotlib's own


def label(text: str) -> str:
    """Returns the text in one line and in a form that Matplotlib draws literally.

    Characters that its font lacks are escaped, such as `\\u4e2d`. A leading underscore, which would
    keep the text out of a legend, gets a space before it.
    """
    line = escaped(one_line(text), DEJAVU).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def escaped(text: str, font: Path) -> str:
    """Escapes the characters that a font lacks as Python does, such as `\\u4e2d`."""
    known = _letters(font)
    return "".join(x if x in known else x.encode("unicode_escape").decode() for x in text)


def fonts() -> Iterator[Path]:
    """Yields Matplotlib's own font, then the system's fonts, sorted by path."""
    yield DEJAVU
    for path in sorted(font_manager.findSystemFonts()):
        yield Path(path)


def font_with(text: str) -> Path | None:
    """Returns the first of `fonts` that has all characters of a text, or None."""
    return next((font for font in fonts() if _letters(font) >= {*text}), None)


@cache
def _letters(font: Path) -> frozenset[str]:
    """Returns the characters of a font; none if it is unreadable or has only bitmaps."""
    try:
        face = FT2Font(str(font))
        scalable = bool(face.scalable)
        return frozenset(map(chr, face.get_charmap())) if scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
