"""The class `Axis`: a name, the legal values, and how to read and set the value of a config."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_origin

from mnet_jax.architectures import NetworkSpec
from mnet_jax.config import Arm, RunConfig
from mnet_jax.validation import is_number, is_whole, require, require_choice

Varied = Arm | RunConfig  # the types that axes apply to
C = TypeVar("C", Arm, RunConfig)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A hyperparameter or a property of the network that a sweep can vary.

    Attributes:
      name: the name of the flag on the command line and of the column in the table.
      values: the type of its values; a `Literal` if only certain values are legal.
      help: the help text of the flag: what a sweep over the axis shows, with the source.
      apply: maps an arm or config and a value to the arm or config with this value.
      read: returns the value of an arm or config; `ABSENT` if its network or its training settings
        have no such property.
      determines: the axes whose values change with this axis. A table about this axis omits them.
    """

    name: str
    values: Any
    help: str
    apply: Callable[[Varied, Any], Varied]
    read: Callable[[Varied], Any]
    determines: tuple[str, ...] = ()

    def applied(self, config: C, value: Any) -> C:
        """Returns the arm or config with this value. An int is accepted where a float is expected.

        Raises:
          ValueError: the value is not legal, or not legal for this config; one line that begins
            with the name of the axis.
        """
        try:
            changed = self.apply(config, _of_its_type(self, value))
        except OverflowError as error:
            raise ValueError(f"{self.name}: got {value!r}, legal: smaller numbers") from error
        assert isinstance(changed, type(config))
        return changed


def _of_its_type(axis: Axis, value: Any) -> Any:
    """Checks a value against the axis's type and returns it; an int becomes a float if needed.

    True and 1.0 are not accepted as int.
    """
    if get_origin(axis.values) is Literal:
        require_choice(axis.name, value, axis.values)
        return value
    if axis.values is bool:
        require(isinstance(value, bool), axis.name, value, "True, False")
        return value
    if axis.values is int:
        require(is_whole(value), axis.name, value, "whole numbers")
        return value
    require(is_number(value) and math.isfinite(value), axis.name, value, "finite numbers")
    return float(value)


def spec_axis(
    name: str,
    values: Any,
    help: str,
    transform: Callable[[NetworkSpec, Any], NetworkSpec],
    read: Callable[[NetworkSpec], Any],
    *,
    determines: Sequence[str] = (),
) -> Axis:
    """Makes an axis that changes only the network spec.

    `transform` and `read` are `Axis.apply` and `Axis.read` for a spec instead of an arm or config;
    for the other arguments see `Axis`.
    """
    return Axis(
        name=name,
        values=values,
        help=help,
        apply=lambda config, value: replace(config, spec=transform(config.spec, value)),
        read=lambda config: read(config.spec),
        determines=tuple(determines),
    )


def only(values: set[Any], otherwise: Any) -> Any:
    """Returns the element of a one-element set, or `otherwise` for an empty set.

    Several elements are sorted and returned as one string.
    """
    if len(values) > 1:
        return " ".join(format_value(value) for value in sorted(values))
    return next(iter(values), otherwise)


def format_value(value: Any) -> str:
    """Formats an axis's value for a table."""
    return f"{value:g}" if isinstance(value, float) else str(value)
