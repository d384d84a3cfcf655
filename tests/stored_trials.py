"""Trials for the store, which a process of its own may write too."""

from results import make_result

from mnet_jax.ablation.store import Store, success
from mnet_jax.architectures import mobilenet_v2
from mnet_jax.config import RunConfig

ENVIRONMENT = {"jax": "0.7.2", "device": "cpu"}
SPEC = mobilenet_v2(num_classes=10)


def make_config(seed=0, **changes):
    return RunConfig(**{"spec": SPEC, "seed": seed} | changes)


def make_trial(seed=0, accuracy=0.9, **changes):
    return success(make_config(seed, **changes), make_result(accuracy), ENVIRONMENT)


def path_of(directory, trial):
    return directory / "trials" / f"{trial.key}.json"


def snapshot(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def write_all(directory, seeds, accuracy):
    for seed in seeds:
        Store(directory).write(make_trial(seed, accuracy))
