"""A trial that crashes takes nothing with it, and a sweep that ends leaves no process behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from trials import FINE, KILLED, LEAVING, LONG, RAISING, stand_in

from mnet_jax.ablation.runners import run_local
from mnet_jax.architectures import mobilenet_v2
from mnet_jax.config import DataConfig, RunConfig, TrainingConfig

SPEC = mobilenet_v2(width=0.1, num_classes=10)


def configs(*seeds):
    return [RunConfig(spec=SPEC, seed=seed) for seed in seeds]


def run_stand_in(root, seeds, report=lambda event: None):
    return list(run_local(configs(*seeds), lambda c: root / str(c.seed), report, stand_in))


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_no_trials_are_no_outcomes(tmp_path):
    assert run_stand_in(tmp_path, []) == []


def test_crashes_take_nothing_with_them(tmp_path):
    seeds = [FINE, RAISING, RAISING + 1, KILLED, LEAVING, FINE + 1]
    (tmp_path / str(RAISING + 1)).write_text("a file in the place of the trial's directory")
    events = []
    outcomes = run_stand_in(tmp_path, seeds, events.append)

    assert [outcome.config.seed for outcome in outcomes] == seeds
    assert [event.epoch for event in events] == seeds, "every trial's progress, in order"
    fine, raised, raised_again, killed, left, fine_again = outcomes
    for outcome, found in ((fine, 0.0), (fine_again, 1.0)):
        assert outcome.result.test_loss == found and outcome.cause is None
        assert "jax" in outcome.environment
    assert raised.cause == raised_again.cause == "ArithmeticError: the loss is sad"
    assert raised.result is None and raised.environment == fine.environment
    assert "and this is a second line" in (tmp_path / str(RAISING) / "traceback.txt").read_text()
    assert "signal 9" in killed.cause and killed.environment == {} and killed.result is None
    assert "exit code 3" in left.cause and left.environment == {} and left.result is None

    first, *same, dead, second, third = (event.step for event in events)
    assert {first, *same, dead} == {first}, "an exception is no death"
    assert len({os.getpid(), first, second, third}) == 4, "a new worker after each death"
    assert not any(map(is_alive, (first, second, third)))


def test_who_leaves_early_leaves_no_process(tmp_path):
    processes = []

    def interrupt(event):
        processes.append(event.step)
        if event.epoch == LONG:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_stand_in(tmp_path, [LONG], interrupt)
    assert processes and not any(map(is_alive, processes))
    assert not multiprocessing.active_children()
    assert time.monotonic() - started < 50, "the trial of a minute was waited for"


def test_closing_between_trials_leaves_no_process(tmp_path):
    processes = []
    outcomes = run_local(
        configs(0, 1), lambda c: tmp_path, lambda event: processes.append(event.step), stand_in
    )
    assert next(outcomes).result is not None
    outcomes.close()
    assert processes and not any(map(is_alive, processes))


PARENT = """
    from pathlib import Path
    from mnet_jax.ablation.runners import run_local
    from test_runners import configs
    from trials import LONG, stand_in

    if __name__ == "__main__":
        def report(event):
            print(event.step, flush=True)

        try:
            list(run_local(configs(LONG), lambda c: Path("long"), report, stand_in))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@pytest.fixture
def parent(tmp_path):
    """A process of its own group that waits for a long trial, and its worker's number."""
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    process = subprocess.Popen(
        [sys.executable, "parent.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    worker = int(process.stdout.readline())
    wait_until(lambda: (tmp_path / "long").exists())
    yield process, worker
    if is_alive(worker):
        os.kill(worker, signal.SIGKILL)
    process.kill()
    process.wait()


def test_control_c_ends_parent_and_worker_without_a_traceback(parent):
    process, worker = parent
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the foreground
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("interrupted\n", "")
    assert not is_alive(worker)


def test_a_real_trial(tmp_path, tiny_spec):
    config = RunConfig(
        spec=tiny_spec,
        data=DataConfig(name="digits", resolution=8, batch_size=128, augmentation="none"),
        training=TrainingConfig(epochs=1, warmup_epochs=0.0),
    )
    events = []
    (outcome,) = run_local([config], lambda c: tmp_path / "run", events.append)
    assert outcome.cause is None and outcome.config == config
    assert outcome.result.test_count == 500 and len(outcome.result.history) == 1
    assert 0 <= outcome.result.test_accuracy <= 1
    assert {event.phase for event in events} == {"train", "validation", "test"}
    assert outcome.environment["device"]
    assert (tmp_path / "run" / "scalars.jsonl").is_file()
    assert (tmp_path / "run" / "checkpoints").is_dir()
