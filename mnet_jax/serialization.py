"""Conversion of frozen dataclasses to JSON and back, for specs and configs in files.

A value of a union of dataclasses is tagged with its class's name under `type`. Reading is strict:
an unknown field, a missing `type` or an illegal value raises a ValueError.

Declare a new field with `added` if files hold values of the class without this field. Then these
files remain readable. The JSON of a value with the field's default does not change, so existing
trials and checkpoints are still found.
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
    """Declares a dataclass field added later; values stored without it have the `default`."""
    found: T = field(default=default, metadata={_ADDED: True})
    return found


def _unions(cls: type) -> list[Any]:
    """Returns all unions of dataclasses in a dataclass's field types, nested ones first."""
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
    converter.register_unstructure_hook(float, float)  # equal texts for 1 and 1.0
    for exact in (int, float, str, bool):
        converter.register_structure_hook(exact, _structure_exactly)
    converter.register_unstructure_hook_factory(
        _has_added, lambda of: _without_unused(of, converter)
    )
    for union in _unions(cls):  # last, as it uses the hooks registered before
        configure_tagged_union(union, converter, tag_name="type")
    return converter


def _has_added(cls: Any) -> bool:
    return is_dataclass(cls) and any(f.metadata.get(_ADDED) for f in fields(cls))


def _without_unused(cls: Any, converter: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    """Returns a cattrs hook that converts a `cls` to a dictionary.

    The dictionary omits fields that were declared with `added` and have their default value.
    """
    unused = override(omit_if_default=True)
    omitted: dict[str, Any] = {f.name: unused for f in fields(cls) if f.metadata.get(_ADDED)}
    return make_dict_unstructure_fn(cls, converter, **omitted)


def _structure_exactly(value: Any, expected: type) -> Any:
    """Checks a JSON value's type: does not convert "3" to 3, 1.5 to an int, or 1 to a bool."""
    accepted = (int, float) if expected is float else expected
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"{value!r} is not of type {expected.__name__}")
    return expected(value)


def to_plain(value: Any) -> dict[str, Any]:
    """Converts a dataclass to dictionaries, lists, numbers and strings."""
    assert is_dataclass(value) and fields(value)
    cls: Any = type(value)
    return _converter(cls).unstructure(value)


def to_json(value: Any) -> str:
    """Converts a dataclass to one line of canonical JSON: equal values give equal text."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_plain(cls: type[T], plain: Any) -> T:
    """Converts the result of `to_plain` back to an instance of `cls`.

    Raises:
      ValueError: `plain` does not represent a `cls`; the message is one line.
    """
    try:
        converter: cattrs.Converter = _converter(cls)  # type: ignore[arg-type]
        return converter.structure(plain, cls)
    except Exception as error:  # cattrs raises what its hooks raise: KeyError, TypeError, its own
        reason = one_line(str(error) or type(error).__name__)
        raise ValueError(f"not a {cls.__name__}: {reason}") from error


def from_json(cls: type[T], text: str) -> T:
    """Converts the result of `to_json` back to an instance of `cls`.

    Raises:
      ValueError: `text` is not JSON, or does not represent a `cls`; the message is one line.
    """
    try:
        plain = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not a {cls.__name__}: not JSON, {error}") from error
    return from_plain(cls, plain)
