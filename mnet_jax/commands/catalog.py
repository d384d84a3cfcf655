"""The tables of presets and of recipes that `ablate --list` and `train --list` print.

A preset can run at three scales (`smoke`, `desk`, `full`), which differ in data set and cost.
"""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from mnet_jax.ablation.preset import SCALES, Preset, ScaleName
from mnet_jax.ablation.presets import PRESETS
from mnet_jax.analysis import cost
from mnet_jax.commands.messages import invocation
from mnet_jax.config import RunConfig
from mnet_jax.options import axes
from mnet_jax.options.recipes import RECIPES, SIZED, Recipe, RecipeNotes

CLASSES: Mapping[ScaleName, int] = {"smoke": 10, "desk": 10, "full": 1000}


def configs_of(preset: Preset, scale: ScaleName) -> list[RunConfig]:
    """Returns each arm's config for the data set of a scale, with seed 0."""
    start = RECIPES[preset.recipe_at(scale)].arm.config(CLASSES[scale])
    return [axes.with_values(start, values) for values in preset.values(scale)]


def seconds_of(preset: Preset, scale: ScaleName) -> float:
    """Estimates the time of all trials of a preset in seconds, from the arms' multiply-adds."""
    at = SCALES[scale]
    training = (
        at.seconds(cost.count(c.spec, c.data.resolution).madds, _epochs(c))
        for c in configs_of(preset, scale)
    )
    return sum(at.arm_seconds + at.seeds * seconds for seconds in training)


def _epochs(config: RunConfig) -> int:
    """Returns the epochs of a trial; a quantized one does not repeat those in floating point."""
    quantization = config.quantization
    if quantization is None:
        return config.training.epochs
    return quantization.qat_epochs if quantization.trains else 0


def arm_name(values: Mapping[str, Any]) -> str:
    """Formats the axis values of a preset's arm, such as `width 0.75`."""
    return " ".join(f"{axis} {value}" for axis, value in values.items()) or "as published"


def duration(seconds: float) -> str:
    """Formats a time as one number with a suitable unit, such as `32 minutes`."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def expense_of(preset: Preset, scale: ScaleName) -> str:
    """Formats a preset's cost at a scale, such as `desk: 10 trials, 32 minutes`."""
    trials = len(preset.arms_of(scale)) * SCALES[scale].seeds
    return f"{scale}: {trials} trials, {duration(seconds_of(preset, scale))}"


def rows() -> list[tuple[str, str, str, list[str], list[str], str]]:
    """Returns for each preset: name, source, claim, arms at full scale, cost by scale, result."""
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


def recipe_expense(recipe: RecipeNotes) -> str:
    """Formats a recipe's cost; for ImageNet, this includes an estimate of the time."""
    full = SCALES["full"]
    if not isinstance(recipe, Recipe) or recipe.data.name != full.dataset:
        return recipe.cost
    madds = cost.count(recipe.arm.spec, recipe.data.resolution).madds
    return f"{recipe.cost}, {duration(full.seconds(madds, recipe.training.epochs))}"


def recipe_rows() -> list[tuple[str, str, str, str, str]]:
    """Returns for each recipe: name, title, source, cost (see `recipe_expense`), target."""
    return [
        (name, recipe.title, recipe.source, recipe_expense(recipe), recipe.target)
        for name, recipe in (*RECIPES.items(), *SIZED.items())
    ]


def recipes_table() -> Table:
    """Returns a table of all recipes: what they train, source, cost and target."""
    table = Table(
        title=" ".join([*invocation("train"), "--recipe NAME"]),
        caption="Targets are top-1 accuracies on ImageNet, unless stated otherwise. Times are "
        "estimates for one accelerator that trains at 2e12 multiply-adds a second.",
        caption_justify="left",
        show_lines=True,
    )
    for column in ("recipe", "what", "cost", "target"):
        table.add_column(column)
    for name, title, source, expense, target in recipe_rows():
        table.add_row(name, f"{title} Source: {source}", expense, target)
    return table


def presets_table() -> Table:
    """Returns a table of all presets: source, claim, arms, cost at each scale, and result."""
    table = Table(
        title=" ".join([*invocation("ablate"), "--preset NAME --scale smoke|desk|full"]),
        caption="The arms are those of the scale full; the first is the baseline. Times are "
        "estimated from multiply-adds: smoke and desk for two CPU cores, full for one accelerator "
        "that trains at 2e12 multiply-adds a second, with the epochs of the recipe.",
        caption_justify="left",
        show_lines=True,
    )
    for column in ("preset", "claim", "arms", "estimated cost", "result"):
        table.add_column(column)
    for name, source, claim, arms, expenses, result in rows():
        several = (Text("\n".join(lines)) for lines in (arms, expenses))
        table.add_row(name, f"{source}. {claim}", *several, result)
    return table
