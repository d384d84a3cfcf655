"""Frozen dataclasses to JSON and back: specs and configs, in checkpoints and in trial stores.

A union of dataclasses is tagged with the class's name under `type`. Reading is strict: an unknown
field, a missing class or an illegal value is one ValueError.

A field that a class gets after its values have been stored is declared with `added`. Stored values
stay readable, and the text of a value that does not use the field stays what it was, so that trials
and checkpoints are found again.
"""

import functools
import json
import types
from collections.abc import Callable
from dataclasses import field, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import cattrs
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.strategies import configure_tagged_union

from mnet_jax.validation import one_line

T = TypeVar("T")

_ADDED = "added"  # in a field's metadata


def added(default: T) -> T:
    """A dataclass's field that came later; `default` is what values had before there was one."""
    found: T = field(default=default, metadata={_ADDED: True})
    return found


def _unions(cls: type) -> list[Any]:
    """The unions of dataclasses among the types of a dataclass's fields, deep; inner ones first."""
    found: list[Any] = []

    def visit(annotation: Any) -> None:
        arguments = get_args(annotation)
        if is_dataclass(annotation) and isinstance(annotation, type):
            for hint in get_type_hints(annotation).values():
                visit(hint)
        for argument in arguments:
            visit(argument)
        is_union = get_origin(annotation) in (Union, types.UnionType)
        if is_union and sum(map(is_dataclass, arguments)) > 1 and annotation not in found:
            found.append(annotation)

    visit(cls)
    return found


@functools.cache
def _converter(cls: Any) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    converter.register_unstructure_hook(float, float)  # 1 and 1.0 are one value, so one text
    for exact in (int, float, str, bool):
        converter.register_structure_hook(exact, _structure_exactly)
    converter.register_unstructure_hook_factory(
        _has_added, lambda of: _without_unused(of, converter)
    )
    for union in _unions(cls):  # last, as it takes over the hooks that there are
        configure_tagged_union(union, converter, tag_name="type")
    return converter


def _has_added(cls: Any) -> bool:
    return is_dataclass(cls) and any(f.metadata.get(_ADDED) for f in fields(cls))


def _without_unused(cls: Any, converter: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    """What makes a value plain, without the added fields that are at their defaults."""
    unused = override(omit_if_default=True)
    omitted: dict[str, Any] = {f.name: unused for f in fields(cls) if f.metadata.get(_ADDED)}
    return make_dict_unstructure_fn(cls, converter, **omitted)


def _structure_exactly(value: Any, expected: type) -> Any:
    """A JSON number, string or truth value as it stands: "3" is no 3, 1.5 is no int, 1 no bool."""
    accepted = (int, float) if expected is float else expected
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"{value!r} is no {expected.__name__}")
    return expected(value)


def to_plain(value: Any) -> dict[str, Any]:
    """A dataclass as dictionaries, lists, numbers and strings."""
    assert is_dataclass(value) and fields(value)
    cls: Any = type(value)
    return _converter(cls).unstructure(value)


def to_json(value: Any) -> str:
    """A dataclass as one line of canonical JSON: equal values give equal text."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_plain(cls: type[T], plain: Any) -> T:
    """The inverse of `to_plain`.

    Raises:
      ValueError: `plain` is not what `to_plain` makes of a `cls`; one line saying why.
    """
    try:
        converter: cattrs.Converter = _converter(cls)  # type: ignore[arg-type]
        return converter.structure(plain, cls)
    except Exception as error:  # cattrs raises what its hooks raise: KeyError, TypeError, its own
        reason = one_line(str(error) or type(error).__name__)
        raise ValueError(f"not a {cls.__name__}: {reason}") from error


def from_json(cls: type[T], text: str) -> T:
    """The inverse of `to_json`; ValueError as in `from_plain`, or for text that is no JSON."""
    try:
        plain = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not a {cls.__name__}: not JSON, {error}") from error
    return from_plain(cls, plain)
