"""`experiments.train` with a network of one block, for test_processes.py; takes its flags.

Reads from the environment: DEVICES, how many virtual ones; KILL, `epoch,step` of the training step
at which the process sends itself the SIGNAL; ORDER, a file that gets a line for each training batch
that the process puts on its devices: a digest of each image.

Without flags, it forks for each call of `forking.Forking`; then a supervisor forks as well.
"""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from mnet_jax.commands import supervision

if __name__ == "__main__" and sys.argv[1:]:
    supervision.begin("train")

import jax
from forking import take_a_call
from tiny_network import make_short_spec

from mnet_jax.commands import displays, train
from mnet_jax.config import Arm, DataConfig, RunConfig, TrainingConfig
from mnet_jax.training import placement
from mnet_jax.training.stopping import Stop

IMPORTED = (
    "mnet_jax.runs.run",
    "mnet_jax.data.loading",
    "tensorflow_datasets",
    "grain",
    "safetensors",
)
CONFIG = RunConfig(
    spec=make_short_spec(),
    data=DataConfig(name="digits", resolution=8, batch_size=360),
    training=TrainingConfig(epochs=3, warmup_epochs=1, lowering="shifted"),
    seed=5,
)
show = displays.RunProgress.show


class Noting(placement.JitPlacement):
    """Writes down which images are put onto the devices to be trained on."""

    def put_batch(self, batch):
        if "mask" not in batch:
            digests = [hashlib.sha256(image.tobytes()).hexdigest()[:8] for image in batch["image"]]
            with Path(os.environ["ORDER"]).open("a") as file:
                file.write(" ".join(digests) + "\n")
        return super().put_batch(batch)


def show_or_die(self, event):
    if os.environ.get("KILL") == f"{event.epoch},{event.step}" and event.phase == "train":
        os.kill(os.getpid(), signal.Signals[os.environ["SIGNAL"]])
    show(self, event)


class Forked:
    """What a supervisor starts, with the imports that this process has done."""

    def __init__(self, command, *, env, stderr, process_group):
        assert stderr == subprocess.PIPE
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            os.setpgid(0, process_group)
            os.dup2(writing, sys.stderr.fileno())
            os.environ.update(env)
            supervision.begin("train")
            main()
            sys.exit()
        os.close(writing)
        self.stderr = os.fdopen(reading, "rb")

    def send_signal(self, number):
        os.kill(self.pid, number)

    def wait(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def main():
    jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
    jax.config.update("jax_disable_most_optimizations", True)  # most of the time is the compiler's
    sys.argv[0] = "train"
    placement.JitPlacement = Noting
    displays.RunProgress.show = show_or_die
    train._arm = lambda *given: Arm.of(CONFIG)
    stop = Stop(lambda number: os._exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    stop.listen()
    train.main(stop)


if __name__ == "__main__":
    if not sys.argv[1:]:
        take_a_call(IMPORTED)
        supervision.subprocess = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE)
        supervision.begin("train")
    main()
