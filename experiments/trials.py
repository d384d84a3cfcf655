"""The trials of a sweep: run, shown while they run, and stored as they end."""

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
    """What says where trials run."""

    runner: Literal["local", "ray"] = "local"
    """on this machine, or on a Ray cluster; each trial in a process of its own"""
    cores_per_trial: int | None = None
    """CPU cores of each trial; if not given, those there are divided by the trials, with ray 1"""
    devices_per_trial: int = 1
    """accelerators of each trial, where there are any"""
    trial_timeout: float | None = None
    """seconds without progress after which a trial is ended, as failed; if not given, none is"""
    ray_address: str | None = None
    """of the cluster; if not given, one is started on this machine for the sweep"""


def runner_of(arguments: RunnerArguments, trials: int, *, tune_allocator: bool) -> runners.Runner:
    """Those who run so many trials.

    Raises:
      ValueError: there is no such cluster, or it or the machine has less than a trial is to have.
    """
    given = {} if arguments.runner == "ray" else os.environ  # not on the cluster's machines
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
    """A runner that is waited for until the process is told to stop; see `Runner`."""

    def __init__(self, runner: runners.Runner, stop: Stop) -> None:
        self._runner, self._stop = runner, stop
        self.has_room, self.begin, self.end = runner.has_room, runner.begin, runner.end

    def wait(self, seconds: float) -> list[tuple[RunConfig, runners.Message]]:
        """Raises StoppedError if it was told to stop."""
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
    """Runs what is missing of a sweep.

    Args:
      sweep: what was asked for.
      known: the trials that were stored before.
      kept: where results go.
      runner: who runs them.
      console: for the progress, and a line when a trial ends.
      stop: what may tell it to end the trials.

    Raises:
      StoreError: a trial cannot be stored.
      StoppedError: it was told to stop.
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
                silence = f"has said nothing for {event.seconds / 60:.0f} minutes"
                told = f"{names[config]}, seed {config.seed} {silence}"
                console.print(told, soft_wrap=True)
            else:
                progress.show(config, event)

        leased, stoppable = (
            _told(kept.take_each(known, todo), console),
            _StoppableRunner(runner, stop),
        )
        outcomes = runners.run(leased, stoppable, directory_of, begun, said)
        with contextlib.closing(outcomes):  # no worker may outlive an interruption here
            for outcome in outcomes:
                config, found = outcome.config, outcome.result or outcome.cause or ""
                trial = kept.finish(config, found, outcome.environment)
                progress.end(config)
                if trial.result:  # what there was to go on from is done with; its model stays
                    shutil.rmtree(directory_of(config) / CHECKPOINTS, ignore_errors=True)
                name = f"{names[config]}, {arm_of(config)}, seed {config.seed}"
                console.print(f"{name}: {_ending(trial)}", soft_wrap=True)


def _told(leases: Iterable[RunConfig | None], console: Console) -> Iterator[RunConfig | None]:
    """The leases, and a line when there is nothing to do here but to wait for others' trials."""
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
