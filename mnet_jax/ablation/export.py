"""Exports trials as CSV (one row per trial) or JSON (one object per trial)."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping

from mnet_jax import serialization
from mnet_jax.ablation.events import Trial
from mnet_jax.config import Arm

MEASURES = ("accuracy", "loss", "test_count", "params", "madds", "images_per_second", "seconds")

Labels = Callable[[Arm], Mapping[str, str]]


def to_csv(trials: Iterable[Trial], labels_of: Labels) -> str:
    """Formats trials as CSV with a header: key, value on every axis, seed, and measurements.

    Accuracy (0 to 1) and loss are those on the test split; `seconds` is the wall time. The row of a
    failed trial has the cause of its failure and no measurements.
    """
    labelled = [(trial, labels_of(Arm.of(trial.config))) for trial in trials]
    axes = list(dict.fromkeys(axis for _, labels in labelled for axis in labels))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", *axes, "seed", *MEASURES, "cause", "finished"])
    for trial, labels in labelled:
        writer.writerow([
            trial.key, *(labels.get(axis) for axis in axes), trial.config.seed,
            *_measures(trial), trial.cause, trial.finished,
        ])  # fmt: skip
    return text.getvalue()


def _measures(trial: Trial) -> tuple[float | None, ...]:
    """Returns the values of the columns `MEASURES`; all are None for a failed trial."""
    if trial.result is None:
        return (None,) * len(MEASURES)
    result = trial.result
    return (
        result.test_accuracy, result.test_loss, result.test_count, result.params, result.madds,
        result.images_per_second, result.seconds,
    )  # fmt: skip


def to_json(trials: Iterable[Trial], labels_of: Labels) -> str:
    """Formats trials as a JSON list of objects.

    An object has all stored fields of a trial, and its arm's values on the axes as `labels`.
    """
    plain = [
        {**serialization.to_plain(trial), "labels": dict(labels_of(Arm.of(trial.config)))}
        for trial in trials
    ]
    return json.dumps(plain, indent=1, allow_nan=False) + "\n"
