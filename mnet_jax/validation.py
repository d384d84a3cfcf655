"""The one form that an error about a value takes: its name, what was given, what is legal."""

from typing import get_args

MOST_CHARACTERS = 200


def require(holds: bool, name: str, value: object, legal: str) -> None:
    """Raises ValueError, one line with the field, the value and what is legal, unless `holds`."""
    if not holds:
        raise ValueError(f"{name}: got {value!r}, legal: {legal}")


def require_choice(name: str, value: object, literal: object) -> None:
    """Raises ValueError unless `value` is a member of the type `literal`, a `Literal`."""
    choices = get_args(literal)
    known = any(value == choice and type(value) is type(choice) for choice in choices)
    require(known, name, value, ", ".join(map(str, choices)))


def is_number(value: object) -> bool:
    """Whether a value is an integer or a float; True and False are neither here."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether a value is an integer; True and False are none here."""
    return isinstance(value, int) and not isinstance(value, bool)


def printable(text: object) -> str:
    """`text` with an escape in the place of each character that is not printed as itself.

    Names and messages that come from a file are anybody's: a line break would forge a second line,
    a control character move the cursor or set colours, and a bidirectional override turn what
    stands after it around. Bytes that are no UTF-8 are surrogates in Python's file names, which no
    stream takes. The escapes are those of `ascii`, and printable themselves.
    """
    words = str(text)
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def one_line(text: object) -> str:
    """`text` with single spaces in the place of white space, `printable`, cut where it is long."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}..."
