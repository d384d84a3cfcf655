"""Trials and sweeps for the store, which a process of its own may write too."""

from run_results import make_result
from tiny_network import make_tiny_spec

from mnet_jax.ablation import events
from mnet_jax.ablation.events import Trial, success
from mnet_jax.ablation.store import Store
from mnet_jax.architectures import mobilenet_v2
from mnet_jax.config import Arm, RunConfig

ENVIRONMENT = {"jax": "0.7.2", "device": "cpu"}
SPEC = mobilenet_v2(num_classes=10)
TINY = make_tiny_spec()  # for journals of few bytes


def make_config(seed=0, **changes):
    return RunConfig(**{"spec": SPEC, "seed": seed} | changes)


def make_trial(seed=0, accuracy=0.9, **changes):
    return success(make_config(seed, **changes), make_result(accuracy), ENVIRONMENT)


def make_sweep(seeds=(0, 1), command="ablate", **changes):
    config = make_config(**changes)
    return sweep_of(command, [config], seeds, config, ["model"])


def sweep_of(command, arms, seeds, baseline, axes):
    """A sweep of the arms of some configs."""
    (num_classes,) = {config.spec.head.num_classes for config in arms}
    return events.sweep(
        command, [Arm.of(config) for config in arms], num_classes, seeds, Arm.of(baseline), axes
    )


def journal_of(directory):
    return directory / "journal.jsonl"


def recorded(directory, kind=Trial):
    """Every event of a kind in a journal, whether it counts or not."""
    found = [events.from_line(line) for line in journal_of(directory).read_bytes().splitlines()]
    return [event for event in found if isinstance(event, kind)]


def snapshot(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def write_all(directory, seeds, accuracy):
    for seed in seeds:
        Store(directory).append(make_trial(seed, accuracy))
