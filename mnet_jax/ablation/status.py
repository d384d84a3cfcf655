"""How far a sweep is: of every arm, which seeds finished, failed, run now or have yet to run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mnet_jax.ablation.events import Started, Sweep, key_of
from mnet_jax.ablation.store import Contents
from mnet_jax.config import Arm


@dataclass(frozen=True, kw_only=True)
class ArmStatus:
    """Where the seeds of an arm are; each is in one place.

    Attributes:
      labels: the text of each axis's value.
      finished: the seeds that have a result.
      running: who runs a seed now.
      failed: why a seed failed, in one line, where it is not running again.
      not_run: the seeds that nobody has begun, or whose process died.
    """

    labels: dict[str, str]
    finished: tuple[int, ...]
    running: dict[int, Started]
    failed: dict[int, str]
    not_run: tuple[int, ...]


def status_of(
    sweep: Sweep, contents: Contents, labels_of: Callable[[Arm], Mapping[str, str]]
) -> tuple[ArmStatus, ...]:
    """The arms of a sweep, in its order.

    Args:
      sweep: which arms and seeds.
      contents: of the store.
      labels_of: the axes of an arm and its value on each, as text.
    """
    rows: dict[Arm, dict[int, str]] = {}
    for config in sweep.configs:
        rows.setdefault(Arm.of(config), {})[config.seed] = key_of(config)
    return tuple(_status_of(keys, contents, dict(labels_of(arm))) for arm, keys in rows.items())


def _status_of(keys: Mapping[int, str], contents: Contents, labels: dict[str, str]) -> ArmStatus:
    """Of one arm, from the key of each seed's trial."""
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
