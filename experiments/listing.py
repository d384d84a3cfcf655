"""The table of presets that `ablate --list` prints."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from experiments import scales
from experiments.presets import PRESETS, Preset
from experiments.scales import SCALES, ScaleName
from mnet_jax.ablation import axes
from mnet_jax.analysis import cost
from mnet_jax.config import RunConfig

CLASSES: Mapping[ScaleName, int] = {"smoke": 10, "desk": 10, "full": 1000}


def configs_of(preset: Preset, scale: ScaleName) -> list[RunConfig]:
    """Each arm's config on the scale's own data set."""
    start = scales.baseline(SCALES[scale].dataset, CLASSES[scale])
    return [axes.with_values(start, values) for values in preset.values(scale)]


def seconds_of(preset: Preset, scale: ScaleName) -> float:
    """An estimate of what all trials of a preset take, by the arms' multiply-adds."""
    at = SCALES[scale]
    training = (
        at.seconds(cost.count(c.spec, c.data.resolution).madds, c.training.epochs)
        for c in configs_of(preset, scale)
    )
    return sum(at.arm_seconds + at.seeds * seconds for seconds in training)


def arm_name(values: Mapping[str, Any]) -> str:
    """An arm's own values, such as `width 0.75`."""
    return " ".join(f"{axis} {value}" for axis, value in values.items()) or "as published"


def duration(seconds: float) -> str:
    """A time as one number that is easily read."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def expense_of(preset: Preset, scale: ScaleName) -> str:
    """A scale with its trials and the time they take, such as `desk: 10 trials, 32 minutes`."""
    trials = len(preset.arms_of(scale)) * SCALES[scale].seeds
    return f"{scale}: {trials} trials, {duration(seconds_of(preset, scale))}"


def rows() -> list[tuple[str, str, str, list[str], list[str], str]]:
    """Of each preset: name, source, claim, arms at full, expenses, result."""
    return [
        (
            name,
            preset.source,
            preset.claim,
            [arm_name(arm) for arm in preset.arms_of("full")],
            [expense_of(preset, scale) for scale in SCALES],
            preset.result,
        )
        for name, preset in PRESETS.items()
    ]


def to_table() -> Table:
    """All presets: source, claim, arms, what each scale costs, and what came out."""
    table = Table(
        title="python -m experiments.ablate --preset NAME --scale smoke|desk|full",
        caption="The first arm is the baseline; the arms are those of the scale full. Times are "
        "estimates by multiply-adds: smoke and desk of two CPU cores, full by the recipe's epochs "
        "on one accelerator that trains 2e12 multiply-adds a second.",
        caption_justify="left",
        show_lines=True,
    )
    for column in ("preset", "claim", "arms", "estimated cost", "result"):
        table.add_column(column)
    for name, source, claim, arms, expenses, result in rows():
        table.add_row(name, f"{source}. {claim}", "\n".join(arms), "\n".join(expenses), result)
    return table
