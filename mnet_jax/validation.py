"""Values from outside: numbers as Python's own, and the one form that an error about a value takes.

An error is one line with the value's name, what was given and what is legal.
"""

import dataclasses
import functools
import numbers
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, get_args

Options = ParamSpec("Options")
T = TypeVar("T")

MOST_CHARACTERS = 200


def require(holds: bool, name: str, value: object, legal: str) -> None:
    """Raises ValueError, one line with the field, the value and what is legal, unless `holds`."""
    if not holds:
        raise ValueError(f"{name}: got {value!r}, legal: {legal}")


def require_choice(name: str, value: object, literal: object) -> None:
    """Raises ValueError unless `value` is a member of the type `literal`, a `Literal`."""
    choices, own = get_args(literal), plain(value)
    known = any(own == choice and type(own) is type(choice) for choice in choices)
    require(known, name, value, ", ".join(map(str, choices)))


def is_number(value: object) -> bool:
    """Whether a value is an integer or a float, NumPy's and JAX's too; no truth value is one."""
    own = plain(value)
    return isinstance(own, int | float) and not isinstance(own, bool)


def is_whole(value: object) -> bool:
    """Whether a value is an integer, NumPy's and JAX's too; no truth value is one."""
    own = plain(value)
    return isinstance(own, int) and not isinstance(own, bool)


def plain(value: Any) -> Any:
    """A number, truth value or string of NumPy's or JAX's as Python's own; all else as it is.

    A float narrower than Python's is the number that it prints as: `np.float32(0.35)` is 0.35 and
    not 0.3499999940395355, which would leave other channels and another text.
    """
    if type(value) in (bool, int, float, str):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "__array__"):
        try:
            scalar = value.__array__()[()]
        except TypeError:  # JAX traces it
            return value
        own = scalar.item()
        return float(str(scalar)) if isinstance(own, float) else own
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def make_fields_plain(instance: Any) -> None:
    """Makes the fields of a frozen dataclass `plain`, in its `__post_init__`, before it is used."""
    for field in dataclasses.fields(instance):
        given = getattr(instance, field.name)
        own = plain(given)
        if own is not given:
            object.__setattr__(instance, field.name, own)


def with_plain_arguments(function: Callable[Options, T]) -> Callable[Options, T]:
    """A function that sees each of its arguments `plain`, for those that calculate with them."""

    @functools.wraps(function)
    def called(*args: Options.args, **options: Options.kwargs) -> T:
        own = {name: plain(value) for name, value in options.items()}
        return function(*map(plain, args), **own)

    return called


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
