"""Measures how much of the information in bottlenecks a non-linearity preserves.

python -m experiments.bottlenecks --checkpoint runs/linear runs/relu6
python -m experiments.bottlenecks --checkpoint runs/a0 runs/a1 runs/b0 runs/b1 --label a a b b
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mnet_jax.architectures.spec import Activation
from mnet_jax.commands import terminal, trained_models
from mnet_jax.commands.arguments import parse, refusals
from mnet_jax.commands.planning import require_directory
from mnet_jax.commands.trained_models import ModelArguments, ModelWithImages
from mnet_jax.files import replace_file
from mnet_jax.statistics import formatting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnet_jax.analysis.bottlenecks import Bottleneck

COMMAND = "bottlenecks"
PICTURE = "bottlenecks.png"


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelArguments):
    """Measures how much of each bottleneck of trained networks a non-linearity preserves.

    The non-linearity is applied to the bottleneck itself. For comparison, the command also measures
    how much the network's own activation function after the next expansion preserves.
    """

    activation: Activation = "relu"
    """the non-linearity to apply after the bottlenecks"""
    results: Path = Path("results/bottlenecks")
    """directory for the picture"""


def main() -> None:
    """Reads the command line, measures, draws and prints."""
    arguments = parse(Arguments, COMMAND)
    console = terminal.console(110)
    with refusals(COMMAND, arguments):
        trained_models.require_legal(arguments)
        require_directory("results", arguments.results)
        networks = trained_models.measure_models(arguments, lambda each: _measure(each, arguments))
    for name, seeds in networks.items():
        console.print(_table(name, seeds, arguments.activation))
    path = arguments.results / PICTURE
    replace_file(path, _picture(networks, arguments.activation))
    console.print(f"drawn in {path}")


def _measure(model: ModelWithImages, arguments: Arguments) -> "tuple[Bottleneck, ...]":
    from mnet_jax.analysis import bottlenecks  # here: arguments are checked without JAX

    saved = model.saved
    return bottlenecks.measure_bottlenecks(
        saved.model, saved.variables, model.batches(), activation=arguments.activation
    )


def _table(name: str, seeds: "Sequence[Sequence[Bottleneck]]", activation: str) -> Table:
    """Makes a table with a row for each bottleneck; the numbers are means over the seeds."""
    title = trained_models.title_of(name, len(seeds))
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("bottleneck")
    for column in (
        "channels", "rank", f"rank after {activation}", f"read off after {activation}",
        "expanded to", "read off after the expansion",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for same in zip(*seeds, strict=True):
        one = same[0]
        recovered = [
            each.recovered_expanded for each in same if each.recovered_expanded is not None
        ]
        table.add_row(
            one.layer,
            str(one.channels),
            formatting.mean((each.rank for each in same), "{:.1f}"),
            formatting.mean((each.activated_rank for each in same), "{:.1f}"),
            formatting.mean((each.recovered for each in same), "{:.1%}"),
            "" if one.expanded_channels is None else str(one.expanded_channels),
            formatting.mean(recovered, "{:.1%}") if recovered else "",
        )
    return table


def _picture(networks: "Mapping[str, Sequence[Sequence[Bottleneck]]]", activation: str) -> bytes:
    from mnet_jax.plots import (
        bottlenecks,
        style,  # here: Matplotlib takes a second
    )

    return style.to_png(bottlenecks.draw(networks, activation))
