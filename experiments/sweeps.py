"""Makes the arms of a sweep from the arguments of `ablate`: a preset, flags, or both."""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.planning import PRESUMED_IMAGES, RunArguments, baseline, require_fit
from experiments.presets import PRESETS, Values
from experiments.recipes import RECIPES
from experiments.scales import SCALES, ScaleName
from mnet_jax.ablation import axes
from mnet_jax.config import Arm
from mnet_jax.validation import require

MAX_SEEDS = 1000
SEEDS = 3
RESULTS = Path("results")
Named = Mapping[str, tuple[Any, ...]]  # the values given for each axis, by name


@dataclass(frozen=True, kw_only=True)
class SweepArguments(RunArguments):
    """The arguments that determine the trials of a sweep."""

    preset: Literal[*PRESETS] | None = None  # type: ignore[valid-type]
    """an ablation of the papers; flags of axes override its values"""
    scale: ScaleName | None = None
    """size of the preset: smoke (digits, the default), desk (Fashion-MNIST) or full (ImageNet)"""
    list: bool = False
    """print the presets and what they cost"""
    seeds: int | None = None
    """number of seeds (0, 1, ...) for every arm; if not given, the scale's number, or 3"""
    results: Path | None = None
    """directory of the trials and the report; if not given, results or results/<preset>-<scale>"""

    @property
    def size(self) -> ScaleName:
        """The preset's scale."""
        return self.scale or "smoke"

    @property
    def images(self) -> str:
        """The data set's name; if none was given, that of the recipe or of the preset's scale."""
        named = self.named
        return self.dataset or (RECIPES[named].data.name if named in RECIPES else super().images)

    @property
    def named(self) -> str | None:
        """The given recipe; if none was given, that of the preset at its scale, or None."""
        if self.recipe or not self.preset:
            return self.recipe
        return PRESETS[self.preset].recipe_at(self.size)

    @property
    def arm_seeds(self) -> range:
        """The seeds of every arm."""
        usual = SCALES[self.size].seeds if self.preset else SEEDS
        return range(usual if self.seeds is None else self.seeds)

    @property
    def store(self) -> Path:
        """The directory in which trials are stored."""
        return self.results or (RESULTS / f"{self.preset}-{self.size}" if self.preset else RESULTS)

    @property
    def arms(self) -> tuple[Values, ...]:
        """The axis values of every arm, before the command line changes them."""
        return PRESETS[self.preset].values(self.size) if self.preset else ({},)

    @property
    def own_axes(self) -> tuple[str, ...]:
        """The axes that the preset varies."""
        return PRESETS[self.preset].axes if self.preset else ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arms of a call.

    Attributes:
      baseline: the arm that the others are compared with, if the report shows it.
      nearest: the arm of the call that is nearest to the baseline, and takes its place otherwise.
      arms: all arms of the call.
      axes: the axes to compare: the preset's and those with several values, or else all that were
        given.
    """

    baseline: Arm
    nearest: Arm
    arms: tuple[Arm, ...]
    axes: tuple[str, ...]

    def of_files(self, listing: str) -> "Plan":
        """Returns the plan with the listing of a folder's files; see `DataConfig.listing`."""
        return dataclasses.replace(
            self,
            baseline=self.baseline.of_files(listing),
            nearest=self.nearest.of_files(listing),
            arms=tuple(arm.of_files(listing) for arm in self.arms),
        )


def plan(arguments: SweepArguments, given: Named, train_images: int = PRESUMED_IMAGES) -> Plan:
    """Returns the arms that the arguments ask for.

    Args:
      arguments: the arguments of the command.
      given: the values on the command line, by axis; empty for an axis that was not given.
      train_images: the number of training images in the data set.

    Raises:
      ValueError: a value is not legal, or no machine could run an arm.
    """
    seeds, alone = arguments.seeds, arguments.scale and not arguments.preset
    require(seeds is None or 1 <= seeds <= MAX_SEEDS, "seeds", seeds, f"1 to {MAX_SEEDS}")
    require(not alone, "scale", arguments.scale, "none without --preset")
    named = {name: values for name, values in given.items() if values}
    start = baseline(arguments, train_images)
    own = axes.with_values(start, arguments.arms[0])
    read = {axis.name: axis.read(own) for axis in axes.AXES if axis.name in named}
    nearest = {n: read[n] if read[n] in values else values[0] for n, values in named.items()}
    arms = [
        axes.with_values(start, {**values, **dict(zip(named, chosen, strict=True))})
        for values in arguments.arms
        for chosen in itertools.product(*named.values())
    ]
    for arm in arms:
        require_fit(arm)
    varied = [name for name, values in named.items() if len({*values}) > 1]
    return Plan(
        baseline=own,
        nearest=axes.with_values(start, {**arguments.arms[0], **nearest}),
        arms=tuple(dict.fromkeys(arms)),
        axes=tuple(dict.fromkeys([*arguments.own_axes, *varied])) or tuple(named),
    )
