"""From trials to the rows of a report.

A row is an arm: a config without its seed. Accuracies are shares from 0 to 1.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from mnet_jax.ablation.arms import Arm, Failure, JudgedClaim, Report, SeedOutcome
from mnet_jax.ablation.comparison import Comparison, compare, count_comparisons
from mnet_jax.ablation.judgement import Claim, judge, judge_all
from mnet_jax.ablation.statistics import Method, mean_interval, seed_differences
from mnet_jax.ablation.store import Trial, key_of
from mnet_jax.changes import ABSENT
from mnet_jax.config import RunConfig
from mnet_jax.result import RunResult
from mnet_jax.validation import require


def summarize(
    trials: Iterable[Trial],
    requested: Sequence[RunConfig],
    labels_of: Callable[[RunConfig], Mapping[str, str]],
    *,
    baseline: RunConfig | None,
    named_axes: Sequence[str] = (),
    method: Method = "t",
    claims: Sequence[Claim] = (),
    is_judged: Callable[[RunConfig], bool] | None = None,
) -> Report:
    """The report on some trials.

    Args:
      trials: of this call and, to show beside them, from the store; one of each key counts.
      requested: the configs of this call, seeds included, whether they have a trial or not.
      labels_of: the axes of a config and its value on each, as text; the seed is none of them.
      baseline: the arm to compare with, whatever its seed; None for no differences.
      named_axes: shown as columns even where all arms agree.
      method: of the intervals.
      claims: of a paper, on the arms of this call; an arm is judged by the first about it.
      is_judged: whether they are about an arm's config at all; None for all arms.

    Raises:
      ValueError: a named axis is none of the labels.
    """
    by_key = {trial.key: trial for trial in trials}
    wanted: dict[RunConfig, list[int]] = {}
    for config in requested:
        wanted.setdefault(_unseeded(config), []).append(config.seed)
    grouped: dict[RunConfig, list[Trial]] = {arm: [] for arm in wanted}
    for trial in by_key.values():
        grouped.setdefault(_unseeded(trial.config), []).append(trial)
    anchor = _unseeded(baseline) if baseline else None
    reference = _accuracies(grouped.get(anchor, ())) if anchor else {}
    labels = _told_apart({arm: dict(labels_of(arm)) for arm in grouped})
    others = [arm for arm in grouped if arm != anchor]
    values = [_accuracies(grouped[arm]) for arm in others]
    compared = dict(zip(others, compare(values, reference, method=method), strict=True))
    judged = [arm for arm in wanted if is_judged is None or is_judged(arm)]
    claimed = {arm: next((c for c in claims if c.is_about(labels[arm])), None) for arm in judged}
    arms = tuple(
        _judged(
            _arm(arm, found, labels[arm], wanted.get(arm), reference, compared.get(arm), method),
            claimed.get(arm),
            baseline=arm == anchor,
        )
        for arm, found in grouped.items()
    )
    axes = list(dict.fromkeys(axis for arm in arms for axis in arm.labels))
    columns = _columns(arms, axes, named_axes)
    return Report(
        arms=arms,
        columns=columns,
        common={axis: arms[0].labels[axis] for axis in axes if axis not in columns},
        recipe=_recipe(requested) if requested else "",
        note=None if reference else _no_reference(labels_of(anchor) if anchor else None, columns),
        method=method,
        family=count_comparisons(values, reference, method),
        claims=tuple(
            _together(claim, [arm for arm in arms if claimed.get(arm.config) is claim])
            for claim in claims
        ),
        environment=_environment(by_key.values()),
    )


def _judged(arm: Arm, claim: Claim | None, *, baseline: bool) -> Arm:
    """The arm with what its comparison says of the claim about it."""
    judged = judge(claim, arm.comparison) if claim and arm.comparison else None
    return replace(arm, baseline=baseline, judgement=judged)


def _together(claim: Claim, arms: Sequence[Arm]) -> JudgedClaim:
    """What the arms that a claim is about say of it; one that was not compared cannot tell."""
    judgements = [arm.judgement or "cannot tell" for arm in arms if not arm.baseline]
    return JudgedClaim(claim=claim, judgement=judge_all(judgements))


def _columns(arms: Sequence[Arm], axes: Sequence[str], named: Sequence[str]) -> tuple[str, ...]:
    """The named axes and those whose label varies; ValueError for a name that is no axis."""
    for axis in named if arms else ():
        require(axis in axes, "axis", axis, ", ".join(axes))
    varying = [axis for axis in axes if len({arm.labels[axis] for arm in arms}) > 1]
    return tuple(dict.fromkeys([*named, *varying]))


def _recipe(configs: Sequence[RunConfig]) -> str:
    """The data that all arms share, and the weights that they start from."""
    starts = [c.pretrained.path if c.pretrained else "random weights" for c in configs]
    return f"{configs[0].data.name}, from {' or '.join(dict.fromkeys(starts))}"


def _no_reference(anchor: Mapping[str, str] | None, columns: Sequence[str]) -> str:
    """Why there are no differences, from the baseline's labels, if there is a baseline."""
    if anchor is None:
        return "no differences: no baseline was given"
    name = ", ".join(f"{axis} {anchor[axis]}" for axis in columns if axis in anchor)
    return f"no differences: the baseline{name and f' ({name})'} has no finished trial"


def _unseeded(config: RunConfig) -> RunConfig:
    return replace(config, seed=0)


def _accuracies(trials: Iterable[Trial]) -> dict[int, float]:
    return {t.config.seed: t.result.test_accuracy for t in trials if t.result is not None}


def _told_apart(labels: dict[RunConfig, dict[str, str]]) -> dict[RunConfig, dict[str, str]]:
    """Every arm's labels on every arm's axes; where two arms agree on all, also their hashes."""
    axes = dict.fromkeys(axis for own in labels.values() for axis in own)
    full = {arm: {axis: own.get(axis, ABSENT) for axis in axes} for arm, own in labels.items()}
    if len({tuple(own.values()) for own in full.values()}) < len(full):
        full = {arm: {**own, "config": key_of(arm)[:6]} for arm, own in full.items()}
    return full


def _arm(
    config: RunConfig,
    trials: Sequence[Trial],
    labels: dict[str, str],
    wanted: Sequence[int] | None,
    reference: Mapping[int, float],
    comparison: Comparison | None,
    method: Method,
) -> Arm:
    """The row of one arm, not yet judged.

    Args:
      config: its own, without a seed.
      trials: its own, of all seeds.
      labels: its values on the axes.
      wanted: the seeds that the call asked for; None for an arm that it did not.
      reference: the baseline's accuracy for each seed.
      comparison: with the baseline.
      method: of the accuracy's interval.
    """
    trials = sorted(trials, key=lambda trial: trial.config.seed)
    accuracies = _accuracies(trials)
    differences = seed_differences(accuracies, reference) if comparison else {}
    results = [(trial.config.seed, trial.result) for trial in trials if trial.result]
    seconds = [result.seconds for _, result in results]
    speeds = [result.images_per_second for _, result in results]
    return Arm(
        config=config,
        labels=labels,
        baseline=False,
        requested=wanted is not None,
        params=results[0][1].params if results else None,
        madds=results[0][1].madds if results else None,
        accuracy=mean_interval(accuracies.values(), method=method) if results else None,
        comparison=comparison,
        judgement=None,
        images_per_second=statistics.median(speeds) if speeds else None,
        seconds=math.fsum(seconds),
        seconds_per_seed=statistics.median(seconds) if seconds else None,
        outcomes=tuple(_outcome(seed, result, differences) for seed, result in results),
        failures=tuple(
            Failure(seed=trial.config.seed, cause=trial.cause) for trial in trials if trial.cause
        ),
        not_run=tuple(sorted({*(wanted or ())} - {trial.config.seed for trial in trials})),
    )


def _outcome(seed: int, result: RunResult, differences: Mapping[int, float]) -> SeedOutcome:
    return SeedOutcome(
        seed=seed,
        accuracy=result.test_accuracy,
        difference=differences.get(seed),
        validation_accuracy=tuple(record.validation_accuracy for record in result.history),
    )


def _environment(trials: Iterable[Trial]) -> dict[str, tuple[str, ...]]:
    values: dict[str, set[str]] = {}
    for trial in trials:
        for name, value in trial.environment.items():
            values.setdefault(name, set()).add(value)
    return {name: tuple(sorted(values[name])) for name in sorted(values)}
