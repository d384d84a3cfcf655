"""What goes wrong with weights, and how it is said in one line."""

from collections.abc import Callable, Sequence
from typing import Any

MOST_LISTED = 8


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; one line with what, why and what is legal.

    Attributes:
      problems: every name that does not fit and how, of which the line has the first of each kind.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


def listing(title: str, items: Sequence[Any], text_of: Callable[[Any], str] = str) -> str:
    """One clause, `3 missing (a, b, c)`; the first few are named, in the words of `text_of`."""
    more = len(items) - MOST_LISTED
    named = ", ".join(map(text_of, items[:MOST_LISTED])) + (f" and {more} more" if more > 0 else "")
    return f"{len(items)} {title} ({named})"
