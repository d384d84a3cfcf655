"""The Pareto frontier of accuracy against cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mnet_jax.ablation.arms import ArmResult, Report
from mnet_jax.statistics.intervals import Interval

WIDE = 5  # if largest cost / smallest cost exceeds this, the axis is logarithmic


@dataclass(frozen=True, kw_only=True)
class Point:
    """An arm that finished, with its cost.

    Attributes:
      arm: the arm.
      accuracy: the arm's mean accuracy, with its confidence interval.
      cost: the arm's cost, in the unit of the axis.
      on_frontier: whether the arm is on the Pareto frontier; false if another arm is at least as
        good in both cost and accuracy, and better in one of them.
    """

    arm: ArmResult
    accuracy: Interval
    cost: float
    on_frontier: bool


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A cost to plot accuracy against.

    Attributes:
      title: the title of the plot.
      unit: the label of the axis that shows this cost.
      of: returns an arm's cost; None if the cost is unknown.
    """

    title: str
    unit: str
    of: Callable[[ArmResult], float | None]


COSTS = (
    Cost(
        title="Accuracy and multiply-adds",
        unit="million multiply-adds per image",
        of=lambda arm: None if arm.madds is None else arm.madds / 1e6,
    ),
    Cost(
        title="Accuracy and training time",
        unit="seconds per seed",
        of=lambda arm: arm.seconds_per_seed,
    ),
)


def points(report: Report, cost: Cost) -> list[Point]:
    """Returns a point for each arm whose accuracy and cost are known, in the report's order."""
    known = [(arm, arm.accuracy, cost.of(arm)) for arm in report.arms]
    places = [(a, accuracy, c) for a, accuracy, c in known if accuracy and c is not None]

    def beaten(mean: float, own: float) -> bool:
        return any(
            other <= own and accuracy.mean >= mean and (other, accuracy.mean) != (own, mean)
            for _, accuracy, other in places
        )

    return [
        Point(arm=arm, accuracy=accuracy, cost=own, on_frontier=not beaten(accuracy.mean, own))
        for arm, accuracy, own in places
    ]


def frontier(found: Sequence[Point]) -> list[Point]:
    """Returns the points on the frontier, the cheapest first."""
    return sorted((p for p in found if p.on_frontier), key=lambda point: point.cost)


def is_wide(found: Sequence[Point]) -> bool:
    """Returns whether the costs need a logarithmic axis."""
    costs = [point.cost for point in found]
    return min(costs) > 0 and max(costs) / min(costs) > WIDE
