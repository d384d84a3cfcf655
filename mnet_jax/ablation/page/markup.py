"""HTML from Python, where text cannot become markup by mistake."""

import html
from collections.abc import Iterable


class Markup(str):
    """Text that is HTML already; any other text is escaped where it goes in."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | None) -> Markup:
    """An element.

    Args:
      name: of the element.
      *children: what is in it; what is no `Markup` is escaped.
      **attributes: `class_` and `data_v` are class and data-v; None leaves one out.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{told}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """Parts one behind the other; what is no `Markup` is escaped."""
    return Markup("".join(p if isinstance(p, Markup) else html.escape(p) for p in parts))
