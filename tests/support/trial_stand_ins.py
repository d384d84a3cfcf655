"""Stand-ins for a trial, which a worker process imports by name; the seed says what happens."""

import logging
import os
import signal
import threading
import time

from mnet_jax.training.results import EpochRecord, Progress, RunResult

FINE, RAISING, KILLED, LEAVING, LONG, MEETING, NOISY = 0, 100, 200, 300, 400, 500, 600


def result_of(seed, process=0):
    """A result that says which seed found it, and in which process."""
    record = EpochRecord(
        epoch=1, step=1, learning_rate=0.1, train_loss=1.0, train_accuracy=0.5,
        validation_loss=1.0, validation_accuracy=0.5, seconds=1.0, images_per_second=1.0,
    )  # fmt: skip
    return RunResult(
        params=process, madds=1, test_loss=float(seed), test_accuracy=0.5, test_count=2,
        history=(record,), images_per_second=1.0, seconds=1.0,
    )  # fmt: skip


def stand_in(config, directory, report):
    """Reports its seed as the epoch, then does what the seed's hundreds say."""
    report(Progress(phase="train", epoch=config.seed, epochs=1, step=os.getpid()))
    match config.seed // 100 * 100:
        case 100:
            raise ArithmeticError("the loss is sad\nand this is a second line")
        case 200:
            os.kill(os.getpid(), signal.SIGKILL)
        case 300:
            os._exit(3)
        case 400:
            (directory / "begun").touch()
            for _ in range(600):
                time.sleep(0.1)
        case 500:  # it ends when another one is at the same place
            (directory / "here").touch()
            while len(list(directory.parent.glob("*/here"))) < 2:
                time.sleep(0.01)
        case 600:  # as Orbax does of what it raises: a thread's traceback and a log
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
            logging.getLogger("absl").error("the disk is full, said once more")
            fail()
    return result_of(config.seed, os.getpid())


def fail():
    raise OSError("the disk is full")


def saving(config, directory, report):
    """A real trial, with a checkpoint after every epoch; it notes where each process began.

    It enters its second epoch, and goes on when there is a file `go on` beside its directory.
    """
    from mnet_jax.runs.run import run  # here: no other stand-in needs JAX

    note = directory / f"began-{os.getpid()}"

    def noted(event):
        if not note.exists():
            note.write_text(str(event.epoch))
        report(event)
        while event.epoch > 1 and not (directory.parent / "go on").exists():
            time.sleep(0.01)

    return run(config, directory, report=noted)
