"""The status of a sweep: which seeds of each arm have finished, failed, are running or remain."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mnet_jax.ablation.events import Started, Sweep, key_of
from mnet_jax.ablation.store import Contents
from mnet_jax.config import Arm


@dataclass(frozen=True, kw_only=True)
class ArmStatus:
    """The status of an arm; each of its seeds is in exactly one of the last four fields.

    Attributes:
      labels: the arm's value on each axis, as text.
      finished: the seeds that have a result.
      running: the seeds that are running, each with the process that runs it.
      failed: the seeds that failed and are not running again, each with the cause in one line.
      not_run: the seeds that no process has started, or whose process died.
    """

    labels: dict[str, str]
    finished: tuple[int, ...]
    running: dict[int, Started]
    failed: dict[int, str]
    not_run: tuple[int, ...]


def status_of(
    sweep: Sweep, contents: Contents, labels_of: Callable[[Arm], Mapping[str, str]]
) -> tuple[ArmStatus, ...]:
    """Returns the status of each arm, in the order of the sweep.

    Args:
      sweep: the sweep with the arms and seeds.
      contents: the contents of the store.
      labels_of: returns an arm's value on each axis, as text.
    """
    rows: dict[Arm, dict[int, str]] = {}
    for config in sweep.configs:
        rows.setdefault(Arm.of(config), {})[config.seed] = key_of(config)
    return tuple(_status_of(keys, contents, dict(labels_of(arm))) for arm, keys in rows.items())


def _status_of(keys: Mapping[int, str], contents: Contents, labels: dict[str, str]) -> ArmStatus:
    """Returns the status of one arm; `keys` has the key of each seed's trial."""
    trials = {s: contents.trials[key] for s, key in keys.items() if key in contents.trials}
    finished = tuple(seed for seed, trial in trials.items() if trial.result)
    running = {
        seed: contents.running[key]
        for seed, key in keys.items()
        if key in contents.running and seed not in finished
    }
    failed = {s: trial.cause for s, trial in trials.items() if trial.cause and s not in running}
    return ArmStatus(
        labels=labels,
        finished=finished,
        running=running,
        failed=failed,
        not_run=tuple(s for s in keys if s not in {*finished, *running, *failed}),
    )
