"""Runs one trial in its process, and defines how a trial can end."""

import contextlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mnet_jax.ablation.events import key_of
from mnet_jax.config import TRIAL_LOCK, RunConfig
from mnet_jax.files import locked, replace_file
from mnet_jax.training.results import ProgressCallback, RunResult

TrialFunction = Callable[[RunConfig, Path, ProgressCallback], RunResult]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one trial ended.

    Attributes:
      config: the trial's config.
      result: the result; None if the trial failed.
      cause: why the trial failed, in one line; None if it succeeded.
      environment: the versions of the software, and the device; empty if the process died.
    """

    config: RunConfig
    result: RunResult | None
    cause: str | None
    environment: dict[str, str]


class RunnerError(RuntimeError):
    """Raised when there are no workers and none can be expected; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class TrialLost:
    """A message: the process of a trial has ended without an outcome.

    Attributes:
      cause: what happened, in one line.
      again: whether to run the trial again; true if the trial did not cause the loss.
    """

    cause: str
    again: bool


def train(config: RunConfig, directory: Path, report: ProgressCallback) -> RunResult:
    """Trains or quantizes a network as one trial of a sweep, with a checkpoint every minute.

    The network to quantize is that of another trial, `config.source`, whose directory is next to
    `directory`. If that directory has no model, the network is trained there first.
    """
    from mnet_jax.runs.run import (
        run,  # here: in a sweep, only the workers import JAX
    )

    source = directory.with_name(key_of(config.source)) if config.source else None
    return run(config, directory, save_every_seconds=60.0, report=report, source_directory=source)


def outcome_of(
    trial: TrialFunction, config: RunConfig, directory: Path, report: ProgressCallback
) -> Outcome:
    """Runs one trial and returns its outcome; an exception becomes the cause of a failure.

    If the process that started a worker dies, the worker continues until its next report of
    progress. The lock on the trial's directory makes another worker with the same trial wait until
    then.
    """
    result, cause = None, None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory / TRIAL_LOCK):
            result = trial(config, directory, report)
    except Exception as error:
        with contextlib.suppress(OSError):  # the cause is reported even if this fails
            text = traceback.format_exc().encode(errors="backslashreplace")
            replace_file(directory / "traceback.txt", text)
        lines = str(error).splitlines() or [""]
        cause = f"{type(error).__name__}: {lines[0]}"
    return Outcome(config=config, result=result, cause=cause, environment=_environment())


def _environment() -> dict[str, str]:
    """Returns the versions of the software, and the device; empty if JAX does not start."""
    try:
        from mnet_jax.runs.run import environment

        return environment()
    except Exception:
        return {}
