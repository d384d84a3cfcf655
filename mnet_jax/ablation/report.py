"""Computes a report from trials, with a row for each arm. Accuracies are from 0 to 1."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mnet_jax.ablation.arms import ArmResult, Failure, JudgedClaim, Report, SeedOutcome
from mnet_jax.ablation.claims import Claim, judge, judge_all
from mnet_jax.ablation.store import Trial, key_of
from mnet_jax.changes import ABSENT
from mnet_jax.config import Arm, RunConfig
from mnet_jax.options.quantization_axes import QUANTIZED
from mnet_jax.statistics.comparison import Comparison, compare, count_comparisons
from mnet_jax.statistics.intervals import Method, mean_interval, seed_differences
from mnet_jax.training.results import RunResult
from mnet_jax.validation import require


def summarize(
    trials: Iterable[Trial],
    requested: Sequence[RunConfig],
    labels_of: Callable[[Arm], Mapping[str, str]],
    *,
    baseline: Arm | None,
    named_axes: Sequence[str] = (),
    method: Method = "t",
    claims: Sequence[Claim] = (),
    is_judged: Callable[[Arm], bool] | None = None,
) -> Report:
    """Computes the report from trials.

    Args:
      trials: the trials of this sweep, and others from the store to show beside them. Of trials
        with the same key, the last is used.
      requested: the configs of all trials of this sweep, including those that have not run.
      labels_of: returns an arm's value on each axis, as text.
      baseline: the arm that the others are compared with; None for no comparison.
      named_axes: axes that get a column even if all arms have the same value.
      method: how the confidence intervals are computed.
      claims: a paper's claims about the arms of this sweep. Each arm is judged by the first claim
        that is about it.
      is_judged: returns whether the claims apply to an arm at all; None if they apply to all.

    Raises:
      ValueError: a named axis is not among the labels.
    """
    by_key = {trial.key: trial for trial in trials}
    groups = _grouped(by_key.values(), requested)
    reference = _accuracies(groups[baseline].trials) if baseline in groups else {}
    labels = _unique_labels(groups, labels_of)
    others = [arm for arm in groups if arm != baseline]
    values = [_accuracies(groups[arm].trials) for arm in others]
    compared = dict(zip(others, compare(values, reference, method=method), strict=True))
    judged = [arm for arm in groups if groups[arm].wanted and (not is_judged or is_judged(arm))]
    claimed = {arm: next((c for c in claims if c.is_about(labels[arm])), None) for arm in judged}
    arms = tuple(
        _judged(
            _result_of(group, labels[arm], reference, compared.get(arm), method),
            claimed.get(arm),
            baseline=arm == baseline,
        )
        for arm, group in groups.items()
    )
    axes = list(dict.fromkeys(axis for arm in arms for axis in arm.labels))
    columns = _columns(arms, axes, named_axes)
    return Report(
        arms=arms,
        columns=columns,
        common={axis: arms[0].labels[axis] for axis in axes if axis not in columns},
        recipe=_recipe(requested) if requested else "",
        note=None if reference else _no_reference(baseline, labels_of, columns),
        method=method,
        family=count_comparisons(values, reference, method),
        claims=tuple(
            _together(claim, [arm for arm in arms if claimed.get(arm.arm) is claim])
            for claim in claims
        ),
        environment=_environment(by_key.values()),
    )


def _judged(arm: ArmResult, claim: Claim | None, *, baseline: bool) -> ArmResult:
    """Returns an arm with `baseline` set, and with the judgement of the claim about it."""
    judged = judge(claim, arm.comparison) if claim and arm.comparison else None
    return replace(arm, baseline=baseline, judgement=judged)


def _together(claim: Claim, arms: Sequence[ArmResult]) -> JudgedClaim:
    """Judges a claim by all its arms; an arm without a comparison counts as `cannot tell`."""
    verdicts = [arm.judgement or "cannot tell" for arm in arms if not arm.baseline]
    return JudgedClaim(claim=claim, judgement=judge_all(verdicts))


def _columns(
    arms: Sequence[ArmResult], axes: Sequence[str], named: Sequence[str]
) -> tuple[str, ...]:
    """Returns the axes of the table: the named axes, then the axes whose label varies.

    The axes of quantization must vary among quantized networks: that networks in floating point
    have no bits is shown by the axis `quantization`.

    Raises:
      ValueError: an element of `named` is not in `axes`.
    """
    for axis in named if arms else ():
        require(axis in axes, "axis", axis, ", ".join(axes))
    labels = {axis: {arm.labels[axis] for arm in arms} for axis in axes}
    labels |= {axis: labels[axis] - {ABSENT} for axis in QUANTIZED if axis in labels}
    varying = [axis for axis in axes if len(labels[axis]) > 1]
    return tuple(dict.fromkeys([*named, *varying]))


def _recipe(configs: Sequence[RunConfig]) -> str:
    """Describes the data set that all arms share, and the weights that they start from."""
    starts = [c.pretrained.path if c.pretrained else "random weights" for c in configs]
    return f"{configs[0].data.name}, from {' or '.join(dict.fromkeys(starts))}"


def _no_reference(
    baseline: Arm | None, labels_of: Callable[[Arm], Mapping[str, str]], columns: Sequence[str]
) -> str:
    """Returns one line that says why the arms are not compared with a baseline."""
    if baseline is None:
        return "no differences: no baseline was given"
    anchor = labels_of(baseline)
    name = ", ".join(f"{axis} {anchor[axis]}" for axis in columns if axis in anchor)
    return f"no differences: the baseline{name and f' ({name})'} has no finished trial"


def _accuracies(trials: Iterable[Trial]) -> dict[int, float]:
    return {t.config.seed: t.result.test_accuracy for t in trials if t.result is not None}


@dataclass(frozen=True, kw_only=True)
class _Group:
    """An arm with its trials.

    Attributes:
      arm: the arm.
      config: the config of its run with seed 0.
      trials: its trials, sorted by seed.
      wanted: the seeds of this sweep; empty if the arm does not belong to it.
    """

    arm: Arm
    config: RunConfig
    trials: Sequence[Trial]
    wanted: Sequence[int]


def _grouped(trials: Iterable[Trial], requested: Sequence[RunConfig]) -> dict[Arm, _Group]:
    """Groups trials by arm: the requested arms in their order, then all others."""
    wanted: dict[Arm, list[RunConfig]] = {}
    for config in requested:
        wanted.setdefault(Arm.of(config), []).append(config)
    found: dict[Arm, list[Trial]] = {}
    for trial in trials:
        found.setdefault(Arm.of(trial.config), []).append(trial)
    return {
        arm: _Group(
            arm=arm,
            config=replace(wanted[arm][0] if arm in wanted else found[arm][0].config, seed=0),
            trials=sorted(found.get(arm, ()), key=lambda trial: trial.config.seed),
            wanted=[config.seed for config in wanted.get(arm, ())],
        )
        for arm in (wanted | found)
    }


def _unique_labels(
    groups: Mapping[Arm, _Group], labels_of: Callable[[Arm], Mapping[str, str]]
) -> dict[Arm, dict[str, str]]:
    """Returns the labels of each arm; every arm gets a label for each axis that any arm has.

    If two arms have the same labels, every arm gets one more label: the first digits of the key of
    the arm's trial with seed 0.
    """
    labels = {arm: dict(labels_of(arm)) for arm in groups}
    axes = dict.fromkeys(axis for own in labels.values() for axis in own)
    full = {arm: {axis: own.get(axis, ABSENT) for axis in axes} for arm, own in labels.items()}
    if len({tuple(own.values()) for own in full.values()}) < len(full):
        full = {arm: {**own, "config": key_of(groups[arm].config)[:6]} for arm, own in full.items()}
    return full


def _result_of(
    group: _Group,
    labels: dict[str, str],
    reference: Mapping[int, float],
    comparison: Comparison | None,
    method: Method,
) -> ArmResult:
    """Makes the row of one arm.

    Args:
      group: the arm and its trials.
      labels: the arm's values on the axes.
      reference: the baseline's accuracy for each seed.
      comparison: the arm's comparison with the baseline.
      method: how the accuracy's confidence interval is computed.
    """
    trials = group.trials
    accuracies = _accuracies(trials)
    differences = seed_differences(accuracies, reference) if comparison else {}
    results = [(trial.config.seed, trial.result) for trial in trials if trial.result]
    seconds = [result.seconds for _, result in results]
    speeds = [result.images_per_second for _, result in results]
    return ArmResult(
        config=group.config,
        labels=labels,
        baseline=False,
        requested=bool(group.wanted),
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
        not_run=tuple(sorted({*group.wanted} - {trial.config.seed for trial in trials})),
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
