"""HTML from Python, where text cannot become markup by mistake."""

import html
from collections.abc import Iterable


class Markup(str):
    """Text that is HTML already. All other text is escaped when it is inserted."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | None) -> Markup:
    """Returns an HTML element.

    Args:
      name: the element's name.
      *children: its content; text that is not `Markup` is escaped.
      **attributes: its attributes, such as `class_` for class and `data_v` for data-v; None omits
        one.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{told}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """Concatenates the parts; text that is not `Markup` is escaped."""
    return Markup("".join(p if isinstance(p, Markup) else html.escape(p) for p in parts))
