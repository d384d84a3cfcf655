"""Quantizes trained networks by one method after the other, and measures what each saves.

python -m experiments.quantize --checkpoint runs/latest
python -m experiments.quantize --checkpoint v2.safetensors --dataset folder --data-dir photos
python -m experiments.quantize --checkpoint runs/a0 runs/a1 runs/b0 runs/b1 --label a a b b
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from mnet_jax import serialization
from mnet_jax.commands import terminal, trained_models
from mnet_jax.commands.arguments import parse, refusals
from mnet_jax.commands.planning import require_directory
from mnet_jax.commands.trained_models import ModelArguments, ModelWithImages
from mnet_jax.files import replace_file
from mnet_jax.models.types import Granularity, Quantization
from mnet_jax.quantization.types import LadderConfig, RangeMethod
from mnet_jax.statistics import formatting
from mnet_jax.statistics.intervals import CONFIDENCE, mean_interval, share_interval
from mnet_jax.validation import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np

    from mnet_jax.architectures.spec import Kind
    from mnet_jax.data import Dataset
    from mnet_jax.quantization import Ladder, Rung, Sensitivity

COMMAND = "quantize"
PICTURE, NUMBERS = "quantize.png", "quantize.json"
WORST = 10  # layers in the table of sensitivities


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelArguments):
    """Quantizes trained networks by one method after the other, and measures each.

    Each network is compared with itself in float: the share of the test images that keep their
    class, and the noise in the logits. If the data set has the model's classes, the accuracy is
    measured too. Then each kernel is rounded alone, to find the layers that cause the noise.
    """

    images: int = 256
    """number of test images; the first ones are used"""
    bits: tuple[int, ...] = (8, 6, 4)
    """bits of kernels and activations, 2 to 8"""
    granularity: tuple[Granularity, ...] = ("tensor", "channel")
    """one step for each kernel, or for each output channel of a kernel"""
    ranges: RangeMethod = "min-max"
    """how ranges are chosen: all values, all but 0.01 % at each end, least squared error"""
    edge_bits: int = 8
    """least bits of the first and last kernel, the image, and activations after the pool"""
    calibration_images: int = 256
    """number of training images from which ranges, biases and rounding are chosen"""
    adaround: int = 0
    """iterations of AdaRound for each layer, such as 1000; 0 leaves AdaRound out"""
    sensitivity_images: int = 32
    """number of the test images on which each kernel is rounded alone"""
    layers: bool = False
    """print the sensitivity of all layers, not only of the ten with the most noise"""
    results: Path = Path("results/quantize")
    """directory for the picture, and for all numbers as JSON"""


class Measurement(NamedTuple):
    """What is measured of one model."""

    ladder: "Ladder"
    layers: "tuple[Sensitivity, ...]"


def main() -> None:
    """Reads the command line, quantizes, prints and draws."""
    arguments = parse(Arguments, COMMAND)
    console = terminal.console(110)
    with refusals(COMMAND, arguments):
        config = _config(arguments)
        require_directory("results", arguments.results)
        networks = trained_models.measure_models(
            arguments, lambda each: _measure(each, arguments, config)
        )
        for name, models in networks.items():
            forms = {
                (*one.left_out, one.images, one.rungs[0].accuracy is None)
                for one in (each.ladder for each in models)
            }
            legal = "networks that are all folded or not, with the same images and classes"
            require(len(forms) == 1, "label", f"{name} for different measurements", legal)
    for name, models in networks.items():
        console.print(_ladder_table(name, [each.ladder for each in models]))
        for method, reason in models[0].ladder.left_out.items():
            console.print(f"without {method}: {reason}")
        layers = [each.layers for each in models]
        console.print(_sensitivity_table(name, layers, arguments))
        console.print(_verdict(name, models), soft_wrap=True)
    numbers = json.dumps(_plain(networks), indent=1, allow_nan=False) + "\n"
    replace_file(arguments.results / NUMBERS, numbers.encode())
    path = arguments.results / PICTURE
    replace_file(path, _picture(networks, _rounding(arguments)))
    console.print(f"drawn in {path}")


def _config(arguments: Arguments) -> LadderConfig:
    """Returns the settings of the ladder; raises ValueError for illegal arguments."""
    trained_models.require_legal(arguments)
    for name in ("calibration_images", "sensitivity_images"):
        value = getattr(arguments, name)
        fewest = trained_models.FEWEST_IMAGES
        require(value >= fewest, name, value, f"{fewest} or more")
    return LadderConfig(
        bits=arguments.bits,
        granularity=arguments.granularity,
        setting=Quantization(edge_bits=arguments.edge_bits),
        ranges=arguments.ranges,
        adaround=arguments.adaround,
    )


def _measure(model: ModelWithImages, arguments: Arguments, config: LadderConfig) -> Measurement:
    from mnet_jax import quantization  # here: arguments are checked without JAX

    saved = model.saved
    legal = "a network in float"
    require(saved.model.quantization is None, "checkpoint", "a quantized network", legal)
    trained_models.require_memory(arguments, model.images.resolution)
    dataset = model.dataset()
    batches = [*model.test_batches(dataset)]
    images = [batch for batch, _ in batches]
    ladder = quantization.measure_ladder(
        saved.model,
        saved.variables,
        images,
        config,
        calibration=model.calibration_batches(dataset, arguments.calibration_images),
        labels=_labels(model, dataset, [labels for _, labels in batches]),
    )
    setting = config.quantization(config.bits[0], config.granularity[0])
    few = _first(images, arguments.sensitivity_images)
    layers = quantization.measure_sensitivity(
        saved.model, saved.variables, few, setting, config.ranges
    )
    return Measurement(ladder, layers)


def _labels(
    model: ModelWithImages, dataset: "Dataset", labels: "Sequence[np.ndarray]"
) -> "np.ndarray | None":
    """Returns the labels of all images; None if the data set has other classes than the model."""
    import numpy as np

    return np.concatenate(labels) if model.has_classes_of(dataset) else None


def _first(batches: "Sequence[np.ndarray]", count: int) -> "list[np.ndarray]":
    """Returns batches of the first `count` images."""
    found: list[np.ndarray] = []
    for batch in batches:
        if left := count - sum(map(len, found)):
            found.append(batch[:left])
    return found


def _ladder_table(name: str, ladders: "Sequence[Ladder]") -> Table:
    """Makes a table with a row for each rung."""
    one = ladders[0]
    title = trained_models.title_of(name, len(ladders))
    if len(ladders) == 1:
        title += f", {CONFIDENCE:.0%} intervals of {one.images} images (Wilson)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("bits", justify="right")
    table.add_column("network")
    labelled = one.rungs[0].accuracy is not None
    paired = labelled and len(ladders) > 1
    accuracy = ["accuracy (%)"] * labelled + ["to float (points)"] * paired
    columns = ["class as in float (%)", "SQNR (dB)", *accuracy, "kB"]
    for column in columns:
        table.add_column(column, justify="right")
    group = one.rungs[0].bits, one.rungs[0].granularity
    for same in zip(*(ladder.rungs for ladder in ladders), strict=True):
        rung = same[0]
        if (rung.bits, rung.granularity) != group:
            table.add_section()
            table.add_row()
        group = rung.bits, rung.granularity
        cells = [_percent([each.agreement for each in same], one.images), _decibels(same)]
        if labelled:
            accuracies = [each.accuracy for each in same if each.accuracy is not None]
            cells.append(_percent(accuracies, one.images))
        if paired:
            cells.append(_difference_to_float(ladders, same))
        table.add_row(str(rung.bits), rung.name, *cells, f"{rung.size / 1000:,.1f}")
    return table


def _percent(shares: "Sequence[float]", images: int) -> str:
    """Formats shares with their interval: over the images of one model, or over several models."""
    if len(shares) == 1:
        return formatting.percent(share_interval(round(shares[0] * images), images), "bootstrap")
    return formatting.percent(mean_interval(shares), "t")


def _difference_to_float(ladders: "Sequence[Ladder]", same: "Sequence[Rung]") -> str:
    """Formats the mean difference in accuracy to the same models in float; "" for these."""
    if same[0].name == ladders[0].rungs[0].name:
        return ""
    differences = [
        (rung.accuracy or 0.0) - (ladder.rungs[0].accuracy or 0.0)
        for ladder, rung in zip(ladders, same, strict=True)
    ]
    return formatting.percent(mean_interval(differences), "t", sign="+")


def _decibels(same: "Sequence[Rung | Sensitivity]") -> str:
    """Formats the mean SQNR; "" if a model has no noise."""
    values = [each.sqnr for each in same if each.sqnr is not None]
    return formatting.mean(values, "{:.1f}") if len(values) == len(same) else ""


def _sensitivity_table(
    name: str, models: "Sequence[Sequence[Sensitivity]]", arguments: Arguments
) -> Table:
    """Makes a table of the layers that cause the most noise, the worst first."""
    title = f"{name}: one kernel rounded to {_rounding(arguments)}, all else in float"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("layer")
    table.add_column("kind")
    for column in ("weights", "max/min", "max/median", "SQNR (dB)", "noise (%)"):
        table.add_column(column, justify="right")
    totals = [sum(each.noise for each in layers) or 1.0 for layers in models]
    rows = []
    for same in zip(*models, strict=True):
        shares = [100 * each.noise / total for each, total in zip(same, totals, strict=True)]
        cells = (
            f"{same[0].weights:,}",
            _factor(each.spread for each in same),
            _factor(each.spread_over_median for each in same),
            _decibels(same),
            formatting.mean(shares, "{:.1f}"),
        )
        rows.append((sum(shares), (same[0].layer, same[0].kind, *cells)))
    rows.sort(key=lambda row: -row[0])
    for _, row in rows if arguments.layers else rows[:WORST]:
        table.add_row(*row)
    return table


def _rounding(arguments: Arguments) -> str:
    """Returns how kernels are rounded alone."""
    return f"{arguments.bits[0]} bits per {arguments.granularity[0]}"


def _factor(values: "Iterable[float | None]") -> str:
    """Formats a mean factor; "" if a model has none."""
    found = [*values]
    known = [value for value in found if value is not None]
    return formatting.mean(known, "{:,.3g}") if len(known) == len(found) else ""


def _verdict(name: str, models: "Sequence[Measurement]") -> str:
    """Returns sentences on what rounding costs, what helps most, and which layers are to blame."""
    rungs = [*zip(*(each.ladder.rungs for each in models), strict=True)]
    bits = max(same[0].bits for same in rungs if same[0].granularity)
    known = [same for same in rungs if same[0].bits == bits]
    best = max(
        known, key=lambda same: [sum(r.agreement for r in same), sum(r.sqnr or 0.0 for r in same)]
    )
    first, most = (mean_interval(each.agreement for each in same).mean for same in (known[0], best))
    return (
        f"{name}: {first:.1%} of the images keep their class at {bits} bits "
        f"{_full_name(known[0][0])}; the best is {_full_name(best[0])} with {most:.1%}. "
        f"{_blame([each.layers for each in models])}"
    )


def _blame(models: "Sequence[Sequence[Sensitivity]]") -> str:
    """Returns a sentence on the kind of layers that cause most of the noise."""
    from mnet_jax.quantization import noise_by_kind

    shares: dict[Kind, list[float]] = {}
    for layers in models:
        for kind, share in noise_by_kind(layers).items():
            shares.setdefault(kind, []).append(share)
    kind = max(shares, key=lambda kind: sum(shares[kind]))
    weights = {layer.layer: layer.weights for layer in models[0]}
    own = [layer.weights for layer in models[0] if layer.kind == kind]
    return (
        f"Of the noise of kernels that are rounded alone, {mean_interval(shares[kind]).mean:.0%} "
        f"is that of the {len(own)} {kind} kernels, which have "
        f"{sum(own) / sum(weights.values()):.1%} of the weights."
    )


def _full_name(rung: "Rung") -> str:
    """Returns the name of a rung with its granularity."""
    from mnet_jax.quantization.ladder import ROUNDED

    step = ROUNDED[rung.granularity] if rung.granularity else ""
    separator = " " if rung.name.startswith("+") else ", "
    return rung.name if rung.name == step else f"{step}{separator}{rung.name}"


def _plain(networks: "Mapping[str, Sequence[Measurement]]") -> dict[str, list[object]]:
    """Returns the measurements as dictionaries, lists, numbers and strings."""
    return {
        name: [
            {
                **serialization.to_plain(each.ladder),
                "sensitivity": [serialization.to_plain(layer) for layer in each.layers],
            }
            for each in models
        ]
        for name, models in networks.items()
    }


def _picture(networks: "Mapping[str, Sequence[Measurement]]", rounding: str) -> bytes:
    from mnet_jax.plots import (
        quantization,
        style,  # here: Matplotlib takes a second
    )

    ladders = {name: [each.ladder for each in models] for name, models in networks.items()}
    layers = {name: [each.layers for each in models] for name, models in networks.items()}
    return style.to_png(quantization.draw(ladders, layers, rounding))
