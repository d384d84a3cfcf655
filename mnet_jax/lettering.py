"""Text of other people in pictures: names of models, arms and classes, as they are.

A name may hold what Matplotlib takes for mathematics or for a sign to leave it out, and letters
that a font has no shape for, in whose place it draws boxes that look all alike.
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
    """The text as Matplotlib has to be given it to draw these very letters, in one line.

    Letters that its font lacks are escaped, such as `\\u4e2d`. A space comes before an underscore
    at the start, which would keep the text out of a legend.
    """
    line = escaped(one_line(text), DEJAVU).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def escaped(text: str, font: Path) -> str:
    """The text with the letters that a font lacks as Python writes them, such as `\\u4e2d`."""
    known = _letters(font)
    return "".join(x if x in known else x.encode("unicode_escape").decode() for x in text)


def fonts() -> Iterator[Path]:
    """Matplotlib's own font, then those of the system, by name; these are asked for last."""
    yield DEJAVU
    for path in sorted(font_manager.findSystemFonts()):
        yield Path(path)


def font_with(text: str) -> Path | None:
    """The first of `fonts` that has all letters of a text, or None."""
    return next((font for font in fonts() if _letters(font) >= {*text}), None)


@cache
def _letters(font: Path) -> frozenset[str]:
    """The characters that a font has shapes for; none if it cannot be read or has bitmaps alone."""
    try:
        face = FT2Font(str(font))
        scalable = bool(face.scalable)
        return frozenset(map(chr, face.get_charmap())) if scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
