"""The frontier is what a search over all pairs finds."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from summaries import make_config, pair

from mnet_jax.ablation import pareto
from mnet_jax.statistics.intervals import mean_interval

MADDS, SECONDS = pareto.COSTS


def report_of(places):
    """A report with an arm of each (cost, accuracy)."""
    model = pair().arms[0]
    arms = tuple(
        replace(model, madds=cost, seconds_per_seed=None, accuracy=mean_interval([accuracy]),
                config=make_config(seed=i))
        for i, (cost, accuracy) in enumerate(places)
    )  # fmt: skip
    return replace(pair(), arms=arms)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_frontier(places):
    """On it: at its cost or less nobody is better, and as good as it nobody is cheaper."""
    found = pareto.points(report_of(places), MADDS)
    for (cost, accuracy), point in zip(places, found, strict=True):
        best = max(a for c, a in places if c <= cost)
        cheapest = min(c for c, a in places if a >= accuracy)
        assert point.on_frontier == (accuracy == best and cost == cheapest)
    steps = [(point.cost, point.accuracy.mean) for point in pareto.frontier(found)]
    assert steps == sorted(steps)
    assert len({s[1] for s in steps}) == len({s[0] for s in steps})


def test_arms_without_the_cost_are_no_points():
    assert pareto.points(report_of([(1, 0.9)]), SECONDS) == []
    assert pareto.points(replace(pair(), arms=()), MADDS) == []


def test_a_wide_range_is_logarithmic():
    assert not pareto.is_wide(pareto.points(report_of([(10, 0.9), (50, 0.8)]), MADDS))
    assert pareto.is_wide(pareto.points(report_of([(10, 0.9), (51, 0.8)]), MADDS))
