"""Runs and resumes on one pinned core, for test_resume.py: `resume_program.py MODE DIRECTORY`.

Results on a CPU depend on the number of threads, so bit-exactness needs a core of its own, taken
before JAX starts. Prints JSON: a digest of everything a run leaves, for each way to get there.
"""

from own_core import take_a_core

take_a_core()

import dataclasses
import hashlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import orbax.checkpoint as ocp
from conftest import make_tiny_spec
from lowerings import AVAILABLE

from mnet_jax.config import DataConfig, RunConfig, TrainingConfig
from mnet_jax.run import run
from mnet_jax.training.checkpoint import Checkpoints
from mnet_jax.training.stopping import Stop, StoppedError
from mnet_jax.training.types import Precision

CONFIG = RunConfig(
    spec=make_tiny_spec(),
    data=DataConfig(name="digits", resolution=8, batch_size=128),
    training=TrainingConfig(epochs=3, warmup_epochs=1),
    seed=5,
)
DRAWN = dataclasses.replace(  # with all that a step and its images draw
    CONFIG,
    data=dataclasses.replace(
        CONFIG.data, resolution=16, augmentation="resized_crop_flip",
        policy="randaugment", colour_jitter=0.4, erasing=0.5,
    ),
    training=dataclasses.replace(CONFIG.training, mixup=0.4, cutmix=1.0),
)  # fmt: skip
TIMES = ("seconds", "images_per_second")
STEPS = 9  # of an epoch
PIECES = ("params", "batch_stats", "opt_state", "average")


class CutError(Exception):
    """Stands for whatever ends a process."""


def digest(directory, result):
    """A hash of the last checkpoint, the scalars and the result, but for times."""
    manager = ocp.CheckpointManager((directory / "checkpoints").absolute())
    step = manager.latest_step()
    saved = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
    manager.close()
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(saved.state):
        found.update(jax.tree_util.keystr(path).encode())
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found.update(np.asarray(leaf).tobytes())
    position = directory / "checkpoints" / str(step) / "data" / "process_0-of-1.json"
    found.update(position.read_bytes())
    plain = dataclasses.asdict(result)
    for record in (plain, *plain["history"]):
        for name in TIMES:
            record.pop(name)
    found.update(json.dumps(plain).encode())
    for line in (directory / "scalars.jsonl").read_text().splitlines():
        found.update(
            json.dumps({k: v for k, v in json.loads(line).items() if k not in TIMES}).encode()
        )
    return found.hexdigest()


def at(epoch, step, action):
    """A report that acts once a run gets there."""

    def report(event):
        if (event.phase, event.epoch, event.step) == ("train", epoch, step):
            action()

    return report


def cut():
    raise CutError


def resumed(directory, config=CONFIG):
    """The digest of a run cut off in its second epoch and called again."""
    try:
        run(config, directory, report=at(2, 5, cut))
        raise AssertionError("the run was not cut")
    except CutError:
        pass
    return digest(directory, run(config, directory))


def stopped_and_resumed(directory, phase, *moments):
    """The digest of a run that is told to stop at each (epoch, step), and called again each time.

    Where it goes on, no step is trained twice.
    """
    left, seen = set(moments), set()
    while True:
        stop = Stop()

        def report(event, stop=stop):
            at = (event.epoch, event.step)
            if event.phase == "train":
                assert at not in seen, at
                seen.add(at)
            if event.phase == phase and at in left:
                left.remove(at)
                stop.requested = True

        try:
            result = run(CONFIG, directory, stop=stop, report=report)
        except StoppedError:
            continue
        assert not left, left
        return digest(directory, result)


def stops(directory, *, each):
    """Digests of a whole run, of one stopped behind some steps and batches, and of one behind all.

    They are behind the first step, in the middle and behind the last, or with `each` behind every
    one.
    """
    epochs = range(1, CONFIG.training.epochs + 1)
    steps = [(epoch, step) for epoch in epochs for step in range(1, STEPS + 1)]
    batches = [(epoch, batch) for epoch in epochs for batch in (1, 2)]
    found = {"whole": digest(directory / "whole", run(CONFIG, directory / "whole"))}
    for epoch, step in steps if each else (steps[0], steps[STEPS + 4], steps[-1]):
        name = f"train {epoch} {step}"
        found[name] = stopped_and_resumed(directory / name, "train", (epoch, step))
    found["train all"] = stopped_and_resumed(directory / "all", "train", *steps)
    for epoch, batch in batches if each else batches[2:3]:
        name = f"validation {epoch} {batch}"
        found[name] = stopped_and_resumed(directory / name, "validation", (epoch, batch))
    restore = Checkpoints.restore
    for piece in (*PIECES, "data", "losses") if each else ("losses",):
        Checkpoints.restore = forgetting(piece)
        found[f"without {piece}"] = stopped_and_resumed(directory / piece, "train", (2, 5))
        Checkpoints.restore = restore
    return found


def forgetting(piece):
    """A restore that loses a piece of the checkpoint."""
    restore = Checkpoints.restore

    def forgetful(self, first, batches):
        start = batches.get_state()
        restored = restore(self, first, batches)
        if piece == "data":
            batches.set_state(start)
            return restored
        if piece == "losses":
            lost = (0.0,) * restored.progress.steps
            return restored._replace(progress=dataclasses.replace(restored.progress, losses=lost))
        return restored._replace(state=restored.state.replace(**{piece: getattr(first, piece)}))

    return forgetful


def lowered(directory):
    """For each lowering in each precision the digests of a run and of one that was cut off."""
    spec, found = CONFIG.spec, {}
    head = dataclasses.replace(spec.head, conv=None)
    small = dataclasses.replace(spec, blocks=spec.blocks[:1], head=head)  # compiles sooner
    for lowering, precision in itertools.product(AVAILABLE, get_args(Precision)):
        training = TrainingConfig(epochs=2, warmup_epochs=1, lowering=lowering, precision=precision)
        config = dataclasses.replace(CONFIG, spec=small, training=training)
        name = f"{lowering} {precision}"
        whole = digest(directory / name, run(config, directory / name))
        found[name] = whole, resumed(directory / f"{name} cut", config)
    return found


def main(mode, directory):
    if mode == "lowerings":
        return lowered(directory)
    if mode in ("stops", "some stops"):
        return stops(directory, each=mode == "stops")
    if mode == "drawn":
        whole = digest(directory / "whole", run(DRAWN, directory / "whole"))
        return {"whole": whole, "cut": resumed(directory / "cut", DRAWN)}
    if mode == "kill":
        run(CONFIG, directory, report=at(3, 2, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    if mode == "resume":
        return {"killed": digest(directory, run(CONFIG, directory))}
    found = {name: digest(directory / name, run(CONFIG, directory / name)) for name in ("a", "b")}
    found["cut"] = resumed(directory / "cut")
    restore = Checkpoints.restore
    for piece in (*PIECES, "data"):
        Checkpoints.restore = forgetting(piece)
        found[f"without {piece}"] = resumed(directory / piece)
        Checkpoints.restore = restore
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
