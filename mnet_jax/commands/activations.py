"""Counts dead units and dead depthwise kernels of trained networks, layer by layer.

python -m experiments.activations --checkpoint runs/latest
python -m experiments.activations --checkpoint runs/a0 runs/a1 runs/b0 runs/b1 --label a a b b
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mnet_jax.analysis.choices import KERNEL_THRESHOLD
from mnet_jax.commands import terminal, trained_models
from mnet_jax.commands.arguments import parse, refusals
from mnet_jax.commands.planning import require_directory
from mnet_jax.commands.trained_models import ModelArguments, ModelWithImages
from mnet_jax.files import replace_file
from mnet_jax.statistics import formatting
from mnet_jax.validation import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnet_jax.analysis.dead_units import Activity, ActivityMeasurement

COMMAND = "activations"
PICTURE = "activations.png"


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelArguments):
    """Counts dead kernels of trained networks, and channels that are never or always active.

    Also counts the values that ReLU6 clips at 6. A channel is active where its activation function
    returns a value above zero.
    """

    threshold: float = KERNEL_THRESHOLD
    """a depthwise kernel is dead if its norm is at most this share of the layer's largest norm"""
    results: Path = Path("results/activations")
    """directory for the picture"""


def main() -> None:
    """Reads the command line, counts, draws and prints."""
    arguments = parse(Arguments, COMMAND)
    console = terminal.console(110)
    with refusals(COMMAND, arguments):
        trained_models.require_legal(arguments)
        share = arguments.threshold
        require(0 <= share < 1, "threshold", share, "0 or more and below 1")
        require_directory("results", arguments.results)
        networks = trained_models.measure_models(arguments, _measure)
    for name, seeds in networks.items():
        console.print(_table(name, seeds, share))
    console.print(_summary(networks, share))
    path = arguments.results / PICTURE
    replace_file(path, _picture(networks, share))
    console.print(f"drawn in {path}")


def _measure(model: ModelWithImages) -> "ActivityMeasurement":
    from mnet_jax.analysis import dead_units  # here: arguments are checked without JAX

    saved = model.saved
    return dead_units.measure_activity(saved.model, saved.variables, model.batches())


def _table(name: str, seeds: "Sequence[ActivityMeasurement]", threshold: float) -> Table:
    """Makes a table of activity and dead kernels, with a row for each non-linearity."""
    table = _empty(trained_models.title_of(name, len(seeds)), "layer", "activation")
    dead: dict[str, list[float]] = {}
    for seed in seeds:
        for kernels in seed.kernels:
            dead.setdefault(kernels.layer, []).append(kernels.dead(threshold).mean())
    for same in zip(*(seed.activities for seed in seeds), strict=True):
        layer = same[0].layer
        table.add_row(
            layer,
            same[0].activation,
            str(same[0].active.size),
            formatting.mean((one.never_active.mean() for one in same), "{:.1%}"),
            formatting.mean((one.always_active.mean() for one in same), "{:.1%}"),
            formatting.mean((one.clipped.mean() for one in same), "{:.2%}"),
            formatting.mean(dead[layer], "{:.1%}") if layer in dead else "",
        )
    return table


def _summary(networks: "Mapping[str, Sequence[ActivityMeasurement]]", threshold: float) -> Table:
    """Makes a table with two rows for each network: channels of bottlenecks, all other channels."""
    import numpy as np

    def share(seeds: "Sequence[Sequence[Activity]]", part: str, form: str) -> str:
        channels = ([getattr(one, part) for one in seed] for seed in seeds)
        return formatting.mean((np.concatenate(every).mean() for every in channels), form)

    table = _empty("all layers", "network", "layers")
    for name, seeds in networks.items():
        every = [seed.kernels for seed in seeds]
        dead = [np.concatenate([k.dead(threshold) for k in one]).mean() for one in every if one]
        for kind in ("bottlenecks", "others"):
            wanted = kind == "bottlenecks"
            found = [
                [one for one in seed.activities if one.layer.endswith("/project") == wanted]
                for seed in seeds
            ]
            if not found[0]:
                continue
            table.add_row(
                name,
                kind,
                str(sum(one.active.size for one in found[0])),
                share(found, "never_active", "{:.1%}"),
                share(found, "always_active", "{:.1%}"),
                share(found, "clipped", "{:.2%}"),
                formatting.mean(dead, "{:.1%}") if dead and not wanted else "",
            )
    return table


def _empty(title: str, *first: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in first:
        table.add_column(column)
    for column in ("channels", "never active", "always active", "clipped at 6", "dead kernels"):
        table.add_column(column, justify="right")
    return table


def _picture(networks: "Mapping[str, Sequence[ActivityMeasurement]]", threshold: float) -> bytes:
    from mnet_jax.plots import (
        dead_units,
        style,  # here: Matplotlib takes a second
    )

    return style.to_png(dead_units.draw(networks, threshold))
