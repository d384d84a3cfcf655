"""HTML and SVG from Python, where text cannot become markup by mistake."""

import html
from collections.abc import Iterable

EMPTY = frozenset({"br", "circle", "line", "meta", "path", "rect"})  # tags without content


class Markup(str):
    """Text that is HTML already; any other text is escaped where it goes in."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
      name: of the element.
      *children: what is in it; what is no `Markup` is escaped.
      **attributes: `class_` and `data_tip` are class and data-tip; None leaves one out.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in EMPTY:
        return Markup(f"<{name}{told}/>")
    return Markup(f"<{name}{told}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """Parts one behind the other; what is no `Markup` is escaped."""
    return Markup("".join(p if isinstance(p, Markup) else html.escape(p) for p in parts))


def _text(value: str | float) -> str:
    """An attribute; of a coordinate a hundredth of a pixel is enough."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
