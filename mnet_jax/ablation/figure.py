"""The charts of a report as PNG, as SVG, and as the script that draws them in a browser."""

import io
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert
from PIL import Image

from mnet_jax import host_memory
from mnet_jax.ablation.charts import Chart, configuration
from mnet_jax.ablation.themes import LIGHT, Theme
from mnet_jax.lettering import DEJAVU

SCALE = 1.5  # pixels of a PNG for one of the plot
LEGEND_LETTERS = 88  # of a line of what the signs mean
AXIS_TITLE = 27  # pixels, of the title above a vertical axis
STILL_WIDTH = 480  # pixels, of the SVG in a page that runs no script
VERSION = ".".join(alt.SCHEMA_VERSION.split(".")[:2])  # of Vega-Lite, as the converter names it

# Bytes. The JavaScript engine in the converter reserves 64 GiB of addresses, whatever it uses, and
# ends the process where it does not get them.
ADDRESSES = 72 * 2**30


def obstacle() -> str | None:
    """Why no chart can be drawn in this process, in one line; None where it can."""
    if host_memory.may_address(ADDRESSES):
        return None
    return (
        f"no charts: to draw them takes {ADDRESSES // 2**30} GiB of addresses, ulimit -v is lower"
    )


def to_png(charts: Sequence[Chart], otherwise: str, theme: Theme = LIGHT) -> bytes:
    """The charts side by side, with their titles, in a PNG of 256 colours.

    Args:
      charts: what to show.
      otherwise: what to say where there is none.
      theme: in which they were made.
    """
    lines = max((len(_legend(chart)) for chart in charts), default=0)
    tallest = max((chart.plot.height for chart in charts), default=0)
    titled = [_titled(chart, lines, tallest, theme.narrowest) for chart in charts]
    plot: alt.TopLevelMixin = (
        alt.hconcat(*titled, spacing=50) if titled else _words(otherwise, theme)
    )
    # Letters that the font lacks are taken from another that is there: from one that always is.
    vl_convert.register_font_directory(str(DEJAVU.parent))
    content = vl_convert.vegalite_to_png(
        _specification(plot, theme) | {"background": theme.ground, "padding": 16},
        vl_version=VERSION, scale=SCALE,
    )  # fmt: skip
    pixels = Image.open(io.BytesIO(content)).convert("RGB")
    # 256 colours are plenty for lines, dots and their edges, and take a third of the bytes.
    small = io.BytesIO()
    pixels.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def to_svg(chart: Chart, theme: Theme) -> str:
    """The chart without its title, as an SVG element."""
    plot = chart.plot.properties(width=STILL_WIDTH)
    svg = vl_convert.vegalite_to_svg(_specification(plot, theme), vl_version=VERSION)
    # The converter counts clip paths on from chart to chart; the same chart is to be the same text.
    names = re.findall(r'<clipPath id="(\w+)"', svg)
    own = {name: f"clip{index}" for index, name in enumerate(names)}
    pattern = r'(<clipPath id="|url\(#)(\w+)'
    return re.sub(pattern, lambda found: found[1] + own.get(found[2], found[2]), svg)


def to_vega_lite(chart: Chart, theme: Theme) -> dict[str, Any]:
    """The chart without its title, as wide as the element that it is put into."""
    autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
    return _specification(chart.plot.properties(width="container", autosize=autosize), theme)


def script_with_vega(script: str) -> str:
    """A script that needs no other: with Vega, Vega-Lite and Vega-Embed, as `vegaEmbed`, inside."""
    return vl_convert.javascript_bundle(script, vl_version=VERSION)


def _specification(plot: alt.TopLevelMixin, theme: Theme) -> dict[str, Any]:
    found = plot.to_dict() | {"config": configuration(theme)}
    del found["$schema"]  # an address, which nothing here is to ask
    return found


def _titled(chart: Chart, lines: int, height: int, width: int) -> alt.LayerChart:
    """The plot with its words above it in so many lines, level with those of others beside it."""
    legend = _legend(chart)
    title = alt.Title(
        chart.title,
        subtitle=legend + [""] * (lines - len(legend)),
        offset=14 if chart.plane else 14 + AXIS_TITLE,
    )
    return chart.plot.properties(
        title=title, width=width, height=height if chart.plane else chart.plot.height
    )


def _legend(chart: Chart) -> list[str]:
    return textwrap.wrap(chart.legend, LEGEND_LETTERS)


def _words(text: str, theme: Theme) -> alt.Chart:
    layer = alt.Chart(alt.Data(values=[{}])).mark_text(text=text, fontSize=14, color=theme.soft)
    return layer.properties(width=theme.narrowest, height=100)
