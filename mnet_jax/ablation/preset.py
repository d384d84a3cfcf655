"""The class `Preset`: an ablation with claims of a paper, at three scales of data set and cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mnet_jax.ablation.claims import Claim
from mnet_jax.config import Arm
from mnet_jax.options import axes

ScaleName = Literal["smoke", "desk", "full"]
Values = Mapping[str, Any]  # the values of axes, by name
NOT_RUN = "not run yet"  # the `result` of a preset without results


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of a preset's sweep, and the speed from which its duration is estimated.

    Attributes:
      dataset: the name of the data set.
      seeds: the number of seeds of every arm.
      train_images: the number of training images in an epoch.
      madds_per_second: multiply-adds per second in training; a step counts as 3 forward passes.
      arm_seconds: the compilation time of an arm's first trial, in seconds.
    """

    dataset: str
    seeds: int
    train_images: int
    madds_per_second: float
    arm_seconds: float

    def seconds(self, madds: float, epochs: int) -> float:
        """Estimates the seconds for training a network with `madds` multiply-adds per image."""
        return 3 * madds * self.train_images * epochs / self.madds_per_second


# The speeds for the small data sets were measured with MobileNet V2 at width 0.5 on two shared
# x86-64 cores: 2 epochs of Fashion-MNIST take 75 s. The speed for ImageNet is an assumption: a
# mobile network on one large accelerator reaches about 2e12, which is 2,200 images/s for V2.
SCALES: dict[ScaleName, Scale] = {
    "smoke": Scale(
        dataset="digits",
        seeds=2,
        train_images=1_168,
        madds_per_second=3.0e10,
        arm_seconds=15,
    ),
    "desk": Scale(
        dataset="fashion_mnist",
        seeds=5,
        train_images=54_000,
        madds_per_second=3.0e10,
        arm_seconds=15,
    ),
    "full": Scale(
        dataset="imagenet2012",
        seeds=3,
        train_images=1_268_355,
        madds_per_second=2.0e12,
        arm_seconds=0,
    ),
}


# At these scales the recipe of the data set is used, not that of the preset.
_SMALL_RECIPES: Mapping[ScaleName, str] = {"smoke": "v2-digits", "desk": "v2-fashion-mnist"}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """An ablation from a paper.

    Attributes:
      source: the paper, and its figure, table or section.
      claim: the paper's claim, with its numbers: top-1 accuracies on ImageNet in percent.
      arms: the axis values in which the arms differ. The first arm is the baseline.
      recipe: the recipe that all arms start from at the scale `full`.
      shared: for each scale, further axis values that all arms share.
      arms_at: the arms at the scales that do not use `arms`.
      claims: the claim in the form that a report can judge.
      result: the path of the page with our results, or `NOT_RUN`.
    """

    source: str
    claim: str
    arms: tuple[Values, ...]
    recipe: str
    shared: Mapping[ScaleName, Values]
    arms_at: Mapping[ScaleName, tuple[Values, ...]] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    result: str = NOT_RUN

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes in which the arms differ; they are the same at every scale."""
        return tuple(dict.fromkeys(axis for arm in self.arms for axis in arm))

    def judges(self, arm: Arm, baseline: Arm) -> bool:
        """Returns whether the claims apply to an arm of a sweep with this baseline.

        The claims do not apply if flags changed the baseline on one of the preset's axes, or if the
        arm also differs from the baseline on an axis that the preset does not vary.
        """
        own = [axis for axis in axes.AXES if axis.name in self.axes]
        has = {axis.name: axis.read(baseline) for axis in own}
        scales = [scale for scale in SCALES if self.arms_of(scale)[0].items() <= has.items()]
        dataset = baseline.data.name.partition(":")[0]
        scales = [scale for scale in scales if SCALES[scale].dataset == dataset] or scales
        values = {axis.name: axis.read(arm) for axis in own}
        return any(
            self._makes(arm, baseline, {**self._shared_without_effect(scale, baseline), **values})
            for scale in scales
        )

    def _shared_without_effect(self, scale: ScaleName, baseline: Arm) -> Values:
        """Returns the shared values on axes that the baseline does not have."""
        absent = {axis.name for axis in axes.AXES if axis.read(baseline) == axes.ABSENT}
        shared = self.shared.get(scale, {})
        return {name: value for name, value in shared.items() if name in absent}

    @staticmethod
    def _makes(arm: Arm, baseline: Arm, values: Values) -> bool:
        """Returns whether these values make the arm from the baseline."""
        try:
            return arm == axes.with_values(baseline, values)
        except ValueError:  # the baseline cannot have the arm's values
            return False

    def values(self, scale: ScaleName) -> tuple[dict[str, Any], ...]:
        """Returns each arm's axis values at a scale, including those that all arms share."""
        shared = self.shared.get(scale, {})
        return tuple({**shared, **arm} for arm in self.arms_of(scale))

    def recipe_at(self, scale: ScaleName) -> str:
        """Returns the name of the recipe that all arms start from at a scale."""
        return _SMALL_RECIPES.get(scale, self.recipe)

    def arms_of(self, scale: ScaleName) -> tuple[Values, ...]:
        """Returns each arm's own axis values at a scale."""
        return self.arms_at.get(scale, self.arms)
