"""Axes for the fields of a run's config: every number, bool and `Literal` field is an axis.

The axes are derived from the dataclasses: a field's annotation gives the legal values, and the
"Attributes" section of the class's docstring gives the help text. If a field is a union of
dataclasses, such as the optimizer, it is an axis whose values are the names of the classes. The
fields of each class are axes too, but have no value in a config that uses another class.
"""

import dataclasses
import inspect
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mnet_jax.changes import ABSENT
from mnet_jax.config import Arm
from mnet_jax.options.axis import Axis, Varied

# Fields that are not axes, as other axes or other parts of the config determine them.
DETERMINED = (
    "spec.width", "spec.dialect.name",  # see `architecture_axes`
    "spec.stem.inputs", "spec.stem.outputs", "spec.stem.stride", "spec.stem.dilation",
    "spec.head.num_classes",  # the data set's
    "quantization.method",  # see `quantization_axes`
)  # fmt: skip

# Fields of a config that may be None but have axes, and the flags without which they are None.
OPTIONAL = {"quantization": "--quantization", "distillation": "--teacher"}


@dataclass(frozen=True)
class _Field:
    """A field of the config.

    Attributes:
      path: the attributes that lead to the field, such as training, optimizer, momentum.
      values: the type of the field's values.
      description: the field's entry in the docstring of its class.
      owners: the classes that define the field. If the parent field is a union of dataclasses, some
        of the union's members may lack the field.
      members: the classes of the union, if the field is a union of dataclasses; else empty.
    """

    path: tuple[str, ...]
    values: Any
    description: str
    owners: tuple[type, ...]
    members: tuple[type, ...] = ()


def field_axes(taken: Sequence[str]) -> tuple[Axis, ...]:
    """Returns the axes of all fields, in the order of the fields.

    Args:
      taken: names that other axes have. A field whose name is taken, or shared with another field,
        gets its parent's name as a prefix: `stem_kernel`.
    """
    fields: dict[tuple[str, ...], _Field] = {}
    for field in _fields(Arm):
        first = fields.setdefault(field.path, field)
        owners = tuple(dict.fromkeys([*first.owners, *field.owners]))
        fields[field.path] = dataclasses.replace(first, owners=owners)
    names = [path[-1] for path in fields]
    axes = []
    for name, field in zip(names, fields.values(), strict=True):
        if name in taken or names.count(name) > 1:
            whole = field.path[-2]
            text = f"{whole}: {field.description}"
            axes.append(_axis(dataclasses.replace(field, description=text), f"{whole}_{name}"))
        else:
            axes.append(_axis(field, name))
    return tuple(axes)


def _fields(cls: type, path: tuple[str, ...] = ()) -> Iterator[_Field]:
    """Yields the fields that can be axes, of a dataclass and of the dataclasses nested in it."""
    descriptions = _descriptions(cls)
    for name, hint in get_type_hints(cls).items():
        here = (*path, name)
        description = descriptions.get(name, "")
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        if ".".join(here) in DETERMINED:
            continue
        if hint in (bool, int, float) or get_origin(hint) is Literal:
            yield _Field(here, hint, description, (cls,))
        elif name in OPTIONAL and members[1:] == (NoneType,):
            yield from _fields(members[0], here)
        elif all(map(dataclasses.is_dataclass, members)):
            if len(members) > 1:
                kinds = Literal[*map(_kind, members)]  # type: ignore[valid-type]
                yield _Field(here, kinds, description, (cls,), members)
            for member in members:
                yield from _fields(member, here)


def _kind(cls: type) -> str:
    """Returns a class's name as typed on the command line: rmsprop for RmsProp."""
    return cls.__name__.lower()


def _descriptions(cls: type) -> dict[str, str]:
    """Returns the description of each attribute in a dataclass's docstring, as one line."""
    _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".") for name, text in entries}


def _axis(field: _Field, name: str) -> Axis:
    *parents, last = field.path

    def owner(config: Varied) -> Any:
        node: Any = config
        for parent in parents:
            node = getattr(node, parent, None)
        return node

    def read(config: Varied) -> Any:
        value = getattr(owner(config), last, ABSENT)
        return _kind(type(value)) if field.members else value

    def apply(config: Varied, value: Any) -> Varied:
        if owner(config) is None:
            legal = f"none without {OPTIONAL[parents[0]]}"
            raise ValueError(f"{name}: got {value!r}, legal: {legal}")
        if not hasattr(owner(config), last):
            there, having = _kind(type(owner(config))), ", ".join(map(_kind, field.owners))
            raise ValueError(f"{name}: the {parents[-1]} {there} has none, legal: {having}")
        if value == read(config):
            return config
        for member in field.members:
            if _kind(member) == value:
                value = member()
        return _replaced(config, field.path, value)

    def applied_by_name(config: Varied, value: Any) -> Varied:
        try:
            return apply(config, value)
        except ValueError as error:  # the dataclass names the field without its prefix
            reason = str(error)
            raise ValueError(
                name + reason.removeprefix(last) if reason.startswith(f"{last}: ") else reason
            ) from error

    own = {inner.path[-1] for member in field.members for inner in _fields(member, field.path)}
    return Axis(
        name=name,
        values=field.values,
        help=field.description,
        apply=applied_by_name,
        read=read,
        determines=tuple(sorted(own)),
    )


def _replaced(node: Any, path: Sequence[str], value: Any) -> Any:
    """Returns a dataclass with the field at the end of a path replaced."""
    name, *rest = path
    inner = _replaced(getattr(node, name), rest, value) if rest else value
    return dataclasses.replace(node, **{name: inner})
