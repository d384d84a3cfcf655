"""Parses command lines into frozen dataclasses; errors are one line, with exit code 2."""

import contextlib
import dataclasses
import difflib
import inspect
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    NoReturn,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from mnet_jax.commands.entry import REFUSED, OutputError, tell
from mnet_jax.commands.messages import invocation
from mnet_jax.options.axes import Axis
from mnet_jax.validation import require
from mnet_jax.weights import hub

T = TypeVar("T")
LocalPath = NewType("LocalPath", str)  # a path kept as text; only a leading ~ is expanded
ModelPath = NewType("ModelPath", str)  # a LocalPath, or a reference to the hub

PATHS = (Path, LocalPath, ModelPath)
LEGAL = {
    int: "whole numbers",
    float: "numbers",
    bool: "True, False",
    Path: "a local path",
    LocalPath: "a local path",
    ModelPath: f"a local path, or {hub.LEGAL}",
}
_SHORT_FLAG = re.compile("-(?!inf|nan)[A-Za-z]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def with_axes(base: type, axes: Sequence[Axis]) -> Any:
    """Returns the dataclass `base` with one more field for each axis.

    The command-line flag of such a field takes several values.
    """
    fields = [
        (axis.name, Annotated[tuple[axis.values, ...], _help_of(axis)], ())  # type: ignore[name-defined]
        for axis in axes
    ]
    return dataclasses.make_dataclass(
        base.__name__,
        fields,
        bases=(base,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": base.__doc__},
    )


def _help_of(axis: Axis) -> Any:
    """Returns the help of an axis's flag, without the default, which depends on other flags."""
    return tyro.conf.arg(help=axis.help, help_behavior_hint="")


def axis_values(arguments: Any, axes: Sequence[Axis]) -> dict[str, tuple[Any, ...]]:
    """Returns the values of each axis on the command line; an empty tuple for an axis not given."""
    return {axis.name: getattr(arguments, axis.name) for axis in axes}


def single_values(arguments: Any, axes: Sequence[Axis]) -> dict[str, Any]:
    """Returns the value of each axis whose flag was given.

    Raises:
      ValueError: an axis has several values.
    """
    named = {name: given for name, given in axis_values(arguments, axes).items() if given}
    for name, given in named.items():
        require(len(given) == 1, name, " ".join(map(str, given)), "one value")
    return {name: given[0] for name, given in named.items()}


def parse(arguments: type[T], command: str, leading: str | None = None) -> T:
    """Parses the command line of a command.

    On an error, exits with one line on standard error and code 2.

    Args:
      arguments: the dataclass to parse into.
      command: the name of the command's module.
      leading: the field whose values may also be given as positional arguments, before all flags.
    """
    words = sys.argv[1:]
    if leading and words and not words[0].startswith("-"):
        words = [flag_of(leading), *words]
    asks_for_help = bool({"-h", "--help"} & {*words})
    try:
        words = ["--help"] if asks_for_help else _checked(words, get_type_hints(arguments))
    except ValueError as error:
        refuse(command, str(error))
    try:
        return tyro.cli(
            arguments,
            prog=" ".join(invocation(command)),
            description=inspect.getdoc(arguments),
            args=words,
            config=(tyro.conf.FlagConversionOff,),
        )
    except OSError as error:  # printing the text of --help failed
        raise OutputError(str(error)) from error


@contextlib.contextmanager
def refusals(command: str, arguments: Any) -> Iterator[None]:
    """Turns a ValueError about an argument or an OSError about a path into an exit with code 2.

    One line on standard error names the flag of the argument and says what is wrong.
    """
    try:
        yield
    except ValueError as error:
        name = re.split(r"\W", str(error), maxsplit=1)[0]
        flag = flag_of(name) if name in {f.name for f in dataclasses.fields(arguments)} else name
        refuse(command, flag + str(error).removeprefix(name))
    except OSError as error:  # a file name is too long, or a parent directory is not accessible
        refuse(command, f"{error.filename or 'a file'}: {error.strerror or error}")


def refuse(command: str, reason: str, code: int = REFUSED) -> NoReturn:
    """Exits with exit code `code` and one line on standard error."""
    tell(command, reason)
    sys.exit(code)


def flag_of(name: str) -> str:
    """Returns the flag of a field: `--batch-size` for `batch_size`."""
    return f"--{name.replace('_', '-')}"


def _checked(words: Sequence[str], hints: Mapping[str, Any]) -> list[str]:
    """Checks the words of a command line, and returns them in a form that tyro accepts.

    tyro 1.0 prints an error as a box of several lines, and has no public function to change this.
    tyro also accepts two mistakes that would drop arms from a sweep: for a repeated flag it uses
    the last occurrence only, and it ignores a flag without values.

    Args:
      words: the words of the command line.
      hints: the type of each field.

    Raises:
      ValueError: a flag is unknown, repeated or without values, or a value is not legal.
    """
    types = {flag_of(name): hint for name, hint in hints.items()}
    found = []
    for flag, given in _values_by_flag(words, types).items():
        first, *rest = _legal_values(flag, given, types[flag])
        # The sign tells a negative number from a flag. Before several values tyro 0.9 has none.
        joined = not rest or first.startswith("-")
        found += [f"{flag}={first}", *rest] if joined else [flag, first, *rest]
    return found


def _values_by_flag(words: Sequence[str], flags: Collection[str]) -> dict[str, list[str]]:
    """Groups the words by flag.

    Raises:
      ValueError: a flag is unknown or repeated, or a word precedes all flags.
    """
    given: dict[str, list[str]] = {}
    flag = ""
    for word in words:
        if not word.startswith("--"):
            is_value = bool(given) and not _SHORT_FLAG.match(word)
            require(is_value, "arguments", word, "flags with their values")
            given[flag].append(word)
            continue
        name, equals, value = word.partition("=")
        flag = name.replace("_", "-")
        if flag not in flags:
            close = difflib.get_close_matches(flag, flags, n=3) or sorted(flags)
            raise ValueError(f"{name}: no such flag, the nearest: {', '.join(close)}")
        require(flag not in given, flag, word, "each flag once, followed by all its values")
        given[flag] = [value] if equals else []
    return given


def _legal_values(flag: str, values: Sequence[str], hint: Any) -> Sequence[str]:
    """Checks the values of a flag and returns them; expands ~ in paths.

    Raises:
      ValueError: there are too few or too many values, or a value has the wrong type.
    """
    several = get_origin(hint) is tuple
    kind = get_args(hint)[0] if several or type(None) in get_args(hint) else hint
    if kind is bool and not values:
        return ["True"]
    legal = ", ".join(get_args(kind)) if get_origin(kind) is Literal else LEGAL.get(kind, "")
    counted = "one value or more" if several else "one value"
    count_is_legal = len(values) >= 1 if several else len(values) == 1
    require(count_is_legal, flag, " ".join(values), f"{counted}{legal and f' of {legal}'}")
    for value in values:
        require(_is_legal(value, kind), flag, value, legal)
    return [_with_home(flag, value) for value in values] if kind in PATHS else values


def _is_legal(word: str, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return word in get_args(kind)
    if kind is bool:
        return word in ("True", "False")
    if kind in PATHS and not (kind is ModelPath and hub.is_reference(word)):
        return not _URL.match(word)
    try:
        (hub.Reference.parse if kind is ModelPath else kind)(word)
    except ValueError:
        return False
    return True


def _with_home(flag: str, path: str) -> str:
    """Expands a leading ~ of a path to the home directory.

    Shells expand a ~ only at the start of a word, so not in `--run=~/mine`.

    Raises:
      ValueError: the home directory cannot be determined.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        legal = "a local path, with ~ only for a user with a home directory"
        raise ValueError(f"{flag}: got {path!r}, legal: {legal}") from error
