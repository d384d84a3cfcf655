"""Writes mnet_jax/models/factories.py from the architectures' signatures and docstrings.

    python -m tools.write_factories
    python -m tools.write_factories --check  # exits 1 if the file is out of date

A model factory takes the options of its architecture factory, and the fields of `MobileNet` that
say how to compute. They are written out because neither static nor interactive completion follows
a signature that is put together when Python runs, and because a `ParamSpec` cannot add keyword
arguments.
"""

import argparse
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from mnet_jax import architectures
from mnet_jax.models.network import MobileNet

ROOT = Path(__file__).parents[1]
OUTPUT = Path("mnet_jax/models/factories.py")
COMPUTATION = ("dtype", "lowering")  # fields of MobileNet that every factory takes
HEADER = '''"""The papers' networks as Linen modules, one factory for each version and variant.

Written by `python -m tools.write_factories`, do not edit. To change an option, its default or its
documentation, change `mnet_jax.architectures` (`dtype` and `lowering`: `MobileNet`), and run it.
"""

from typing import Any, Literal

import jax.numpy as jnp

from mnet_jax import architectures
from mnet_jax.models.network import MobileNet
'''


class Factory(NamedTuple):
    """A model factory.

    Attributes:
      title: the network and its source, for the docstring's first line.
      architecture: the architecture factory.
      variant: the architecture factory's first argument; None if the caller chooses it, or if the
        version has no variants.
    """

    title: str
    architecture: Callable[..., architectures.NetworkSpec]
    variant: str | None = None

    @property
    def name(self) -> str:
        """The function's name."""
        version = self.architecture.__name__
        return f"{version}_{self.variant}" if self.variant else version


V1, V2 = architectures.mobilenet_v1, architectures.mobilenet_v2
V3, V4 = architectures.mobilenet_v3, architectures.mobilenet_v4
FACTORIES = (
    Factory("MobileNet V1 (arXiv 1704.04861)", V1),
    Factory("MobileNet V2 (arXiv 1801.04381)", V2),
    Factory("MobileNet V3 (arXiv 1905.02244)", V3),
    Factory("MobileNet V3-Large (arXiv 1905.02244, Table 1)", V3, "large"),
    Factory("MobileNet V3-Small (arXiv 1905.02244, Table 2)", V3, "small"),
    Factory("MobileNet V4 (arXiv 2404.10518)", V4),
    Factory("MobileNet V4-Conv-S (arXiv 2404.10518)", V4, "conv_small"),
    Factory("MobileNet V4-Conv-M (arXiv 2404.10518)", V4, "conv_medium"),
    Factory("MobileNet V4-Conv-L (arXiv 2404.10518)", V4, "conv_large"),
)


def value_text(value: Any) -> str:
    """A default or a member of a `Literal`, as Python source."""
    if hasattr(value, "dtype"):
        return f"jnp.{value.dtype.name}"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def annotation_text(annotation: Any) -> str:
    """A type as Python source; a `Literal` with its members, so that editors show them."""
    if get_origin(annotation) is Literal:
        return f"Literal[{', '.join(map(value_text, get_args(annotation)))}]"
    return "Any" if annotation is Any else inspect.formatannotation(annotation)


def parameter_text(parameter: inspect.Parameter) -> str:
    """A parameter as a line of a signature."""
    declared = f"    {parameter.name}: {annotation_text(parameter.annotation)}"
    if parameter.default is inspect.Parameter.empty:
        return f"{declared},\n"
    return f"{declared} = {value_text(parameter.default)},\n"


def section(documented: Callable[..., Any], title: str) -> str:
    """The lines under `title:` in a docstring, with their indentation.

    Raises:
      ValueError: the docstring has no such section.
    """
    found = re.search(rf"^{title}:\n((?:  .*\n)+)", f"{inspect.getdoc(documented)}\n", re.MULTILINE)
    if found is None:
        raise ValueError(f"{documented.__name__}: its docstring has no section {title}")
    return found[1]


def descriptions(documented: Callable[..., Any], title: str, names: Iterable[str]) -> str:
    """The entries of these names in a section of a docstring, as they are there.

    Raises:
      ValueError: one of them has no entry.
    """
    entries = re.finditer(r"^  (\w+): .*\n(?:    .*\n)*", section(documented, title), re.MULTILINE)
    told = {entry[1]: entry[0] for entry in entries}
    for name in names:
        if name not in told:
            raise ValueError(f"{documented.__name__}: its docstring does not describe {name}")
    return "".join(told[name] for name in names)


def function_text(factory: Factory) -> str:
    """A model factory as Python source."""
    options = list(inspect.signature(factory.architecture).parameters.values())
    if factory.variant:
        options = options[1:]
    positional = [option for option in options if option.kind is not option.KEYWORD_ONLY]
    keyword = [option for option in options if option.kind is option.KEYWORD_ONLY]
    fields = [inspect.signature(MobileNet).parameters[name] for name in COMPUTATION]
    chosen = f'        "{factory.variant}",\n' if factory.variant else ""
    docstring = (
        f'"""{factory.title} as a Linen module.\n\n'
        "It maps images [b, h, w, 3] to logits [b, num_classes].\n\nArgs:\n"
        + descriptions(factory.architecture, "Args", [option.name for option in options])
        + descriptions(MobileNet, "Attributes", COMPUTATION)
        + f'\nRaises:\n{section(factory.architecture, "Raises")}"""\n'
    )
    return "".join(
        [
            f"def {factory.name}(\n",
            *map(parameter_text, positional),
            "    *,\n",
            *map(parameter_text, [*keyword, *fields]),
            ") -> MobileNet:\n",
            textwrap.indent(docstring, "    "),
            f"    spec = architectures.{factory.architecture.__name__}(\n{chosen}",
            *(f"        {option.name},\n" for option in positional),
            *(f"        {option.name}={option.name},\n" for option in keyword),
            "    )\n",
            "    return MobileNet(spec=spec, dtype=dtype, lowering=lowering)\n",
        ]
    )


def main() -> None:
    """Writes the file, or checks it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    arguments = parser.parse_args()
    try:
        written = "\n\n".join([HEADER, *map(function_text, FACTORIES)])
    except ValueError as error:
        sys.exit(str(error))
    if not arguments.check:
        (ROOT / OUTPUT).write_text(written, encoding="utf-8")
    elif (ROOT / OUTPUT).read_text(encoding="utf-8") != written:
        sys.exit(f"{OUTPUT}: out of date, run python -m tools.write_factories")


if __name__ == "__main__":
    main()
