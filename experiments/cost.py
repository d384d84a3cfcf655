"""Prints what a network costs, layer by layer: `python -m experiments.cost --width 0.5`."""

from dataclasses import dataclass

from rich.table import Table

from experiments import terminal
from experiments.arguments import parse, refusals, single_values, with_axes
from experiments.planning import require_fit
from mnet_jax import architectures
from mnet_jax.ablation.axes import ARCHITECTURE_AXES, with_values
from mnet_jax.analysis.cost import Cost, count
from mnet_jax.config import DataConfig, RunConfig

COMMAND = "cost"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Parameters, multiply-adds and bytes of a network, layer by layer, by arithmetic."""

    resolution: int = 224
    """side of the image in pixels"""
    num_classes: int = 1000
    """number of logits"""


def main() -> None:
    """Reads the command line, counts and prints."""
    arguments = parse(with_axes(Arguments, ARCHITECTURE_AXES), COMMAND)
    with refusals(COMMAND, arguments):
        spec = architectures.mobilenet_v2(num_classes=arguments.num_classes)
        values = single_values(arguments, ARCHITECTURE_AXES)
        data = DataConfig(resolution=arguments.resolution)
        config = with_values(RunConfig(spec=spec, data=data), values)
        require_fit(config)
    spec, expense = config.spec, count(config.spec, arguments.resolution)
    console = terminal.console(110)
    title = f"{spec.name}, width {spec.width:g}, {arguments.resolution} pixels"
    console.print(_table(expense, title))
    for line in _totals(expense):
        console.print(line, highlight=False)


def _table(expense: Cost, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("layer", "output"):
        table.add_column(column)
    for column in ("kernel", "stride", "params", "MAdds", "KiB moved", "of full", "1/N + 1/K²"):
        table.add_column(column, justify="right")
    separations = {pair.name: pair for pair in expense.separations}
    for row in expense.rows:
        layer, pair = row.layer, separations.get(row.layer.name)
        moved = (row.activation_bytes + row.weight_bytes) / 1024
        table.add_row(
            layer.name,
            "x".join(map(str, (*layer.output_size, layer.outputs))),
            str(layer.kernel),
            str(layer.stride),
            f"{row.params:,}",
            f"{row.madds:,}",
            f"{moved:,.0f}",
            f"{pair.ratio:.4f}" if pair else "",
            f"{pair.predicted:.4f}" if pair else "",
        )
    return table


def _totals(expense: Cost) -> list[str]:
    with_statistics = expense.params + expense.statistics
    lines = [
        "",
        f"parameters  {expense.params:,} trainable, {with_statistics:,} with running statistics",
        f"MAdds       {expense.madds:,}",
        f"bytes       {expense.weight_bytes:,} of weights, "
        f"{expense.activation_bytes:,} of feature maps in and out, float32, one image",
    ]
    if expense.separations:
        pairs, full = (
            sum(getattr(pair, name) for pair in expense.separations)
            for name in ("madds", "full_madds")
        )
        lines.append(
            f"of full     {pairs / full:.4f} of the MAdds that full convolutions take in place of "
            f"the {len(expense.separations)} depthwise and pointwise pairs"
        )
    return lines


if __name__ == "__main__":
    main()
