"""Runs and resumes on one pinned core, for test_resume.py: `resume_program.py MODE DIRECTORY`.

Results on a CPU depend on the number of threads, so bit-exactness needs a core of its own, taken
before JAX starts. One process makes all runs, because it compiles a step once; but for one run, in
the middle of which a fork of it kills itself. It prints JSON: a digest of everything that a run
leaves, for each way to get there.
"""

from own_core import take_a_core

take_a_core()

import dataclasses
import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import get_args

import grain  # noqa: F401  # and the next: before the fork, as they take a second
import tensorflow_datasets  # noqa: F401
from forking import has_backend
from run_digest import digest
from tiny_network import make_short_spec

from mnet_jax import data  # noqa: F401
from mnet_jax.config import DataConfig, RunConfig, TrainingConfig
from mnet_jax.runs.run import run
from mnet_jax.training.checkpoints.checkpoint import Checkpoints
from mnet_jax.training.stopping import Stop, StoppedError
from mnet_jax.training.types import Precision

CONFIG = RunConfig(
    spec=make_short_spec(),
    data=DataConfig(name="digits", resolution=8, batch_size=128),
    training=TrainingConfig(epochs=3, warmup_epochs=1),
    seed=5,
)
DRAWN = dataclasses.replace(  # with all that a step and its images draw
    CONFIG,
    data=dataclasses.replace(
        CONFIG.data, augmentation="resized_crop_flip",
        policy="randaugment", colour_jitter=0.4, erasing=0.5,
    ),
    training=dataclasses.replace(CONFIG.training, epochs=2, mixup=0.4, cutmix=1.0),
)  # fmt: skip
# The other runs are in "auto" and float32. Every lowering and precision, and pairs of runs that
# differ in one of the two alone.
COVER = (
    ("grouped", "float32"),
    ("shifted", "float32"),
    ("shifted", "bfloat16"),
    ("native", "bfloat16"),
)
STEPS = 9  # of an epoch
PIECES = ("params", "batch_stats", "opt_state", "average", "data", "losses")


class CutError(Exception):
    """Stands for whatever ends a process."""


def at(epoch, step, action):
    """A report that acts once a run gets there."""

    def report(event):
        if (event.phase, event.epoch, event.step) == ("train", epoch, step):
            action()

    return report


def cut():
    raise CutError


def cut_and_resumed(config, directory):
    """The digest of a run that is cut off in its second epoch and called again."""
    try:
        run(config, directory, report=at(2, 5, cut))
        raise AssertionError("the run was not cut")
    except CutError:
        pass
    return digest(directory, run(config, directory))


def stopped_and_resumed(directory, *moments):
    """The digest of a run that is told to stop at each (phase, epoch, step), and called each time.

    Where it goes on, no step is trained twice.
    """
    left, seen = set(moments), set()
    while True:
        stop = Stop()

        def report(event, stop=stop):
            moment = (event.phase, event.epoch, event.step)
            if event.phase == "train":
                assert moment not in seen, moment
                seen.add(moment)
            if moment in left:
                left.remove(moment)
                stop.requested = True

        try:
            result = run(CONFIG, directory, stop=stop, report=report)
        except StoppedError:
            continue
        assert not left, left
        return digest(directory, result)


def stops(directory, *, each):
    """Digests of runs stopped after steps and batches of the validation.

    One run is stopped after the first step, after two in a row in the middle, after a batch of
    a validation and after the last step. With `each`, one run is stopped after every step, and
    for every step and batch there is a run that is stopped after it alone.
    """
    epochs = range(1, CONFIG.training.epochs + 1)
    steps = [("train", epoch, step) for epoch in epochs for step in range(1, STEPS + 1)]
    batches = [("validation", epoch, batch) for epoch in epochs for batch in (1, 2)]
    some = [steps[0], *steps[STEPS + 4 : STEPS + 6], batches[2], steps[-1]]
    ways = {"some": some}
    if each:
        ways |= {"all": steps} | {str(moment): [moment] for moment in (*steps, *batches)}
    return {
        f"stopped {name}": stopped_and_resumed(directory / f"stopped {name}", *moments)
        for name, moments in ways.items()
    }


def without_pieces(directory):
    """For each piece the digest of a run that is stopped within an epoch and resumes without it."""
    found, restore, stop = {}, Checkpoints.restore, Stop()

    def request():
        stop.requested = True

    try:
        run(CONFIG, directory / "stopped", stop=stop, report=at(2, 5, request))
        raise AssertionError("the run was not stopped")
    except StoppedError:
        pass
    for piece in PIECES:
        shutil.copytree(directory / "stopped", directory / piece)
        Checkpoints.restore = forgetting(piece)
        found[f"without {piece}"] = digest(directory / piece, run(CONFIG, directory / piece))
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


def lowered(directory, *, each):
    """For lowerings in a precision, or with `each` in every one, the digests of two runs.

    One of them is cut off and resumed.
    """
    from lowerings import AVAILABLE  # here: it starts JAX's backend, which a fork cannot have

    found = {}
    for lowering, precision in itertools.product(AVAILABLE, get_args(Precision)):
        if not each and (lowering, precision) not in COVER:
            continue
        training = TrainingConfig(epochs=2, warmup_epochs=1, lowering=lowering, precision=precision)
        config = dataclasses.replace(CONFIG, training=training)
        name = f"{lowering} {precision}"
        whole = digest(directory / name, run(config, directory / name))
        found[name] = whole, cut_and_resumed(config, directory / f"{name} cut")
    return found


def killed_within(directory):
    """How a fork of this process ends that kills itself in the third epoch of a run."""
    assert not has_backend(), "a fork would hang"
    child = os.fork()
    if not child:
        try:
            run(CONFIG, directory, report=at(3, 2, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(mode, directory):
    each = mode == "exhaustive"
    killed, whole, again, drawn = (directory / n for n in ("killed", "whole", "again", "drawn"))
    return {
        "the kill": killed_within(killed),
        "killed": digest(killed, run(CONFIG, killed)),
        "whole": digest(whole, run(CONFIG, whole)),
        "again": digest(again, run(CONFIG, again)),
        "cut": cut_and_resumed(CONFIG, directory / "cut"),
        **stops(directory, each=each),
        **without_pieces(directory),
        "drawn": digest(drawn, run(DRAWN, drawn)),
        "drawn cut": cut_and_resumed(DRAWN, directory / "drawn cut"),
        "lowered": lowered(directory, each=each),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
