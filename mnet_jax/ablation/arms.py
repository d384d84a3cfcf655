"""The dataclasses of a report: arms and the results of their seeds. Accuracies are from 0 to 1."""

from dataclasses import dataclass

from mnet_jax.ablation.claims import Claim, ClaimVerdict
from mnet_jax.config import Arm, RunConfig
from mnet_jax.statistics.comparison import Comparison, Verdict
from mnet_jax.statistics.intervals import Interval, Method


@dataclass(frozen=True, kw_only=True)
class SeedOutcome:
    """The result of training an arm with one seed.

    Attributes:
      seed: the seed of the run.
      accuracy: the accuracy on the test split.
      difference: `accuracy` minus the baseline's accuracy with the same seed. None for the
        baseline itself, and if the baseline has no result with this seed.
      validation_accuracy: the validation accuracy after each epoch.
    """

    seed: int
    accuracy: float
    difference: float | None
    validation_accuracy: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed trial of an arm: its seed, and the cause in one line."""

    seed: int
    cause: str


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """A row of the report: an arm and the results of its seeds.

    Attributes:
      config: the config of the arm's run with seed 0.
      labels: the arm's value on each axis, as text.
      baseline: whether this is the arm that the others are compared with.
      requested: whether the arm belongs to this sweep; otherwise it was found in the store.
      params: number of trainable parameters; None if no seed finished.
      madds: multiply-adds per image; None if no seed finished.
      accuracy: mean test accuracy over the seeds that finished.
      comparison: the comparison with the baseline, over the seeds that finished in both arms.
      judgement: the verdict on the claim about this arm; None without a claim or a comparison.
      images_per_second: training speed, the median over seeds.
      seconds: total wall time of the finished seeds.
      seconds_per_seed: wall time of one seed, the median over seeds. The few seeds whose time
        includes compilation hardly change the median.
      outcomes: the results of the seeds that finished, sorted by seed.
      failures: the seeds that failed, sorted.
      not_run: the seeds of this sweep that have no trial, sorted.
    """

    config: RunConfig
    labels: dict[str, str]
    baseline: bool
    requested: bool
    params: int | None
    madds: int | None
    accuracy: Interval | None
    comparison: Comparison | None
    judgement: ClaimVerdict | None
    images_per_second: float | None
    seconds: float
    seconds_per_seed: float | None
    outcomes: tuple[SeedOutcome, ...]
    failures: tuple[Failure, ...]
    not_run: tuple[int, ...]

    @property
    def arm(self) -> Arm:
        """The arm that was trained."""
        return Arm.of(self.config)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that finished."""
        return tuple(outcome.seed for outcome in self.outcomes)

    @property
    def tried(self) -> int:
        """The number of seeds that belong to this sweep or were found in the store."""
        return len(self.outcomes) + len(self.failures) + len(self.not_run)

    @property
    def difference(self) -> Interval | None:
        """The difference in accuracy from the baseline; None without a comparison."""
        return self.comparison.difference if self.comparison else None

    @property
    def verdict(self) -> Verdict | None:
        """The verdict of the comparison with the baseline; None without a comparison."""
        return self.comparison.verdict if self.comparison else None


@dataclass(frozen=True, kw_only=True)
class JudgedClaim:
    """A claim, and the combined verdict of all arms that the claim is about."""

    claim: Claim
    judgement: ClaimVerdict


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report: the arms of a sweep, other arms found in the store, and what all of them share.

    Attributes:
      arms: the rows, the arms of the sweep first.
      columns: the axes on which the arms differ, and those that the command line named.
      common: the labels (values on axes, as text) that all arms share.
      recipe: the data set and the initial weights, in one line.
      note: why the arms are not compared with a baseline, in one line; None if they are.
      method: how the intervals were computed.
      family: the number of comparisons for which intervals and verdicts are corrected.
      claims: the claims about the arms, with the verdicts on them.
      environment: for each entry of the trials' environments, such as `jax`, all its values.
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
        """The row of the baseline; None if the baseline is not among the arms."""
        return next((arm for arm in self.arms if arm.baseline), None)

    def name_of(self, arm: ArmResult) -> str:
        """Returns an arm's name: its labels on the axes `columns`, such as `relu6, 0.5`."""
        return ", ".join(arm.labels[axis] for axis in self.columns) or "the only arm"
