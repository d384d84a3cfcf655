"""How much of each bottleneck a non-linearity behind it would destroy, in trained networks.

python -m experiments.bottlenecks --checkpoint runs/linear runs/relu6 --dataset fashion_mnist
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from experiments import checkpoints, terminal
from experiments.arguments import parse, refusals
from experiments.checkpoints import ModelArguments, Opened
from experiments.planning import require_directory
from mnet_jax.architectures.spec import Activation
from mnet_jax.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnet_jax.analysis.bottlenecks import Bottleneck

COMMAND = "bottlenecks"
PICTURE = "bottlenecks.png"


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelArguments):
    """Measures what a non-linearity leaves of each bottleneck, and what an expansion's leaves."""

    activation: Activation = "relu"
    """what is tried behind the bottlenecks"""
    results: Path = Path("results/bottlenecks")
    """where the picture goes"""


def main() -> None:
    """Reads the command line, measures, draws and prints."""
    arguments = parse(Arguments, COMMAND)
    console = terminal.console(110)
    with refusals(COMMAND, arguments):
        checkpoints.require_legal(arguments)
        require_directory("results", arguments.results)
        networks = {each.name: _survey(each, arguments) for each in checkpoints.opened(arguments)}
    for name, found in networks.items():
        console.print(_table(name, found, arguments.activation))
    path = arguments.results / PICTURE
    replace_file(path, _picture(networks, arguments.activation))
    console.print(f"drawn in {path}", highlight=False, markup=False)


def _survey(looked_at: Opened, arguments: Arguments) -> "tuple[Bottleneck, ...]":
    from mnet_jax.analysis import bottlenecks  # here: bad arguments are refused without JAX

    saved = looked_at.saved
    return bottlenecks.survey(
        saved.model, saved.variables, looked_at.batches(), activation=arguments.activation
    )


def _table(name: str, found: "Sequence[Bottleneck]", activation: str) -> Table:
    table = Table(title=escape(name), title_justify="left", box=None, pad_edge=False)
    table.add_column("bottleneck")
    for column in (
        "channels", "rank", f"rank behind {activation}", f"read off behind {activation}",
        "expanded to", "read off behind the expansion",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for one in found:
        wide, recovered = one.expanded_channels, one.recovered_expanded
        table.add_row(
            one.layer,
            str(one.channels),
            f"{one.rank:.1f}",
            f"{one.activated_rank:.1f}",
            f"{one.recovered:.1%}",
            "" if wide is None else str(wide),
            "" if recovered is None else f"{recovered:.1%}",
        )
    return table


def _picture(networks: "Mapping[str, Sequence[Bottleneck]]", activation: str) -> bytes:
    from mnet_jax import drawing  # here: Matplotlib takes a second
    from mnet_jax.pictures import bottlenecks

    return drawing.to_png(bottlenecks.draw(networks, activation))


if __name__ == "__main__":
    main()
