"""Dead units and dead depthwise kernels of trained networks, layer by layer, side by side.

python -m experiments.activations --checkpoint runs/latest
python -m experiments.activations --checkpoint runs/linear runs/relu6 --label linear relu6
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
from mnet_jax.analysis.choices import KERNEL_THRESHOLD
from mnet_jax.files import replace_file
from mnet_jax.validation import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnet_jax.analysis.activations import Activity, Kernels

COMMAND = "activations"
PICTURE = "activations.png"


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelArguments):
    """Counts channels that are never or always active, values clipped at 6, and dead kernels."""

    threshold: float = KERNEL_THRESHOLD
    """a depthwise kernel is dead whose norm is this share of the layer's largest or less"""
    results: Path = Path("results/activations")
    """where the picture goes"""


def main() -> None:
    """Reads the command line, counts, draws and prints."""
    arguments = parse(Arguments, COMMAND)
    console = terminal.console(110)
    with refusals(COMMAND, arguments):
        checkpoints.require_legal(arguments)
        share = arguments.threshold
        require(0 <= share < 1, "threshold", share, "0 or more and below 1")
        require_directory("results", arguments.results)
        networks = {each.name: _survey(each) for each in checkpoints.opened(arguments)}
    activities = {name: found for name, (found, _) in networks.items()}
    kernels = {name: found for name, (_, found) in networks.items()}
    for name in networks:
        console.print(_table(name, activities[name], kernels[name], share))
    console.print(_summary(activities, kernels, share))
    path = arguments.results / PICTURE
    replace_file(path, _picture(activities, kernels, share))
    console.print(f"drawn in {path}", highlight=False, markup=False)


def _survey(looked_at: Opened) -> "tuple[Sequence[Activity], Sequence[Kernels]]":
    from mnet_jax.analysis import activations  # here: bad arguments are refused without JAX

    model, variables = looked_at.saved.model, looked_at.saved.variables
    found = activations.survey(model, variables, looked_at.batches())
    return found, activations.kernel_norms(model, variables)


def _table(
    name: str, activities: "Sequence[Activity]", kernels: "Sequence[Kernels]", threshold: float
) -> Table:
    """One row a non-linearity, with the dead kernels of its layer where that is depthwise."""
    table = _empty(name, "layer", "behind it")
    dead = {layer.layer: layer.dead(threshold) for layer in kernels}
    for one in activities:
        table.add_row(
            one.layer,
            one.activation,
            str(one.active.size),
            *(f"{values.mean():.1%}" for values in (one.never, one.always)),
            f"{one.clipped.mean():.2%}",
            f"{dead[one.layer].mean():.1%}" if one.layer in dead else "",
        )
    return table


def _summary(
    activities: "Mapping[str, Sequence[Activity]]",
    kernels: "Mapping[str, Sequence[Kernels]]",
    threshold: float,
) -> Table:
    """All channels of each network as one row: those behind bottlenecks, and the others."""
    import numpy as np

    table = _empty("in all", "network", "layers")
    for name, every in activities.items():
        bottlenecks = [one for one in every if one.layer.endswith("/project")]
        others = [one for one in every if one not in bottlenecks]
        dead = [layer.dead(threshold) for layer in kernels[name]]
        for kind, found in (("bottlenecks", bottlenecks), ("others", others)):
            if not found:
                continue
            never, always, clipped = (
                np.concatenate([getattr(one, part) for one in found])
                for part in ("never", "always", "clipped")
            )
            table.add_row(
                escape(name),
                kind,
                str(never.size),
                f"{never.mean():.1%}",
                f"{always.mean():.1%}",
                f"{clipped.mean():.2%}",
                f"{np.concatenate(dead).mean():.1%}" if dead and kind == "others" else "",
            )
    return table


def _empty(title: str, *first: str) -> Table:
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    for column in first:
        table.add_column(column)
    for column in ("channels", "never active", "always active", "clipped at 6", "dead kernels"):
        table.add_column(column, justify="right")
    return table


def _picture(
    activities: "Mapping[str, Sequence[Activity]]",
    kernels: "Mapping[str, Sequence[Kernels]]",
    threshold: float,
) -> bytes:
    from mnet_jax import drawing  # here: Matplotlib takes a second
    from mnet_jax.pictures import activations

    return drawing.to_png(activations.draw(activities, kernels, threshold))


if __name__ == "__main__":
    main()
