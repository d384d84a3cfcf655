"""The colours and fonts of a report's charts, for pictures and for the page.

Hues are those of Okabe and Ito, "Color Universal Design" (2008). Hues whose contrast with the
background would be below 3:1 are made darker (on white) or lighter (on black).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from mnet_jax.validation import one_line


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The colours (as CSS values) and the font of charts.

    Attributes:
      ground: background of the chart.
      ink: colour of names.
      soft: colour of other text, and of reference lines.
      hair: colour of grid lines.
      hues: colour of the baseline, then the colours that the other arms cycle through.
      font: the font family.
      narrowest: width of the narrowest plot in which labels must fit, in pixels.
      letters: returns a text as one line, without characters that the font lacks.
    """

    ground: str
    ink: str
    soft: str
    hair: str
    hues: tuple[str, ...]
    font: str
    narrowest: int
    letters: Callable[[str], str]

    def css(self) -> str:
        """Returns CSS that defines the variables which the theme `PAGE` uses as its colours."""
        named = {"ground": self.ground, "ink": self.ink, "soft": self.soft, "hair": self.hair}
        named |= {f"h{index}": hue for index, hue in enumerate(self.hues)}
        return " ".join(f"--{name}: {colour};" for name, colour in named.items())


def _drawable(text: str) -> str:
    """Returns a name in one line, with Python escapes for characters that Matplotlib's font lacks.

    vl-convert has no font with more characters, and omits characters that it cannot draw.
    """
    from mnet_jax.plots.style import DEJAVU, escaped  # here: Matplotlib takes 0.5 s to import

    return escaped(one_line(text), DEJAVU)


LIGHT = Theme(
    ground="#ffffff", ink="#16191d", soft="#565e68", hair="#d9dde3",
    hues=("#16191d", "#0072b2", "#d55e00", "#008f68", "#b8558f", "#a87400", "#2b93cf"),
    font="Liberation Sans", narrowest=500, letters=_drawable,
)  # fmt: skip
DARK = replace(
    LIGHT, ground="#14171b", ink="#e9ecf0", soft="#a7b0bb", hair="#363d46",
    hues=("#f2f4f7", "#4a9fe0", "#f4823c", "#2fbf93", "#e295c4", "#e6ab2e", "#8fd0f7"),
)  # fmt: skip
# A page has the colours of both themes, and the browser chooses one theme. The browser's fonts have
# all characters.
PAGE = Theme(
    ground="var(--ground)", ink="var(--ink)", soft="var(--soft)", hair="var(--hair)",
    hues=tuple(f"var(--h{index})" for index in range(len(LIGHT.hues))),
    font="system-ui, sans-serif", narrowest=250, letters=one_line,
)  # fmt: skip
