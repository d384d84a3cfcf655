"""The common style of all figures: sizes, colours, axes, captions, labels and PNG output.

The colour-blind can distinguish the colours. Names of models, arms and classes are drawn literally.
Matplotlib itself would read `$` as the start of mathematics, omit a label that begins with an
underscore from the legend, and draw the same empty box for every character that a font lacks.
"""

import io
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from PIL import Image

from mnet_jax.validation import one_line

# Okabe and Ito, "Color Universal Design" (2008), without black, which is the colour of baselines,
# and without yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLACK, GREY = "#000000", "#999999"
MUTED = "0.35"  # grey for text beside the data
_CAPTION_SIZE = 9
_CAPTION_LETTERS_AN_INCH = 14.5


def new_figure(width: float = 12.0, height: float = 5.0) -> Figure:
    """Returns an empty figure with a constrained layout; sizes in inches, 100 pixels per inch."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_caption(figure: Figure, text: str) -> None:
    """Adds a text below everything else, wrapped to the figure's width."""
    lines = textwrap.wrap(text, round(_CAPTION_LETTERS_AN_INCH * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize=_CAPTION_SIZE, color=MUTED, x=0.01, ha="left")


def count_layers(axes: Axes, kind: str) -> None:
    """Labels an x axis of layer numbers, and adds a grid and a legend.

    `kind` names the layers that are numbered, such as `bottleneck`.
    """
    axes.set_xlabel(f"{kind}, in the order of the network")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(fontsize=8)


def label_decades(axis: Axis) -> None:
    """Labels a logarithmic axis at 1, 2 and 5 of every decade, with plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())


def to_png(figure: Figure) -> bytes:
    """Returns the figure as the content of a PNG file."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    content = io.BytesIO()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # 256 colours suffice for lines and dots, and reduce the file to a third.
    pixels.quantize(256, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return content.getvalue()


DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # Matplotlib's own


def label(text: str) -> str:
    """Returns the text in one line and in a form that Matplotlib draws literally.

    Each character that Matplotlib's font lacks is replaced by its Python escape, such as `\\u4e2d`.
    A space is put before a leading underscore, as Matplotlib would omit such a text from a legend.
    """
    line = escaped(one_line(text), DEJAVU).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def escaped(text: str, font: Path) -> str:
    """Replaces each character that a font lacks by its Python escape, such as `\\u4e2d`."""
    known = _characters(font)
    return "".join(x if x in known else x.encode("unicode_escape").decode() for x in text)


def fonts() -> Iterator[Path]:
    """Yields Matplotlib's own font, then the system's fonts, sorted by path."""
    yield DEJAVU
    for path in sorted(font_manager.findSystemFonts()):
        yield Path(path)


def font_with(text: str) -> Path | None:
    """Returns the first of `fonts` that has all characters of a text, or None."""
    return next((font for font in fonts() if _characters(font) >= {*text}), None)


@cache
def _characters(font: Path) -> frozenset[str]:
    """Returns the characters of a font; none if it is unreadable or has only bitmaps."""
    try:
        face = FT2Font(str(font))
        scalable = bool(face.scalable)
        return frozenset(map(chr, face.get_charmap())) if scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
