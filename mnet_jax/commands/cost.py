"""Prints the cost of networks layer by layer; with --measure, also times the layers.

python -m experiments.cost --width 0.5
python -m experiments.cost --model mobilenet_v1 mobilenet_v2 --batch-size 16 --dtype bfloat16
python -m experiments.cost --batch-size 16 --measure
python -m experiments.cost --preset v3-cityscapes
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnet_jax import architectures, process
from mnet_jax.analysis.cost import Cost, count, receptive_fields
from mnet_jax.analysis.summary import output_text, totals
from mnet_jax.architectures import cityscapes
from mnet_jax.commands import terminal
from mnet_jax.commands.arguments import axis_values, parse, refusals, with_axes
from mnet_jax.commands.planning import MAX_BATCH_SIZE, require_directory, require_fit
from mnet_jax.config import DataConfig, RunConfig
from mnet_jax.files import replace_file
from mnet_jax.options.axes import ARCHITECTURE_AXES, grid, labels
from mnet_jax.training.stopping import Stop
from mnet_jax.validation import require

if TYPE_CHECKING:
    from mnet_jax.analysis.cost import Machine
    from mnet_jax.benchmark.layers import TimedLayer

COMMAND = "cost"
PICTURE = "roofline.png"
ITEM_BYTES = {"float32": 4, "bfloat16": 2}
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Prints the parameters, multiply-adds and bytes of networks, layer by layer.

    The flags from --model on describe the network; the default is mobilenet_v2 as published. With
    several values of a flag, the networks of all combinations are compared. --preset prints the
    networks of a paper's tables instead.
    """

    preset: Literal["v3-cityscapes"] | None = None
    """the networks for segmentation of the V3 paper's Tables 7 and 8, on images of 1024 x 2048 and
    512 x 1024 pixels; no other flag may be given"""
    resolution: int = 224
    """side of the image in pixels"""
    num_classes: int = 1000
    """number of classes"""
    batch_size: int = 1
    """images per batch; weights are counted as read once per batch"""
    dtype: Literal[*ITEM_BYTES] = "float32"  # type: ignore[valid-type]
    """number type of the feature maps; weights are always float32"""
    measure: bool = False
    """also time every convolution, and draw the times under this machine's measured roofline"""
    rounds: int = 7
    """number of times that --measure times each layer"""
    tune_allocator: bool = True
    """with --measure: set glibc's allocator for speed, as the training commands do"""
    results: Path = Path("results/cost")
    """directory for the picture that --measure draws"""


def main(stop: Stop | None = None) -> None:
    """Reads the command line, counts and prints.

    Args:
      stop: receives the signals that interrupt the measurement.
    """
    arguments = parse(with_axes(Arguments, ARCHITECTURE_AXES), COMMAND)
    console = terminal.console(120)
    with refusals(COMMAND, arguments):
        if arguments.preset:
            _require_alone(arguments)
            _print_published(console)
            return
        _require_legal(arguments)
        networks = _networks(arguments)
        several = len(networks) > 1
        require(not (several and arguments.measure), "measure", True, "one network at a time")
    counted = {name: _count(config, arguments) for name, config in networks.items()}
    for name, expense in counted.items():
        fields = receptive_fields(networks[name].spec)
        sides = {f.layer: "all" if f.side is None else str(f.side) for f in fields}
        console.print(_layers(expense, name, sides, arguments.batch_size))
        console.print()
        if not several:
            for line in _totals(expense):
                console.print(line)
            console.print()
    console.print(_kinds(counted, arguments.batch_size))
    sees = "sees: side in pixels of the receptive field, the area that a position depends on"
    if any(row.layer.heads for expense in counted.values() for row in expense.rows):
        sees += "; all: the whole image"
    console.print(sees, style="dim")
    if arguments.measure:
        ((name, config),) = networks.items()
        with (stop or Stop()).raised():
            _measure(name, config, arguments, console)


def _require_legal(arguments: Arguments) -> None:
    size = arguments.batch_size
    require(1 <= size <= MAX_BATCH_SIZE, "batch_size", size, f"1 to {MAX_BATCH_SIZE:,}")
    require(arguments.rounds >= 1, "rounds", arguments.rounds, "1 or more")
    timed = not arguments.measure or arguments.dtype == "float32"
    require(timed, "dtype", arguments.dtype, "float32 with --measure")
    require_directory("results", arguments.results)


def _require_alone(arguments: Arguments) -> None:
    """Raises ValueError if a flag besides --preset has another value than its default."""
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name)
        alone = field.name == "preset" or value == field.default
        require(alone, field.name, value, "no other flag with --preset, whose networks are fixed")


def _print_published(console: Console) -> None:
    """Prints the V3 paper's networks for Cityscapes, with the counted and the published cost."""
    title = "segmentation of Cityscapes, arXiv 1905.02244, Tables 7 and 8"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("row", "backbone", "RF2", "head"):
        table.add_column(column)
    for column in ("F", "stride", "params", "paper", "GMAdds", "paper", "of half"):
        table.add_column(column, justify="right")
    for row in cityscapes.SEGMENTERS:
        spec = row.spec()
        full, half = count(spec, cityscapes.FULL), count(spec, cityscapes.HALF)
        table.add_row(
            f"{row.table}.{row.row}",
            row.backbone if row.width == 1 else f"{row.backbone}, width {row.width:g}",
            "yes" if row.reduced_tail else "no",
            row.head,
            str(row.channels),
            str(row.output_stride),
            f"{full.params:,}",
            "" if row.params is None else f"{row.params:.2f}M",
            f"{full.madds / 1e9:.2f}",
            f"{row.madds:.2f}",
            f"{half.madds / 1e9:.2f}",
        )
    console.print(table)
    rows, columns = cityscapes.FULL
    for line in (
        "RF2: half the channels in the backbone's last layers; F: channels of the head",
        f"GMAdds: billions of multiply-adds for an image of {rows} x {columns} pixels; "
        "of half: for half the rows and columns",
    ):
        console.print(line, style="dim")


def _networks(arguments: Arguments) -> dict[str, RunConfig]:
    """Returns the config of every combination of the flags' values, keyed by a unique name."""
    spec = architectures.mobilenet_v2(num_classes=arguments.num_classes)
    start = RunConfig(spec=spec, data=DataConfig(resolution=arguments.resolution))
    values = axis_values(arguments, ARCHITECTURE_AXES)
    configs = grid(start, {name: given for name, given in values.items() if given})
    for config in configs:
        require_fit(config)
    varied = [name for name, given in values.items() if len(given) > 1 and name != "model"]
    return {_name(config, varied, arguments.resolution): config for config in configs}


def _name(config: RunConfig, varied: Sequence[str], resolution: int) -> str:
    spec, of = config.spec, labels(config)
    others = "".join(f", {name} {of[name]}" for name in varied if name != "width")
    return f"{spec.name}, width {spec.width:g}{others}, {resolution} pixels"


def _count(config: RunConfig, arguments: Arguments) -> Cost:
    return count(config.spec, arguments.resolution, activation_itemsize=ITEM_BYTES[arguments.dtype])


def _layers(expense: Cost, title: str, sides: Mapping[str, str], batch_size: int) -> Table:
    """Makes a table with a row for each layer; `sides` are the sides of the receptive fields."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("layer", "output"):
        table.add_column(column)
    for column in (
        "kernel", "stride", "sees", "params", "MAdds", "KiB moved", "FLOP/byte", "of full",
        "1/N + 1/K²",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    separations = {pair.name: pair for pair in expense.separations}
    for row in expense.rows:
        layer, pair = row.layer, separations.get(row.layer.name)
        table.add_row(
            layer.name,
            output_text(layer),
            str(layer.kernel),
            str(layer.stride),
            sides.get(layer.name, ""),
            f"{row.params:,}",
            f"{batch_size * row.madds:,}",
            f"{row.moved_bytes(batch_size) / 1024:,.0f}",
            f"{row.intensity(batch_size):.1f}",
            f"{pair.ratio:.4f}" if pair else "",
            f"{pair.predicted:.4f}" if pair else "",
        )
    return table


def _totals(expense: Cost) -> list[str]:
    lines = [
        *totals(expense),
        f"bytes       {expense.weight_bytes:,} of weights, "
        f"{expense.activation_bytes:,} of feature maps in and out of an image",
    ]
    if expense.separations:
        pairs, full = (
            sum(getattr(pair, name) for pair in expense.separations)
            for name in ("madds", "full_madds")
        )
        lines.append(
            f"of full     {pairs / full:.4f} of the MAdds of full convolutions in place of the "
            f"{len(expense.separations)} depthwise and pointwise pairs"
        )
    return lines


def _kinds(counted: Mapping[str, Cost], batch_size: int) -> Table:
    """Makes a table with a row for each kind of layer: cost, and share of the network's cost."""
    table = Table(title="by kind of layer", title_justify="left", box=None, pad_edge=False)
    for column in ("network", "layers"):
        table.add_column(column)
    for column in ("number", "params", "%", "MAdds", "%", "MiB moved", "%", "FLOP/byte"):
        table.add_column(column, justify="right")
    for name, whole in counted.items():
        for i, (kind, part) in enumerate([*whole.by_kind.items(), ("all", whole)]):
            moved = part.moved_bytes(batch_size)
            table.add_row(
                "" if i else name,
                kind,
                str(len(part.rows)),
                f"{part.params:,}",
                f"{100 * part.params / whole.params:.2f}",
                f"{batch_size * part.madds:,}",
                f"{100 * part.madds / whole.madds:.2f}",
                f"{moved / MIB:,.1f}",
                f"{100 * moved / whole.moved_bytes(batch_size):.2f}",
                f"{2 * batch_size * part.madds / moved:.1f}",
            )
    return table


def _measure(name: str, config: RunConfig, arguments: Arguments, console: Console) -> None:
    """Times the layers, prints the times summed by kind, and draws the roofline plot."""
    from mnet_jax.benchmark.layers import time_layers
    from mnet_jax.plots import (
        roofline,
        style,  # here: without --measure, the command needs neither Matplotlib nor JAX
    )

    environment = process.timing_settings(tune_allocator=arguments.tune_allocator)
    with console.status("measuring the machine") as status:
        machine, layers = time_layers(
            config.spec,
            arguments.resolution,
            arguments.batch_size,
            rounds=arguments.rounds,
            environment=environment,
            report=lambda line: status.update(Text(line)),
        )
    console.print()
    console.print(_times(machine, layers))
    for line in _conditions(machine, arguments, environment):
        console.print(line, style="dim")
    path = arguments.results / PICTURE
    title = f"{name}, batch {arguments.batch_size}, float32"
    replace_file(path, style.to_png(roofline.draw(title, machine, layers)))
    console.print(f"drawn in {path}")


def _times(machine: "Machine", layers: "Sequence[TimedLayer]") -> Table:
    """Makes a table of predicted (roofline) and measured times, summed by kind of layer."""
    table = Table(title="forward, by kind", title_justify="left", box=None, pad_edge=False)
    table.add_column("layers")
    for column in ("number", "MAdds %", "predicted ms", "measured ms", "%", "measured / predicted"):
        table.add_column(column, justify="right")
    sums = {"all": [0.0, 0.0, 0.0, 0.0]}
    for layer in layers:
        seconds = statistics.median(layer.seconds)
        bound = machine.bound_seconds(madds=layer.madds, moved_bytes=layer.moved_bytes)
        for kind in (layer.kind, "all"):
            own = sums.setdefault(kind, [0.0, 0.0, 0.0, 0.0])
            for i, value in enumerate((1, layer.madds, bound, seconds)):
                own[i] += layer.count * value
    whole = sums.pop("all")
    for kind, (number, madds, bound, seconds) in {**sums, "all": whole}.items():
        table.add_row(
            kind,
            f"{number:.0f}",
            f"{100 * madds / whole[1]:.1f}",
            f"{1000 * bound:.2f}",
            f"{1000 * seconds:.2f}",
            f"{100 * seconds / whole[3]:.1f}",
            f"{seconds / bound:.2f}",
        )
    return table


def _conditions(
    machine: "Machine", arguments: Arguments, environment: Mapping[str, str]
) -> list[str]:
    settings = ", ".join(f"{name}={value}" for name, value in environment.items())
    return [
        f"medians of {arguments.rounds} rounds, float32, batch {arguments.batch_size}; each layer "
        "normalizes its input and measures its output, as in training",
        f"this machine ({machine.device}): {machine.flops_per_second / 1e9:,.0f} GFLOP/s of a "
        f"matrix product, {machine.bytes_per_second / 1e9:.1f} GB/s from and to memory",
        *([f"set: {settings}"] if settings else []),
    ]
