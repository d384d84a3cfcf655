"""Checks and conversions of values from outside, and the common form of error messages.

An error message is one line with the value's name, the given value and the legal values.
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
    """Raises a one-line ValueError with name, value and legal values unless `holds` is true."""
    if not holds:
        raise ValueError(f"{name}: got {value!r}, legal: {legal}")


def require_choice(name: str, value: object, literal: object) -> None:
    """Raises a ValueError unless `value` is one of the choices of `literal`, a `Literal` type."""
    choices, own = get_args(literal), plain(value)
    known = any(own == choice and type(own) is type(choice) for choice in choices)
    require(known, name, value, ", ".join(map(str, choices)))


def is_number(value: object) -> bool:
    """Whether a value is an integer or a float of Python, NumPy or JAX; booleans are not."""
    own = plain(value)
    return isinstance(own, int | float) and not isinstance(own, bool)


def is_whole(value: object) -> bool:
    """Whether a value is an integer of Python, NumPy or JAX; booleans are not."""
    own = plain(value)
    return isinstance(own, int) and not isinstance(own, bool)


def plain(value: Any) -> Any:
    """Converts a scalar or string of NumPy or JAX to a Python one; returns other values unchanged.

    A float narrower than Python's becomes the number that it prints as: `np.float32(0.35)` becomes
    0.35 and not 0.3499999940395355, which would change channel counts and the text of a config.
    """
    if type(value) in (bool, int, float, str):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "__array__"):
        try:
            scalar = value.__array__()[()]
        except TypeError:  # a JAX tracer
            return value
        own = scalar.item()
        return float(str(scalar)) if isinstance(own, float) else own
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def make_fields_plain(instance: Any) -> None:
    """Applies `plain` to the fields of a frozen dataclass; for use in its `__post_init__`."""
    for field in dataclasses.fields(instance):
        given = getattr(instance, field.name)
        own = plain(given)
        if own is not given:
            object.__setattr__(instance, field.name, own)


def with_plain_arguments(function: Callable[Options, T]) -> Callable[Options, T]:
    """Decorates a function so that `plain` is applied to all of its arguments."""

    @functools.wraps(function)
    def called(*args: Options.args, **options: Options.kwargs) -> T:
        own = {name: plain(value) for name, value in options.items()}
        return function(*map(plain, args), **own)

    return called


def printable(text: object) -> str:
    """Replaces every non-printable character of `text` by its escape, as `ascii` writes it.

    Names and messages from a file are untrusted. A line break could fake a second line, a control
    character could move the cursor or set colours, and a bidirectional override could reverse the
    text after it. Python represents bytes of file names that are not UTF-8 by surrogates, which no
    stream accepts.
    """
    words = str(text)
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def one_line(text: object) -> str:
    """Returns `text` as one `printable` line with single spaces, cut to `MOST_CHARACTERS`."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}..."
