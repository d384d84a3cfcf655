"""What the process of a trial does, and how it can end."""

import contextlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mnet_jax.config import RunConfig
from mnet_jax.files import locked, replace_file
from mnet_jax.progress import ProgressCallback
from mnet_jax.result import RunResult

TrialFunction = Callable[[RunConfig, Path, ProgressCallback], RunResult]
LOCK = "lock"  # in a trial's directory: held by the process that writes there


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one trial ended.

    Attributes:
      config: of the trial.
      result: what it found, or None if it failed.
      cause: why it failed, one line, or None.
      environment: the software and the device it ran on; empty if its process died.
    """

    config: RunConfig
    result: RunResult | None
    cause: str | None
    environment: dict[str, str]


class RunnerError(RuntimeError):
    """There are no workers any more, and none to come; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The process of a trial is gone.

    Attributes:
      cause: how, in one line.
      again: whether that was no fault of the trial, which is to be run again.
    """

    cause: str
    again: bool


def train(config: RunConfig, directory: Path, report: ProgressCallback) -> RunResult:
    """The trial of a sweep: the run, with a checkpoint a minute."""
    from mnet_jax.run import run  # here: the workers are the only processes of a sweep with JAX

    return run(config, directory, save_every_seconds=60.0, report=report)


def outcome_of(
    trial: TrialFunction, config: RunConfig, directory: Path, report: ProgressCallback
) -> Outcome:
    """Runs one trial; whatever it raises becomes its cause.

    Whoever started a worker may die and leave it at work, until it has something to report. Its
    successor waits for that.
    """
    result, cause = None, None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory / LOCK):
            result = trial(config, directory, report)
    except Exception as error:
        with contextlib.suppress(OSError):  # the cause is worth more than its traceback
            text = traceback.format_exc().encode(errors="backslashreplace")
            replace_file(directory / "traceback.txt", text)
        lines = str(error).splitlines() or [""]
        cause = f"{type(error).__name__}: {lines[0]}"
    return Outcome(config=config, result=result, cause=cause, environment=_environment())


def _environment() -> dict[str, str]:
    """The process's software and devices; nothing where JAX does not start."""
    try:
        from mnet_jax.run import environment

        return environment()
    except Exception:
        return {}
