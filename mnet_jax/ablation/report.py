"""From trials to the rows of a report.

A row is an arm: a config without its seed. Accuracies are shares from 0 to 1.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mnet_jax.ablation.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    seed_differences,
)
from mnet_jax.ablation.store import Trial, key_of
from mnet_jax.config import RunConfig
from mnet_jax.result import RunResult
from mnet_jax.validation import require

ABSENT = "-"  # a number that is not there, an axis that a network has no place for


@dataclass(frozen=True, kw_only=True)
class Outcome:
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
class Arm:
    """A row: a config without its seed, and what its seeds found.

    Attributes:
      labels: the text of each axis's value.
      baseline: whether the others are compared with this one.
      requested: part of this call, or else found in the store.
      params: trainable parameters; None where no seed finished.
      madds: multiply-adds per image; None likewise.
      accuracy: mean test accuracy over the seeds that finished.
      difference: to the baseline, over the seeds that both finished.
      images_per_second: training speed, the median over seeds.
      seconds: wall time of the finished seeds, added up.
      outcomes: the seeds that finished, in order.
      failures: the seeds that failed, in order.
      not_run: the seeds that were asked for and have no trial, in order.
    """

    labels: dict[str, str]
    baseline: bool
    requested: bool
    params: int | None
    madds: int | None
    accuracy: Interval | None
    difference: Interval | None
    images_per_second: float | None
    seconds: float
    outcomes: tuple[Outcome, ...]
    failures: tuple[Failure, ...]
    not_run: tuple[int, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that finished."""
        return tuple(outcome.seed for outcome in self.outcomes)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All arms, those of the call first, and what they have in common.

    Attributes:
      arms: the rows.
      columns: the axes that tell the arms apart, and those that the call named.
      common: the labels that all arms share.
      recipe: of data and training, what no axis tells, in one line.
      note: why there are no differences, in one line; None where there are.
      environment: versions and devices, every distinct value over the trials.
    """

    arms: tuple[Arm, ...]
    columns: tuple[str, ...]
    common: dict[str, str]
    recipe: str
    note: str | None
    environment: dict[str, tuple[str, ...]]

    def name_of(self, arm: Arm) -> str:
        """What tells an arm apart, such as `relu6, 0.5`."""
        return ", ".join(arm.labels[axis] for axis in self.columns) or "the only arm"


def summarize(
    trials: Iterable[Trial],
    requested: Sequence[RunConfig],
    labels_of: Callable[[RunConfig], Mapping[str, str]],
    *,
    baseline: RunConfig | None,
    named_axes: Sequence[str] = (),
) -> Report:
    """The report on some trials.

    Args:
      trials: of this call and, to show beside them, from the store; one of each key counts.
      requested: the configs of this call, seeds included, whether they have a trial or not.
      labels_of: the axes of a config and its value on each, as text; the seed is none of them.
      baseline: the arm to compare with, whatever its seed; None for no differences.
      named_axes: shown as columns even where all arms agree.

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
    arms = tuple(
        _arm(found, labels[arm], wanted.get(arm), reference, baseline=arm == anchor)
        for arm, found in grouped.items()
    )
    axes = list(dict.fromkeys(axis for arm in arms for axis in arm.labels))
    columns = _columns(arms, axes, named_axes)
    return Report(
        arms=arms,
        columns=columns,
        common={axis: arms[0].labels[axis] for axis in axes if axis not in columns},
        recipe=_recipe(requested[0]) if requested else "",
        note=None if reference else _no_reference(labels_of(anchor) if anchor else None, columns),
        environment=_environment(by_key.values()),
    )


def _columns(arms: Sequence[Arm], axes: Sequence[str], named: Sequence[str]) -> tuple[str, ...]:
    """The named axes and those whose label varies; ValueError for a name that is no axis."""
    for axis in named if arms else ():
        require(axis in axes, "axis", axis, ", ".join(axes))
    varying = [axis for axis in axes if len({arm.labels[axis] for arm in arms}) > 1]
    return tuple(dict.fromkeys([*named, *varying]))


def _recipe(config: RunConfig) -> str:
    """What no axis varies of a config, and so all arms share."""
    start = config.pretrained.path if config.pretrained else "random weights"
    return f"{config.data.name}, from {start}"


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
    trials: Sequence[Trial],
    labels: dict[str, str],
    wanted: Sequence[int] | None,
    reference: Mapping[int, float],
    *,
    baseline: bool,
) -> Arm:
    """The row of one arm.

    Args:
      trials: its own, of all seeds.
      labels: its values on the axes.
      wanted: the seeds that the call asked for; None for an arm that it did not.
      reference: the baseline's accuracy for each seed.
      baseline: whether it is the baseline itself.
    """
    trials = sorted(trials, key=lambda trial: trial.config.seed)
    accuracies = _accuracies(trials)
    differences = {} if baseline else seed_differences(accuracies, reference)
    results = [(trial.config.seed, trial.result) for trial in trials if trial.result]
    speeds = [result.images_per_second for _, result in results]
    return Arm(
        labels=labels,
        baseline=baseline,
        requested=wanted is not None,
        params=results[0][1].params if results else None,
        madds=results[0][1].madds if results else None,
        accuracy=mean_interval(accuracies.values()) if results else None,
        difference=None if baseline else paired_difference(accuracies, reference),
        images_per_second=statistics.median(speeds) if speeds else None,
        seconds=math.fsum(result.seconds for _, result in results),
        outcomes=tuple(_outcome(seed, result, differences) for seed, result in results),
        failures=tuple(
            Failure(seed=trial.config.seed, cause=trial.cause) for trial in trials if trial.cause
        ),
        not_run=tuple(sorted({*(wanted or ())} - {trial.config.seed for trial in trials})),
    )


def _outcome(seed: int, result: RunResult, differences: Mapping[int, float]) -> Outcome:
    return Outcome(
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
