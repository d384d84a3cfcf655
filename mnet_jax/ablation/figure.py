"""Renders the charts of a report as PNG, SVG and Vega-Lite specifications for a browser."""

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
from mnet_jax.plots.style import DEJAVU

SCALE = 1.5  # PNG pixels per pixel of the plot
LEGEND_LETTERS = 88  # characters per line of a legend
AXIS_TITLE = 27  # pixels; height of the title above a vertical axis
STILL_WIDTH = 480  # pixels; width of the SVG shown if scripts are disabled
VERSION = ".".join(alt.SCHEMA_VERSION.split(".")[:2])  # of Vega-Lite, as vl-convert expects it

# Bytes of address space. The JavaScript engine of vl-convert reserves 64 GiB of address space, and
# aborts the process if this fails.
ADDRESSES = 72 * 2**30


def obstacle() -> str | None:
    """Returns why this process cannot draw charts, in one line; None if it can."""
    if host_memory.allows_address_space(ADDRESSES):
        return None
    return (
        f"no charts: to draw them takes {ADDRESSES // 2**30} GiB of addresses, ulimit -v is lower"
    )


def to_png(charts: Sequence[Chart], otherwise: str, theme: Theme = LIGHT) -> bytes:
    """Draws the charts side by side, with their titles, in a PNG of 256 colours.

    Args:
      charts: the charts.
      otherwise: the text to draw if there are no charts.
      theme: the theme that the charts were made with.
    """
    lines = max((len(_legend(chart)) for chart in charts), default=0)
    tallest = max((chart.plot.height for chart in charts), default=0)
    titled = [_titled(chart, lines, tallest, theme.narrowest) for chart in charts]
    plot: alt.TopLevelMixin = (
        alt.hconcat(*titled, spacing=50) if titled else _words(otherwise, theme)
    )
    # The fallback for characters that the font lacks. This font is part of Matplotlib.
    vl_convert.register_font_directory(str(DEJAVU.parent))
    content = vl_convert.vegalite_to_png(
        _specification(plot, theme) | {"background": theme.ground, "padding": 16},
        vl_version=VERSION, scale=SCALE,
    )  # fmt: skip
    pixels = Image.open(io.BytesIO(content)).convert("RGB")
    # 256 colours suffice for lines and dots, and reduce the file to a third.
    small = io.BytesIO()
    pixels.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def to_svg(chart: Chart, theme: Theme) -> str:
    """Returns the chart without its title, as an SVG element."""
    plot = chart.plot.properties(width=STILL_WIDTH)
    svg = vl_convert.vegalite_to_svg(_specification(plot, theme), vl_version=VERSION)
    # vl-convert numbers clip paths across charts; renumbering makes the output deterministic.
    names = re.findall(r'<clipPath id="(\w+)"', svg)
    own = {name: f"clip{index}" for index, name in enumerate(names)}
    pattern = r'(<clipPath id="|url\(#)(\w+)'
    return re.sub(pattern, lambda found: found[1] + own.get(found[2], found[2]), svg)


def to_vega_lite(chart: Chart, theme: Theme) -> dict[str, Any]:
    """Returns the Vega-Lite specification of the chart: no title, and as wide as its container."""
    autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
    return _specification(chart.plot.properties(width="container", autosize=autosize), theme)


def script_with_vega(script: str) -> str:
    """Returns `script` bundled with Vega, Vega-Lite and Vega-Embed, so it can call `vegaEmbed`."""
    return vl_convert.javascript_bundle(script, vl_version=VERSION)


def _specification(plot: alt.TopLevelMixin, theme: Theme) -> dict[str, Any]:
    found = plot.to_dict() | {"config": configuration(theme)}
    del found["$schema"]  # a URL; the page must not refer to the network
    return found


def _titled(chart: Chart, lines: int, height: int, width: int) -> alt.LayerChart:
    """Returns the plot with title and legend; pads the legend to `lines` lines for alignment."""
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
