"""Elements that all figures share: size, colours for the colour-blind, captions, PNG output."""

import io
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from PIL import Image

# Okabe and Ito, "Color Universal Design" (2008), without black, which is for baselines, and without
# yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLACK, GREY = "#000000", "#999999"
MUTED = "0.35"  # grey for text beside the data
CAPTION_SIZE = 9
_LETTERS_AN_INCH = 14.5  # in a caption


def new_figure(width: float = 12.0, height: float = 5.0) -> Figure:
    """Returns an empty figure with a constrained layout; sizes in inches, 100 pixels per inch."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_caption(figure: Figure, text: str) -> None:
    """Adds a text below everything else, wrapped to the figure's width."""
    lines = textwrap.wrap(text, round(_LETTERS_AN_INCH * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize=CAPTION_SIZE, color=MUTED, x=0.01, ha="left")


def count_layers(axes: Axes, kind: str) -> None:
    """Labels an x axis that counts a network's layers of a kind; adds a grid and a legend."""
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
    # 256 colours are plenty for lines, dots and their edges, and take a third of the bytes.
    pixels.quantize(256, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return content.getvalue()
