"""The trials of a sweep: run, shown while they run, and stored as they end."""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.progress import SweepProgress
from mnet_jax.ablation import axes, runners, store
from mnet_jax.ablation.events import Sweep
from mnet_jax.config import RunConfig

POLL_SECONDS = 1.0  # how often a sweep with nothing else to do looks after others' trials


def run(
    sweep: Sweep,
    known: Mapping[str, store.Trial],
    kept: store.Store,
    settings: Mapping[str, str],
    console: Console,
) -> None:
    """Runs what is missing of a sweep.

    Args:
      sweep: what was asked for.
      known: the trials that were stored before.
      kept: where results go.
      settings: variables of the process that trains.
      console: for the progress, and a line when a trial ends.

    Raises:
      StoreError: a trial cannot be stored.
    """
    todo = store.missing(known, sweep.configs)
    names = {c: f"trial {i} of {len(todo)}" for i, c in enumerate(todo, start=1)}
    running: RunConfig | None = None

    def directory_of(config: RunConfig) -> Path:
        return kept.directory / "runs" / store.key_of(config)

    def arm_of(config: RunConfig) -> str:
        labels = axes.labels(config, sweep.axes)
        return ", ".join(labels[axis] for axis in sweep.axes) or labels["model"]

    asked = Counter(map(arm_of, sweep.configs))
    with SweepProgress(console, asked, asked - Counter(map(arm_of, todo))) as progress:

        def begin(config: RunConfig) -> None:
            nonlocal running
            running = config
            progress.begin(config, arm_of(config))

        def show(event: Any) -> None:
            progress.show(running, event)

        claimed = _claimed(kept.claim_each(known, todo), begin, console)
        outcomes = runners.run_local(claimed, directory_of, show, environment=settings)
        with contextlib.closing(outcomes):  # its worker must not outlive an interruption here
            for outcome in outcomes:
                config, found = outcome.config, outcome.result or outcome.cause or ""
                trial = kept.finish(config, found, outcome.environment)
                progress.end(config)
                if trial.result:  # what there was to go on from is done with; its model stays
                    shutil.rmtree(directory_of(config) / "checkpoints", ignore_errors=True)
                ending = f"{names[config]}, seed {config.seed}: {_ending(trial)}"
                console.print(ending, markup=False, highlight=False, soft_wrap=True)


def _claimed(
    claims: Iterable[RunConfig | None], begin: Callable[[RunConfig], None], console: Console
) -> Iterator[RunConfig]:
    """The trials to run here; at the end it waits for those that run in other processes."""
    waiting = False
    for config in claims:
        if config:
            begin(config)
            yield config
            continue
        if not waiting:
            console.print("waiting for trials that other processes run", highlight=False)
        waiting = True
        time.sleep(POLL_SECONDS)


def _ending(trial: store.Trial) -> str:
    if trial.result is None:
        return f"failed, {trial.cause}"
    result = trial.result
    return f"{result.test_accuracy:.2%} of {result.test_count} right, {result.seconds:.0f} s"
