"""Reading a command line: flags from a frozen dataclass, every refusal one line and exit code 2."""

import contextlib
import dataclasses
import difflib
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

from experiments.entry import REFUSED, OutputError, tell
from mnet_jax.ablation.axes import Axis
from mnet_jax.validation import require

T = TypeVar("T")
LocalPath = NewType("LocalPath", str)  # a path that is kept as it was given, but for its ~

PATHS = (Path, LocalPath)
LEGAL = {int: "whole numbers", float: "numbers", bool: "True, False"} | dict.fromkeys(
    PATHS, "a local path"
)
_SHORT_FLAG = re.compile("-(?!inf|nan)[A-Za-z]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def with_axes(base: type, axes: Sequence[Axis]) -> Any:
    """The dataclass `base` with a field for each axis in front: a flag with one or more values."""
    fields = [
        (axis.name, Annotated[tuple[axis.values, ...], tyro.conf.arg(help=axis.claim)], ())  # type: ignore[name-defined]
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


def axis_values(arguments: Any, axes: Sequence[Axis]) -> dict[str, tuple[Any, ...]]:
    """The values given for each axis, none for one that was not named."""
    return {axis.name: getattr(arguments, axis.name) for axis in axes}


def single_values(arguments: Any, axes: Sequence[Axis]) -> dict[str, Any]:
    """The value of each axis that was named; ValueError if one has several."""
    named = {name: given for name, given in axis_values(arguments, axes).items() if given}
    for name, given in named.items():
        require(len(given) == 1, name, " ".join(map(str, given)), "one value")
    return {name: given[0] for name, given in named.items()}


def parse(arguments: type[T], command: str, leading: str | None = None) -> T:
    """The arguments of `python -m experiments.<command>`, or an exit with one line and code 2.

    Args:
      arguments: the dataclass of them.
      command: the module's name.
      leading: the field whose values may stand before the first flag, without one.
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
            prog=f"python -m experiments.{command}",
            description=arguments.__doc__,
            args=words,
            config=(tyro.conf.FlagConversionOff,),
        )
    except OSError as error:  # it prints what was asked for by --help
        raise OutputError(str(error)) from error


@contextlib.contextmanager
def refusals(command: str, arguments: Any) -> Iterator[None]:
    """Exits with one line and code 2 at a ValueError about an argument, an OSError about a path."""
    try:
        yield
    except ValueError as error:
        name = re.split(r"\W", str(error), maxsplit=1)[0]
        flag = flag_of(name) if name in {f.name for f in dataclasses.fields(arguments)} else name
        refuse(command, flag + str(error).removeprefix(name))
    except OSError as error:  # a name is too long, a folder on the way to it closed to us
        refuse(command, f"{error.filename or 'a file'}: {error.strerror or error}")


def refuse(command: str, reason: str, code: int = REFUSED) -> NoReturn:
    """Ends the process with one line on standard error."""
    tell(command, reason)
    sys.exit(code)


def flag_of(name: str) -> str:
    """A field's name as it is typed."""
    return f"--{name.replace('_', '-')}"


def _checked(words: Sequence[str], hints: Mapping[str, Any]) -> list[str]:
    """The words as tyro takes them without a complaint.

    tyro 1.0 cannot refuse in one line by itself: its complaints fill a box, and the hook that tells
    them apart is private. Two mistakes are none to it: it takes the last of a flag's repetitions
    and passes over a flag without values, and either would leave a sweep without arms that were
    asked for.

    Args:
      words: of the command line.
      hints: the type of each field.

    Raises:
      ValueError: a flag is unknown, repeated or without its values, or a value is not legal.
    """
    types = {flag_of(name): hint for name, hint in hints.items()}
    found = []
    for flag, given in _values_by_flag(words, types).items():
        first, *rest = _legal_values(flag, given, types[flag])
        found += [f"{flag}={first}", *rest]
    return found


def _values_by_flag(words: Sequence[str], flags: Collection[str]) -> dict[str, list[str]]:
    """The values behind each flag; ValueError for a flag that is unknown or repeated."""
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
        require(flag not in given, flag, word, "each flag once, all its values behind it")
        given[flag] = [value] if equals else []
    return given


def _legal_values(flag: str, values: Sequence[str], hint: Any) -> Sequence[str]:
    """The values of a flag; ValueError unless they are as many and of the kind that it takes."""
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
    if kind in PATHS:
        return not _URL.match(word)
    try:
        kind(word)
    except ValueError:
        return False
    return True


def _with_home(flag: str, path: str) -> str:
    """The path with a home directory for the ~ that it begins with.

    Shells do so themselves where a word begins with it, and not in `--run=~/mine`.

    Raises:
      ValueError: there is no such home.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        legal = "a local path, with ~ for the home of a user who has one"
        raise ValueError(f"{flag}: got {path!r}, legal: {legal}") from error
