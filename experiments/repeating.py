"""Reconstructs the command that trains one arm of a sweep again."""

import shlex
from collections.abc import Callable, Sequence
from typing import Literal, get_args, get_origin

from experiments.arguments import flag_of
from mnet_jax.ablation import axes
from mnet_jax.config import RunConfig


def command_of_arm(command: str, columns: Sequence[str]) -> Callable[[RunConfig], str | None]:
    """Makes a function that returns the command for one arm of a sweep.

    The arm's command is the sweep's, with the arm's value on each axis of `columns`.

    Args:
      command: the sweep's command line.
      columns: the axes on which the arms differ.

    Returns:
      A function from an arm's config to its command. It returns None if a column is not an axis, if
      the arm's value on a column is not one that the flag accepts, or if a shell could not parse
      `command`.
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
    """Returns the words of a command line without some flags and their values."""
    kept, dropping = [], False
    for word in words:
        if word.startswith("--"):
            dropping = word.partition("=")[0].replace("_", "-") in flags
        if not dropping:
            kept.append(word)
    return kept


def _is_value(value: object, kind: object) -> bool:
    """Returns whether an axis accepts a value.

    For a network whose layers differ on the axis, `Axis.read` returns text that is no legal value.
    """
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    return isinstance(value, int | float) if kind is float else type(value) is kind
