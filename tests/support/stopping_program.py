"""`experiments.train` as it is typed, told to stop: `stopping_program.py SIGNAL MOMENT DIRECTORY`.

Without arguments, it forks for each call of `forking.Forking`.

It trains a small network on one pinned core, and sends the signal to itself at a moment:

- `importing`, `loading`: before there is anything to save.
- `resuming`: within the restore; `compiling`: within the first compilation of the training.
- `stepping EPOCH STEP`, `evaluating EPOCH`, `testing`: after such a step or batch.
- `saving`: when the checkpoint of an epoch's end is on its way; `sealing`: when it is all written.
- `twice`: before each save, and again when it is all written.
- `finished`: when the command is through, and its process not yet.
- `full`: not at all, but no file may grow any more from the second epoch's end on.
- `never`: not at all; the end's line gives the digest of what is left.

Lines on standard output tell of the start, and of every step and every batch.
"""

from own_core import take_a_core

take_a_core()

import contextlib
import functools
import importlib.abc
import itertools
import os
import resource
import runpy
import signal
import sys
import time
from pathlib import Path

from forking import take_a_call
from tiny_network import make_short_spec

from mnet_jax.commands import planning
from mnet_jax.config import Arm, DataConfig, RunConfig, TrainingConfig

# What the command imports, itself excepted: it takes over what is replaced here.
IMPORTED = (
    "mnet_jax.commands.catalog", "mnet_jax.commands.planning", "mnet_jax.commands.processes",
    "mnet_jax.commands.displays", "run_digest", "mnet_jax.data.loading", "tensorflow_datasets",
    "grain", "safetensors",
)  # fmt: skip
CONFIG = RunConfig(
    spec=make_short_spec(),
    data=DataConfig(name="digits", resolution=8, batch_size=128),
    training=TrainingConfig(epochs=3, warmup_epochs=1),
)


def before(owner, name, action):
    """Makes a function of a module or a class call `action` first."""
    function = getattr(owner, name)

    def acting(*arguments, **keywords):
        action()
        return function(*arguments, **keywords)

    setattr(owner, name, acting)


def after(owner, name, action):
    function = getattr(owner, name)

    def acting(*arguments, **keywords):
        result = function(*arguments, **keywords)
        action()
        return result

    setattr(owner, name, acting)


class AtImport(importlib.abc.MetaPathFinder):
    """Tells when a module is looked for."""

    def __init__(self, name, tell):
        self._name, self._tell = name, tell

    def find_spec(self, name, path, target=None):
        if name == self._name:
            self._tell()
        return None


def tell_within_the_first_compilation(tell):
    import jax

    from mnet_jax.training.loop import Loop

    armed = []
    before(Loop, "_train", lambda: armed.append(True))

    def listen(event, duration, **_):
        if armed and "backend_compile" in event:
            tell()

    jax.monitoring.register_event_duration_secs_listener(listen)


def tell_at(phase, epoch, step, tell):
    """Prints every event, and tells at one."""
    from mnet_jax.commands.displays import RunProgress

    def show(self, event):
        print(event.phase, event.epoch, event.step, flush=True)
        if (event.phase, event.epoch, event.step) == (phase, epoch, step):
            tell()

    RunProgress.show = show


def fill_up_at_the_second(checkpoints, count):
    """Lets no file grow beyond a size, which is as if the disk were full."""
    if next(count) == 2:
        while not list(checkpoints.glob("*[0-9]")):  # the first is still on its way
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (256, resource.RLIM_INFINITY))


def arm(tell, directory, moment, *numbers):
    from mnet_jax.training.checkpoints import manifest
    from mnet_jax.training.checkpoints.checkpoint import Checkpoints

    at = {
        "stepping": ("train", *map(int, numbers)),
        "evaluating": ("validation", *map(int, numbers), 1),
        "testing": ("test", CONFIG.training.epochs, 1),
    }
    tell_at(*at.get(moment, ("", 0, 0)), tell)
    tell_once = functools.cache(tell)  # what happens again: the second Ctrl-C ends it at once
    if moment == "loading":
        from mnet_jax import data

        before(data, "load", tell)
    if moment == "resuming":
        before(Checkpoints, "_restore", tell)
    if moment == "compiling":
        tell_within_the_first_compilation(tell_once)
    if moment == "saving":
        after(Checkpoints, "save", tell)
    if moment == "twice":
        before(Checkpoints, "save", tell)
    if moment == "full":
        count = itertools.count(1)
        before(Checkpoints, "save", lambda: fill_up_at_the_second(directory / "checkpoints", count))
    if moment in ("sealing", "twice"):
        before(manifest, "write", tell if moment == "twice" else tell_once)


def main(name, moment, directory):
    directory = Path(directory)

    def tell():
        os.kill(os.getpid(), signal.Signals[name])

    if moment == "importing":
        sys.meta_path.insert(0, AtImport("mnet_jax.commands.displays", tell))
    else:
        arm(tell, directory, *moment.split())
    planning.baseline = lambda arguments, train_images: Arm.of(CONFIG)
    print("started", flush=True)
    sys.argv = ["train", "--run", str(directory), "--tune-allocator", "False"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    with contextlib.suppress(SystemExit):
        runpy.run_module("experiments.train", run_name="__main__", alter_sys=False)
    if moment == "finished":
        tell()
    if moment == "never":
        from run_digest import digest

        from mnet_jax import serialization
        from mnet_jax.training.results import RunResult

        result = serialization.from_json(RunResult, (directory / "result.json").read_text())
        print("digest", digest(directory, result))


if __name__ == "__main__":
    if not sys.argv[1:]:
        take_a_call(IMPORTED)
    main(*sys.argv[1:])
