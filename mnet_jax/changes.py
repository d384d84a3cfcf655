"""Differences of two configs, field by field, and one config as a few lines of text."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "-"  # stands for a missing field, axis or number in a table


@dataclass(frozen=True, kw_only=True)
class Change:
    """A field that differs between two configs.

    Attributes:
      path: path of the field, such as `spec.blocks[1..16].bottleneck`. Items of a tuple that change
        in the same way share one path, with their indices from 0.
      before: the baseline's value, as text.
      after: the other config's value, as text.
    """

    path: str
    before: str
    after: str


def changes(before: Any, after: Any) -> list[Change]:
    """Returns the fields in which two dataclasses differ, in the order of the fields."""
    return [Change(path=path, before=old, after=new) for path, old, new in _walk(before, after)]


def _walk(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields (path, old text, new text) for each difference; for tuples see `Change.path`."""
    if before == after:
        return
    if type(before) is type(after) and dataclasses.is_dataclass(before):
        for field in dataclasses.fields(before):
            below = f"{path}.{field.name}" if path else field.name
            yield from _walk(getattr(before, field.name), getattr(after, field.name), below)
    elif isinstance(before, tuple) and isinstance(after, tuple) and (before or after):
        yield from _joined(before, after, path)
    else:
        yield path, format_value(before), format_value(after)


def _joined(before: tuple, after: tuple, path: str) -> Iterator[tuple[str, str, str]]:
    """Yields each distinct difference between two tuples, with all indices at which it occurs."""
    places: dict[tuple[str, str, str], list[int]] = {}
    for index in range(max(len(before), len(after))):
        old = before[index] if index < len(before) else None
        new = after[index] if index < len(after) else None
        for change in _walk(old, new):
            places.setdefault(change, []).append(index)
    for (below, old, new), indices in places.items():
        yield f"{path}[{_ranges(indices)}]{below and f'.{below}'}", old, new


def _ranges(indices: Sequence[int]) -> str:
    """Formats the indices 0, 1, 2, 5 as `0..2, 5`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in runs)


def format_value(value: Any) -> str:
    """Formats a value as one line; omits the fields of a dataclass that have their defaults."""
    if value is None:
        return ABSENT
    if isinstance(value, tuple):
        return ", ".join(map(format_value, value)) or "none"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if not dataclasses.is_dataclass(value):
        return str(value)
    varied = [
        f"{field.name}={format_value(own)}"
        for field in dataclasses.fields(value)
        if (own := getattr(value, field.name)) != field.default
    ]
    return f"{type(value).__name__}({', '.join(varied)})"


def outline(config: Any, path: str = "") -> list[tuple[str, str]]:
    """Returns a config as (path, value) lines; equal neighbours in a tuple share a line."""
    lines: list[tuple[str, str]] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        below = f"{path}.{field.name}" if path else field.name
        if dataclasses.is_dataclass(value) and (not path or _holds_others(value)):
            lines += outline(value, below)
        elif isinstance(value, tuple):
            lines += [(f"{below}[{places}]", format_value(item)) for places, item in _runs(value)]
        else:
            lines.append((below, format_value(value)))
    return lines


def _holds_others(value: Any) -> bool:
    inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return any(dataclasses.is_dataclass(v) or isinstance(v, tuple) for v in inner)


def _runs(items: tuple) -> Iterator[tuple[str, Any]]:
    """Yields (indices, item) for each run of equal neighbours."""
    start = 0
    for index in range(1, len(items) + 1):
        if index == len(items) or items[index] != items[start]:
            yield _ranges(range(start, index)), items[start]
            start = index
