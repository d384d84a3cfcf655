"""What the charts of a report look like in each medium.

Hues after Okabe and Ito, "Color Universal Design" (2008), darker on white and lighter on black
where theirs have a contrast to the ground of less than 3:1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from mnet_jax.validation import one_line


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours, as CSS writes them, and letters.

    Attributes:
      ground: behind the chart.
      ink: of names.
      soft: of other text, and of reference lines.
      hair: of grids.
      hues: of the baseline, then of the other arms in turn.
      font: the font's family.
      narrowest: the width of the narrowest plot, in pixels, into which labels fit.
      letters: a text in one line, in letters that the font has.
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
        """The colours as CSS's variables, to which those of `PAGE` refer."""
        named = {"ground": self.ground, "ink": self.ink, "soft": self.soft, "hair": self.hair}
        named |= {f"h{index}": hue for index, hue in enumerate(self.hues)}
        return " ".join(f"--{name}: {colour};" for name, colour in named.items())


def _drawable(text: str) -> str:
    """A name with escapes for the letters that Matplotlib's font lacks.

    The converter brings no font with more of them, and leaves out what it has no shape for.
    """
    from mnet_jax.lettering import DEJAVU, escaped  # here: Matplotlib takes half a second

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
# A page has both, and the reader's browser chooses; its fonts have every letter.
PAGE = Theme(
    ground="var(--ground)", ink="var(--ink)", soft="var(--soft)", hair="var(--hair)",
    hues=tuple(f"var(--h{index})" for index in range(len(LIGHT.hues))),
    font="system-ui, sans-serif", narrowest=250, letters=one_line,
)  # fmt: skip
