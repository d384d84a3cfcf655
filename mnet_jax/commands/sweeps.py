"""Makes the arms of a sweep from the arguments of `ablate`, and runs and stores its trials."""

import contextlib
import dataclasses
import itertools
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from mnet_jax import process
from mnet_jax.ablation import runners, store
from mnet_jax.ablation.events import Sweep
from mnet_jax.ablation.preset import SCALES, ScaleName, Values
from mnet_jax.ablation.presets import PRESETS
from mnet_jax.commands.displays import SweepProgress
from mnet_jax.commands.planning import PRESUMED_IMAGES, RunArguments, baseline, require_fit
from mnet_jax.config import Arm, RunConfig
from mnet_jax.options import axes
from mnet_jax.options.recipes import RECIPES
from mnet_jax.training.checkpoints.manifest import CHECKPOINTS
from mnet_jax.training.results import Progress
from mnet_jax.training.stopping import Stop, StoppedError
from mnet_jax.validation import require

_MAX_SEEDS = 1000
_SEEDS = 3  # seeds of every arm, if neither --seeds nor --preset is given
_RESULTS = Path("results")
AxisValues = Mapping[str, tuple[Any, ...]]  # the values given for each axis, by name


@dataclass(frozen=True, kw_only=True)
class SweepArguments(RunArguments):
    """The arguments that determine the trials of a sweep."""

    preset: Literal[*PRESETS] | None = None  # type: ignore[valid-type]
    """one of the papers' ablations; the flags from --model on replace its values"""
    scale: ScaleName | None = None
    """scale of the preset: smoke (digits, the default), desk (Fashion-MNIST) or full (ImageNet)"""
    list: bool = False
    """print the presets with their claims, arms and costs; do not train"""
    seeds: int | None = None
    """number of seeds of each combination; if not given, that of the preset's scale, else 3"""
    results: Path | None = None
    """directory of the trials and the report; if not given, results or results/PRESET-SCALE"""

    @property
    def size(self) -> ScaleName:
        """The preset's scale."""
        return self.scale or "smoke"

    @property
    def images(self) -> str:
        """The data set's name; if none was given, that of the recipe or of the preset's scale."""
        named = self.named
        return self.dataset or (RECIPES[named].data.name if named in RECIPES else super().images)

    @property
    def named(self) -> str | None:
        """The recipe's name: the given recipe, else the preset's recipe at its scale, else None."""
        if self.recipe or not self.preset:
            return self.recipe
        return PRESETS[self.preset].recipe_at(self.size)

    @property
    def arm_seeds(self) -> range:
        """The seeds of every arm."""
        usual = SCALES[self.size].seeds if self.preset else _SEEDS
        return range(usual if self.seeds is None else self.seeds)

    @property
    def store(self) -> Path:
        """The directory in which trials are stored."""
        default = _RESULTS / f"{self.preset}-{self.size}" if self.preset else _RESULTS
        return self.results or default

    @property
    def arms(self) -> tuple[Values, ...]:
        """The axis values of the preset's arms, before flags change them; `({},)` if no preset."""
        return PRESETS[self.preset].values(self.size) if self.preset else ({},)

    @property
    def own_axes(self) -> tuple[str, ...]:
        """The axes that the preset varies."""
        return PRESETS[self.preset].axes if self.preset else ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arms of a sweep.

    Attributes:
      baseline: the arm that the others are compared with, if the report shows it.
      nearest: the arm of the sweep that the others are compared with if the report does not show
        the baseline; see `ablate._anchor`.
      arms: all arms of the sweep.
      axes: the axes to compare: those of the preset and those with several values; if there are
        none, all axes that were given.
    """

    baseline: Arm
    nearest: Arm
    arms: tuple[Arm, ...]
    axes: tuple[str, ...]

    def of_files(self, listing: str) -> "Plan":
        """Returns the plan with a folder's `listing` in every arm; see `DataConfig.listing`."""
        return dataclasses.replace(
            self,
            baseline=self.baseline.of_files(listing),
            nearest=self.nearest.of_files(listing),
            arms=tuple(arm.of_files(listing) for arm in self.arms),
        )


def plan(arguments: SweepArguments, given: AxisValues, train_images: int = PRESUMED_IMAGES) -> Plan:
    """Returns the arms of the sweep that the arguments specify.

    Args:
      arguments: the arguments of the command.
      given: the values on the command line, by axis; empty for an axis that was not given.
      train_images: the number of training images in the data set.

    Raises:
      ValueError: a value is not legal, or no machine could run an arm.
    """
    seeds, alone = arguments.seeds, arguments.scale and not arguments.preset
    require(seeds is None or 1 <= seeds <= _MAX_SEEDS, "seeds", seeds, f"1 to {_MAX_SEEDS}")
    require(not alone, "scale", arguments.scale, "none without --preset")
    named = {name: values for name, values in given.items() if values}
    start = baseline(arguments, train_images)
    own = axes.with_values(start, arguments.arms[0])
    read = {axis.name: axis.read(own) for axis in axes.AXES if axis.name in named}
    nearest = {n: read[n] if read[n] in values else values[0] for n, values in named.items()}
    arms = [
        axes.with_values(start, {**values, **dict(zip(named, chosen, strict=True))})
        for values in arguments.arms
        for chosen in itertools.product(*named.values())
    ]
    for arm in arms:
        require_fit(arm)
    varied = [name for name, values in named.items() if len({*values}) > 1]
    return Plan(
        baseline=own,
        nearest=axes.with_values(start, {**arguments.arms[0], **nearest}),
        arms=tuple(dict.fromkeys(arms)),
        axes=tuple(dict.fromkeys([*arguments.own_axes, *varied])) or tuple(named),
    )


@dataclass(frozen=True, kw_only=True)
class RunnerArguments:
    """The arguments that determine where trials run."""

    runner: Literal["local", "ray"] = "local"
    """where trials run, each in its own process: on this machine or on a Ray cluster"""
    cores_per_trial: int | None = None
    """CPU cores of each trial; if not given, the trials share all cores (ray: 1 core each)"""
    devices_per_trial: int = 1
    """accelerators of each trial, if there are any"""
    trial_timeout: float | None = None
    """seconds after which a trial without progress is ended as failed; if not given, no limit"""
    ray_address: str | None = None
    """address of the Ray cluster; if not given, a cluster is started on this machine"""


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
    """A runner whose `wait` raises StoppedError after a request to stop; see `Runner`."""

    def __init__(self, runner: runners.Runner, stop: Stop) -> None:
        self._runner, self._stop = runner, stop
        self.has_room, self.begin, self.end = runner.has_room, runner.begin, runner.end

    def wait(self, seconds: float) -> list[tuple[RunConfig, runners.Message]]:
        """Waits for messages; raises StoppedError if a stop was requested."""
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
      sweep: the sweep with the arms and seeds.
      known: the trials that were stored before this sweep.
      kept: the store for the results.
      runner: runs the trials.
      console: shows the progress, and a line when a trial ends.
      stop: receives the signals that interrupt the trials.

    Raises:
      StoreError: a trial cannot be stored.
      StoppedError: a stop was requested.
    """
    todo = store.missing(known, sweep.configs)
    numbers = {c: f"trial {i} of {len(todo)}" for i, c in enumerate(todo, start=1)}

    def directory_of(config: RunConfig) -> Path:
        return kept.directory / "runs" / store.key_of(config)

    def arm_of(config: RunConfig) -> str:
        labels = axes.labels(config, sweep.axes)
        return ", ".join(labels[axis] for axis in sweep.axes) or labels["model"]

    trials = Counter(map(arm_of, sweep.configs))
    with SweepProgress(console, trials, trials - Counter(map(arm_of, todo))) as progress:

        def begun(config: RunConfig) -> None:
            progress.begin(config, arm_of(config))

        def report(config: RunConfig, event: Progress | runners.TrialStalled) -> None:
            if isinstance(event, runners.TrialStalled):
                silence = f"has reported no progress for {event.seconds / 60:.0f} minutes"
                console.print(f"{numbers[config]}, seed {config.seed} {silence}", soft_wrap=True)
            else:
                progress.show(config, event)

        leased = _announced(kept.lease_trials(known, todo), console)
        outcomes = runners.run(leased, _StoppableRunner(runner, stop), directory_of, begun, report)
        with contextlib.closing(outcomes):  # ends all workers, even after an interruption
            for outcome in outcomes:
                config, found = outcome.config, outcome.result or outcome.cause or ""
                trial = kept.finish(config, found, outcome.environment)
                progress.end(config)
                if trial.result:  # checkpoints are no longer needed; the saved model stays
                    shutil.rmtree(directory_of(config) / CHECKPOINTS, ignore_errors=True)
                name = f"{numbers[config]}, {arm_of(config)}, seed {config.seed}"
                console.print(f"{name}: {_ending(trial)}", soft_wrap=True)


def _announced(leases: Iterable[RunConfig | None], console: Console) -> Iterator[RunConfig | None]:
    """Yields `leases`, the items of `Store.lease_trials`; prints a line at the first None.

    None means that all remaining trials run already, here or in other processes, or wait for the
    trial whose network they quantize.
    """
    waits = False
    for config in leases:
        if config is None and not waits:
            console.print("waiting for trials that are running")
            waits = True
        yield config


def _ending(trial: store.Trial) -> str:
    if trial.result is None:
        return f"failed, {trial.cause}"
    result = trial.result
    return f"{result.test_accuracy:.2%} of {result.test_count} right, {result.seconds:.0f} s"
