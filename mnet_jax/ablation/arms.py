"""What a report is made of: arms, and what their seeds found. Accuracies are shares from 0 to 1."""

from dataclasses import dataclass

from mnet_jax.ablation.comparison import Comparison, Verdict
from mnet_jax.ablation.judgement import Claim, Judgement
from mnet_jax.ablation.statistics import Interval, Method
from mnet_jax.config import Arm, RunConfig


@dataclass(frozen=True, kw_only=True)
class SeedOutcome:
    """What one seed of an arm found.

    Attributes:
      seed: of the run.
      accuracy: on the test split.
      difference: to the baseline's with the same seed; None for the baseline, or without one.
      validation_accuracy: one for each epoch.
    """

    seed: int
    accuracy: float
    difference: float | None
    validation_accuracy: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A seed of an arm that found nothing, and why, in one line."""

    seed: int
    cause: str


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """A row: an arm, and what its seeds found.

    Attributes:
      arm: what was trained.
      config: of its run with seed 0.
      labels: the text of each axis's value.
      baseline: whether the others are compared with this one.
      requested: part of this call, or else found in the store.
      params: trainable parameters; None where no seed finished.
      madds: multiply-adds per image; None likewise.
      accuracy: mean test accuracy over the seeds that finished.
      comparison: with the baseline, over the seeds that both finished.
      judgement: what the comparison says of the claim about this arm; None without either.
      images_per_second: training speed, the median over seeds.
      seconds: wall time of the finished seeds, added up.
      seconds_per_seed: wall time of one, the median over seeds, so that compiling counts little.
      outcomes: the seeds that finished, in order.
      failures: the seeds that failed, in order.
      not_run: the seeds that were asked for and have no trial, in order.
    """

    arm: Arm
    config: RunConfig
    labels: dict[str, str]
    baseline: bool
    requested: bool
    params: int | None
    madds: int | None
    accuracy: Interval | None
    comparison: Comparison | None
    judgement: Judgement | None
    images_per_second: float | None
    seconds: float
    seconds_per_seed: float | None
    outcomes: tuple[SeedOutcome, ...]
    failures: tuple[Failure, ...]
    not_run: tuple[int, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that finished."""
        return tuple(outcome.seed for outcome in self.outcomes)

    @property
    def tried(self) -> int:
        """The number of seeds that were asked for or found."""
        return len(self.outcomes) + len(self.failures) + len(self.not_run)

    @property
    def difference(self) -> Interval | None:
        """To the baseline."""
        return self.comparison.difference if self.comparison else None

    @property
    def verdict(self) -> Verdict | None:
        """Of the difference, in a word or two."""
        return self.comparison.verdict if self.comparison else None


@dataclass(frozen=True, kw_only=True)
class JudgedClaim:
    """A claim, and what its arms say of it together."""

    claim: Claim
    judgement: Judgement


@dataclass(frozen=True, kw_only=True)
class Report:
    """All arms, those of the call first, and what they have in common.

    Attributes:
      arms: the rows.
      columns: the axes that tell the arms apart, and those that the call named.
      common: the labels that all arms share.
      recipe: of data and training, what no axis tells, in one line.
      note: why there are no differences, in one line; None where there are.
      method: of the intervals.
      family: the number of comparisons that the intervals and verdicts are corrected for.
      claims: what was claimed of the arms, and what all of those say together.
      environment: versions and devices, every distinct value over the trials.
    """

    arms: tuple[ArmResult, ...]
    columns: tuple[str, ...]
    common: dict[str, str]
    recipe: str
    note: str | None
    method: Method
    family: int
    claims: tuple[JudgedClaim, ...]
    environment: dict[str, tuple[str, ...]]

    @property
    def anchor(self) -> ArmResult | None:
        """The baseline's arm."""
        return next((arm for arm in self.arms if arm.baseline), None)

    def name_of(self, arm: ArmResult) -> str:
        """What tells an arm apart, such as `relu6, 0.5`."""
        return ", ".join(arm.labels[axis] for axis in self.columns) or "the only arm"
