"""An axis: its name, its legal values, and how a config takes one and says which it has."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_origin

from mnet_jax.architectures import NetworkSpec
from mnet_jax.config import Arm, RunConfig
from mnet_jax.validation import is_number, is_whole, require, require_choice

Varied = Arm | RunConfig  # what has a value on every axis
C = TypeVar("C", Arm, RunConfig)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing to vary.

    Attributes:
      name: its flag on the command line, and its column in the table.
      values: the type of its values, a `Literal` where the choice is closed.
      claim: what varying it shows, with the source.
      apply: the arm, or the config, with this value.
      read: the value that an arm or a config has, or `ABSENT` where a network or a recipe has no
        place for it.
      settles: axes whose values follow from this one's, so that a table of it need not show them.
    """

    name: str
    values: Any
    claim: str
    apply: Callable[[Varied, Any], Varied]
    read: Callable[[Varied], Any]
    settles: tuple[str, ...] = ()

    def applied(self, config: C, value: Any) -> C:
        """The arm or config with this value, which may be of a related type: 1 is a float too.

        Raises:
          ValueError: the value is not legal, or not for this config; one line with the axis.
        """
        try:
            changed = self.apply(config, _of_its_type(self, value))
        except OverflowError as error:
            raise ValueError(f"{self.name}: got {value!r}, legal: smaller numbers") from error
        assert isinstance(changed, type(config))
        return changed


def _of_its_type(axis: Axis, value: Any) -> Any:
    """The value as its axis has it: 1 and 1.0 are one float, True and 1.0 are no int."""
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
    claim: str,
    transform: Callable[[NetworkSpec, Any], NetworkSpec],
    read: Callable[[NetworkSpec], Any],
    *,
    settles: Sequence[str] = (),
) -> Axis:
    """An axis of the network alone; for the arguments see `Axis`."""
    return Axis(
        name=name,
        values=values,
        claim=claim,
        apply=lambda config, value: replace(config, spec=transform(config.spec, value)),
        read=lambda config: read(config.spec),
        settles=tuple(settles),
    )


def only(values: set[Any], otherwise: Any) -> Any:
    """The one value of a set, `otherwise` for none, all of them for several."""
    if len(values) > 1:
        return " ".join(text(value) for value in sorted(values))
    return next(iter(values), otherwise)


def text(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
