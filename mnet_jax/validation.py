"""The one form that an error about a value takes: its name, what was given, what is legal."""

from typing import get_args


def require(holds: bool, name: str, value: object, legal: str) -> None:
    """Raises ValueError, one line with the field, the value and what is legal, unless `holds`."""
    if not holds:
        raise ValueError(f"{name}: got {value!r}, legal: {legal}")


def require_choice(name: str, value: object, literal: object) -> None:
    """Raises ValueError unless `value` is a member of the type `literal`, a `Literal`."""
    choices = get_args(literal)
    require(value in choices, name, value, ", ".join(map(str, choices)))
