"""Errors about weights, and the form of their one-line messages."""

from collections.abc import Callable, Sequence
from typing import Any

MOST_LISTED = 8


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; the message is one line with the reason.

    Attributes:
      problems: every name that does not fit, with the reason; the message has the first of each
        kind.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


def listing(title: str, items: Sequence[Any], text_of: Callable[[Any], str] = str) -> str:
    """Returns a clause such as `3 missing (a, b, c)`.

    It lists the first few items, each formatted by `text_of`.
    """
    more = len(items) - MOST_LISTED
    named = ", ".join(map(text_of, items[:MOST_LISTED])) + (f" and {more} more" if more > 0 else "")
    return f"{len(items)} {title} ({named})"
