"""Reading a command line: flags from a frozen dataclass, every refusal one line and exit code 2."""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import tyro

from mnet_jax.ablation.axes import Axis
from mnet_jax.validation import require

T = TypeVar("T")

USAGE_ERROR = 2


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


def parse(arguments: type[T], command: str) -> T:
    """The arguments of `python -m experiments.<command>`, or an exit with one line and code 2."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(
                arguments, prog=f"python -m experiments.{command}", description=arguments.__doc__
            )
    except SystemExit as leaving:
        if leaving.code == USAGE_ERROR:
            refuse(command, _one_line(captured.getvalue()))
        raise


@contextlib.contextmanager
def refusals(command: str, arguments: Any) -> Iterator[None]:
    """Turns a ValueError about an argument into an exit with one line and code 2."""
    try:
        yield
    except ValueError as error:
        name, colon, rest = str(error).partition(":")
        if name in {field.name for field in dataclasses.fields(arguments)}:
            name = f"--{name.replace('_', '-')}"
        refuse(command, name + colon + rest)


def refuse(command: str, reason: str) -> NoReturn:
    """Ends the process with one line on standard error and exit code 2."""
    print(f"experiments.{command}: {reason}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def _one_line(box: str) -> str:
    """What tyro's error box says, without its frame and its pointer to the help."""
    rule, frame = r"─{8,}", "│╭╮╰╯─ "
    paragraphs = [
        " ".join(line.strip(frame) for line in part.splitlines() if line.strip(frame))
        for part in re.split(rule, "\n".join(box.splitlines()[1:]))
    ]
    said = [p for p in paragraphs if p and not p.startswith("For full helptext")]
    return "; ".join(said) or " ".join(box.split())
