"""The command that trains one arm of a sweep again."""

import shlex
from collections.abc import Callable, Sequence
from typing import Literal, get_args, get_origin

from experiments.arguments import flag_of
from mnet_jax.ablation import axes
from mnet_jax.config import RunConfig


def command_of_arm(command: str, columns: Sequence[str]) -> Callable[[RunConfig], str | None]:
    """A sweep's command with one value on each axis that tells its arms apart.

    Args:
      command: as it was typed.
      columns: the axes that tell the arms apart.

    Returns:
      From an arm's config to its command; to None where no value of an axis, or more than the axes
      of the table, make the arm what it is, or where the command is none that a shell takes.
    """
    by_name = {axis.name: axis for axis in axes.AXES}
    try:
        words = _without(shlex.split(command), {flag_of(name) for name in columns})
    except ValueError:  # a quote that is not closed
        return lambda config: None

    def command_of(config: RunConfig) -> str | None:
        flags: list[str] = []
        for name in columns:
            if name not in by_name:
                return None
            value = by_name[name].read(config)
            if value == axes.ABSENT:
                continue
            if not _is_value(value, by_name[name].values):
                return None
            flags += [flag_of(name), str(value)]
        return shlex.join([*words, *flags])

    return command_of


def _without(words: Sequence[str], flags: set[str]) -> list[str]:
    """The words but for some flags, of which each stands before its values."""
    kept, dropping = [], False
    for word in words:
        if word.startswith("--"):
            dropping = word.partition("=")[0].replace("_", "-") in flags
        if not dropping:
            kept.append(word)
    return kept


def _is_value(value: object, kind: object) -> bool:
    """Whether an axis takes a value; a network that has several at once reads as none of them."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    return isinstance(value, int | float) if kind is float else type(value) is kind
