"""What goes wrong with weights, and how it is said in one line."""

MOST_CHARACTERS = 200
MOST_LISTED = 8


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; one line with what, why and what is legal."""


def one_line(text: object) -> str:
    """`text` without line breaks and control characters, cut where it is long.

    Names and messages that come from a file are anybody's: they may not forge a second line.
    """
    words = " ".join(str(text).split())
    line = words if words.isprintable() else ascii(words)[1:-1]
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}..."


def listing(title: str, items: list[str]) -> list[str]:
    """One clause, `3 missing (a, b, c)`, or none for no items; the first few are named."""
    if not items:
        return []
    more = len(items) - MOST_LISTED
    named = ", ".join(items[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
    return [f"{len(items)} {title} ({named})"]
