"""Runs the trials of a sweep, shows their progress, and stores each when it ends."""

import contextlib
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from experiments.progress import SweepProgress
from mnet_jax import process
from mnet_jax.ablation import axes, runners, store
from mnet_jax.ablation.events import Sweep
from mnet_jax.config import RunConfig
from mnet_jax.progress import Progress
from mnet_jax.training.manifest import CHECKPOINTS
from mnet_jax.training.stopping import Stop, StoppedError
from mnet_jax.validation import require


@dataclass(frozen=True, kw_only=True)
class RunnerArguments:
    """The arguments that determine where trials run."""

    runner: Literal["local", "ray"] = "local"
    """run trials on this machine or on a Ray cluster, each trial in its own process"""
    cores_per_trial: int | None = None
    """CPU cores of each trial; if not given, all cores divided among the trials, or 1 with ray"""
    devices_per_trial: int = 1
    """accelerators of each trial, if there are any"""
    trial_timeout: float | None = None
    """seconds without progress after which a trial is ended as failed; if not given, no limit"""
    ray_address: str | None = None
    """address of the Ray cluster; if not given, one is started on this machine for the sweep"""


def runner_of(arguments: RunnerArguments, trials: int, *, tune_allocator: bool) -> runners.Runner:
    """Returns a runner for `trials` trials.

    Raises:
      ValueError: no cluster answers at the address, or the cluster or this machine has fewer cores
        or accelerators than a trial needs.
    """
    given = {} if arguments.runner == "ray" else os.environ  # the nodes have other environments
    settings = process.settings(tune_allocator=tune_allocator, given=given)
    timeout = arguments.trial_timeout
    require(timeout is None or 0 < timeout < math.inf, "trial_timeout", timeout, "above 0")
    cores, devices, address = (
        arguments.cores_per_trial, arguments.devices_per_trial, arguments.ray_address
    )  # fmt: skip
    if arguments.runner == "ray":
        return runners.RayRunner(
            address, cores, devices, environment=settings, timeout_seconds=timeout
        )
    require(address is None, "ray_address", address, "none without --runner ray")
    slots = runners.slots(trials, cores, devices)
    return runners.LocalRunner(slots, environment=settings, timeout_seconds=timeout)


class _StoppableRunner:
    """A runner whose `wait` raises StoppedError when the process is told to stop; see `Runner`."""

    def __init__(self, runner: runners.Runner, stop: Stop) -> None:
        self._runner, self._stop = runner, stop
        self.has_room, self.begin, self.end = runner.has_room, runner.begin, runner.end

    def wait(self, seconds: float) -> list[tuple[RunConfig, runners.Message]]:
        """Waits for messages; raises StoppedError if the process was told to stop."""
        if self._stop.requested:
            raise StoppedError("interrupted")
        return self._runner.wait(seconds)


def run(
    sweep: Sweep,
    known: Mapping[str, store.Trial],
    kept: store.Store,
    runner: runners.Runner,
    console: Console,
    stop: Stop,
) -> None:
    """Runs the missing trials of a sweep.

    Args:
      sweep: gives the arms and seeds.
      known: the trials that were stored before.
      kept: the store for the results.
      runner: runs the trials.
      console: shows the progress, and a line when a trial ends.
      stop: may end the trials.

    Raises:
      StoreError: a trial cannot be stored.
      StoppedError: the process was told to stop.
    """
    todo = store.missing(known, sweep.configs)
    names = {c: f"trial {i} of {len(todo)}" for i, c in enumerate(todo, start=1)}

    def directory_of(config: RunConfig) -> Path:
        return kept.directory / "runs" / store.key_of(config)

    def arm_of(config: RunConfig) -> str:
        labels = axes.labels(config, sweep.axes)
        return ", ".join(labels[axis] for axis in sweep.axes) or labels["model"]

    asked = Counter(map(arm_of, sweep.configs))
    with SweepProgress(console, asked, asked - Counter(map(arm_of, todo))) as progress:

        def begun(config: RunConfig) -> None:
            progress.begin(config, arm_of(config))

        def said(config: RunConfig, event: Progress | runners.Stalled) -> None:
            if isinstance(event, runners.Stalled):
                silence = f"has reported no progress for {event.seconds / 60:.0f} minutes"
                told = f"{names[config]}, seed {config.seed} {silence}"
                console.print(told, soft_wrap=True)
            else:
                progress.show(config, event)

        leased, stoppable = (
            _told(kept.take_each(known, todo), console),
            _StoppableRunner(runner, stop),
        )
        outcomes = runners.run(leased, stoppable, directory_of, begun, said)
        with contextlib.closing(outcomes):  # ends all workers, even after an interruption
            for outcome in outcomes:
                config, found = outcome.config, outcome.result or outcome.cause or ""
                trial = kept.finish(config, found, outcome.environment)
                progress.end(config)
                if trial.result:  # checkpoints are no longer needed; the saved model stays
                    shutil.rmtree(directory_of(config) / CHECKPOINTS, ignore_errors=True)
                name = f"{names[config]}, {arm_of(config)}, seed {config.seed}"
                console.print(f"{name}: {_ending(trial)}", soft_wrap=True)


def _told(leases: Iterable[RunConfig | None], console: Console) -> Iterator[RunConfig | None]:
    """Yields the leases, and prints a line when only trials of other processes remain."""
    told = False
    for config in leases:
        if config is None and not told:
            console.print("waiting for trials that other processes run")
            told = True
        yield config


def _ending(trial: store.Trial) -> str:
    if trial.result is None:
        return f"failed, {trial.cause}"
    result = trial.result
    return f"{result.test_accuracy:.2%} of {result.test_count} right, {result.seconds:.0f} s"
