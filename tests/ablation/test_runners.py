"""A trial that crashes takes nothing with it, and a sweep that ends leaves no process behind."""

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from trial_stand_ins import FINE, KILLED, LEAVING, LONG, MEETING, NOISY, RAISING, stand_in

from mnet_jax import host_memory
from mnet_jax import process as settings
from mnet_jax.ablation.runners import (
    LocalRunner,
    Outcome,
    Slots,
    TrialLost,
    TrialStalled,
    machine,
    run,
    schedule,
    train,
)
from mnet_jax.ablation.runners.local import LEAST_BYTES, RESERVE_BYTES
from mnet_jax.ablation.runners.schedule import StallMonitor
from mnet_jax.ablation.runners.work import outcome_of
from mnet_jax.architectures import mobilenet_v2
from mnet_jax.commands import trained_models
from mnet_jax.commands.trained_models import ModelArguments
from mnet_jax.config import DataConfig, RunConfig, TrainingConfig

SPEC = mobilenet_v2(width=0.1, num_classes=10)


PLENTY = 2**40


def configs(*seeds):
    return [RunConfig(spec=SPEC, seed=seed) for seed in seeds]


def runner_of(places=1, **options):
    slots = Slots(environments=({},) * places)
    return LocalRunner(slots, **{"trial": stand_in, "available": lambda: PLENTY, **options})


def outcomes_of(runner, root, seeds, report=lambda event: None, begun=lambda config: None):
    return run(
        iter(configs(*seeds)),
        runner,
        lambda config: root / str(config.seed),
        begun,
        lambda config, event: report(event),
    )


def run_stand_in(root, seeds, report=lambda event: None):
    return list(outcomes_of(runner_of(), root, seeds, report))


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


def test_crashes_take_nothing_with_them_and_are_said_once(tmp_path, capfd):
    """By their outcomes: neither a thread of a worker nor a library's log says them as well."""
    seeds = [FINE, RAISING, RAISING + 1, NOISY, KILLED, LEAVING, FINE + 1]
    (tmp_path / str(RAISING + 1) / "traceback.txt").mkdir(parents=True)  # no place for one
    events = []
    outcomes = run_stand_in(tmp_path, seeds, events.append)

    assert [outcome.config.seed for outcome in outcomes] == seeds
    assert [event.epoch for event in events] == seeds, "every trial's progress, in order"
    fine, raised, raised_again, noisy, killed, left, fine_again = outcomes
    for outcome, found in ((fine, 0.0), (fine_again, 1.0)):
        assert outcome.result.test_loss == found and outcome.cause is None
        assert "jax" in outcome.environment and "PJRT_NPROC" not in outcome.environment
    assert raised.cause == raised_again.cause == "ArithmeticError: the loss is sad"
    assert raised.result is None and raised.environment == fine.environment
    assert noisy.cause == "OSError: the disk is full" and noisy.result is None
    assert "and this is a second line" in (tmp_path / str(RAISING) / "traceback.txt").read_text()
    assert "signal 9" in killed.cause and killed.environment == {} and killed.result is None
    assert "exit code 3" in left.cause and left.environment == {} and left.result is None

    first, *same, dead, second, third = (event.step for event in events)
    assert {first, *same, dead} == {first}, "an exception is no death"
    assert len({os.getpid(), first, second, third}) == 4, "a new worker after each death"
    assert not any(map(is_alive, (first, second, third)))
    assert capfd.readouterr() == ("", "")


def test_a_trial_that_hangs_is_ended_and_the_next_one_runs(tmp_path):
    """By a clock that goes on from the trial's last word until the next one has begun."""
    now, output, begun = 0.0, [], []

    def clock():
        nonlocal now
        now += 30.0 * (len(output) == len(begun) == 1)
        return now

    runner = runner_of(timeout_seconds=90, clock=clock)
    hung, after = outcomes_of(runner, tmp_path, [LONG, KILLED], output.append, begun.append)
    assert hung.result is None
    assert hung.cause == "no progress for 90 seconds, the trial was ended"
    assert "signal 9" in after.cause, "what this trial does to itself"
    assert len(output) == 2
    (worker,) = {event.step for event in output if event.epoch == LONG}
    assert not is_alive(worker)


def test_a_silence_is_told_once_and_counts_while_it_is_listened_to():
    now = [0.0]
    first, second = configs(1, 2)
    watch = StallMonitor(None, lambda: now[0])

    def looks(count, seconds):
        found = []
        for _ in range(count):
            now[0] += seconds
            found += watch.check()
        return found

    watch.record_progress(first)
    watch.record_progress(second)
    assert looks(59, 10.0) == []
    watch.record_progress(second)
    assert looks(59, 10.0) == [(first, TrialStalled(seconds=600.0))]
    assert looks(1, 1e6) == [(second, TrialStalled(seconds=620.0))], (
        "it was suspended for most of that"
    )
    watch.forget(first)
    watch.record_progress(second)
    assert looks(60, 10.0) == [(second, TrialStalled(seconds=600.0))]
    assert looks(600, 10.0) == []


def test_a_silence_with_a_limit_ends_there():
    now = [0.0]
    (config,) = configs(1)
    watch = StallMonitor(45.0, lambda: now[0])
    watch.record_progress(config)
    found = []
    while not found:
        now[0] += 10.0
        found = watch.check()
    assert now[0] == 50.0 and found[0][0] == config and found[0][1].again is False


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
    outcomes = outcomes_of(
        runner_of(), tmp_path, (0, 1), lambda event: processes.append(event.step)
    )
    assert next(outcomes).result is not None
    outcomes.close()
    assert processes and not any(map(is_alive, processes))


def test_trials_run_side_by_side(tmp_path):
    """Each ends only if another one is there at the same time."""
    begun = []
    seeds = [MEETING, MEETING + 1]
    outcomes = list(outcomes_of(runner_of(2), tmp_path, seeds, begun=begun.append))
    assert begun == configs(*seeds)
    assert {outcome.config.seed for outcome in outcomes} == set(seeds)
    assert len({outcome.result.params for outcome in outcomes}) == 2, "in a process each"


def test_a_trial_begins_only_if_there_is_memory_for_it(tmp_path):
    """With too little for two they run one after the other, though there are places."""
    begun, ended = [], []
    runner = runner_of(3, available=lambda: LEAST_BYTES)
    for outcome in outcomes_of(runner, tmp_path, (0, 1, 2), begun=begun.append):
        assert len(begun) == len(ended) + 1
        ended.append(outcome.config)
    assert ended == begun == configs(0, 1, 2)


def test_what_a_trial_has_taken_is_what_the_next_one_needs(tmp_path):
    runner = runner_of(2, available=lambda: LEAST_BYTES + RESERVE_BYTES)
    (first,) = configs(LONG)
    try:
        runner.begin(first, tmp_path / "first")
        assert not runner.has_room(), "nothing is known of its memory yet"
        while not runner.wait(60):
            pass
        assert runner.has_room()
        runner._need_bytes += 1
        assert not runner.has_room()
    finally:
        runner.end()


def test_when_memory_runs_out_the_last_trial_waits_its_turn(tmp_path):
    """It is ended while both run, and run again when there is memory."""
    left = [PLENTY]
    begun = []

    def begin(config):
        begun.append(config.seed)
        left[0] = PLENTY if len(begun) == 1 else 0
        if len(begun) == 3:
            raise KeyboardInterrupt

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "here").touch()  # so that the first one ends
    runner, outcomes = runner_of(2, available=lambda: left[0]), []
    with pytest.raises(KeyboardInterrupt):
        for outcome in outcomes_of(runner, tmp_path, (MEETING, LONG), begun=begin):
            outcomes.append(outcome.config.seed)
    assert begun == [MEETING, LONG, LONG] and outcomes == [MEETING]


class Losing:
    """A runner without processes, which loses each trial as often as its seed says."""

    def __init__(self):
        self.begun, self.running = [], []

    def has_room(self):
        return not self.running

    def begin(self, config, directory):
        self.begun.append(config)
        self.running.append(config)

    def wait(self, seconds):
        if not self.running:
            return []
        config = self.running.pop()
        lost = self.begun.count(config) <= config.seed
        if lost:
            return [(config, TrialLost(cause="gone", again=config.seed < 3))]
        result = Outcome(config=config, result=None, cause="fine", environment={})
        return [(config, result)]

    def end(self):
        self.begun.append("end")


def test_a_lost_trial_is_run_again_if_that_was_no_fault_of_its(tmp_path):
    runner = Losing()
    outcomes = {}
    for seed in (0, 2, 3):
        (outcome,) = outcomes_of(runner, tmp_path, [seed])
        outcomes[seed] = outcome.cause
    assert outcomes == {0: "fine", 2: "fine", 3: "gone"}
    zero, two, three = configs(0, 2, 3)
    assert runner.begun == [zero, "end", two, two, two, "end", three, "end"]


def test_trials_that_are_not_to_be_had_yet_are_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "POLL_SECONDS", 0.01)
    first, second = configs(0, 1)
    offers = iter([None, first, None, None, second])
    found = run(offers, Losing(), lambda c: tmp_path, lambda c: None, lambda c, e: None)
    assert [outcome.config for outcome in found] == [first, second]


def test_a_directory_has_one_trial_at_a_time(tmp_path):
    """Who is left over from a sweep that was killed is waited for."""
    (config,) = configs(0)
    found = []

    def work():
        found.append(outcome_of(stand_in, config, tmp_path, lambda event: None))

    with open(tmp_path / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.5)
        assert not found
    thread.join()
    assert found[0].result


def test_places_share_the_cores_out(monkeypatch):
    monkeypatch.setattr(machine, "_accelerators", lambda: ("cpu", 0))
    monkeypatch.setattr(settings, "usable_cores", lambda: 8)
    for trials, cores, expected in (
        (1, None, ["8"]), (3, None, ["2"] * 3), (20, None, ["1"] * 8),
        (20, 3, ["3"] * 2), (1, 2, ["2"]),
    ):  # fmt: skip
        places = machine.slots(trials, cores, 1).environments
        assert [place["PJRT_NPROC"] for place in places] == expected
    with pytest.raises(ValueError, match="cores_per_trial: got 9, legal: 1 to 8"):
        machine.slots(1, 9, 1)
    with pytest.raises(ValueError, match="devices_per_trial: got 2, legal: 1, as there are no acc"):
        machine.slots(1, None, 2)


def test_places_share_the_accelerators_out(monkeypatch):
    monkeypatch.setattr(machine, "_accelerators", lambda: ("gpu", 4))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    for trials, devices, expected in (
        (9, 1, ["3", "5", "6", "7"]), (2, 1, ["3", "5"]), (9, 2, ["3,5", "6,7"]), (9, 3, ["3,5,6"]),
    ):  # fmt: skip
        places = machine.slots(trials, None, devices).environments
        assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == expected
    assert machine.slots(9, None, 4).environments == ({},), "all of them need no choice"
    with pytest.raises(ValueError, match="devices_per_trial: got 5, legal: 1 to 4"):
        machine.slots(1, None, 5)
    with pytest.raises(
        ValueError, match="cores_per_trial: got 2, legal: none, as trials are given"
    ):
        machine.slots(1, 2, 1)


def test_the_threads_of_a_worker_are_those_of_its_place(tmp_path):
    """XLA starts as many as it is told."""
    slots = Slots(environments=({"PJRT_NPROC": "1"},))
    (outcome,) = outcomes_of(LocalRunner(slots, stand_in), tmp_path, [0])
    assert outcome.environment["PJRT_NPROC"] == "1"


def test_memory_is_what_a_container_leaves(tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for group, limit, used, cached in ((inner, "max", 5, 0), (inner.parent, 1000, 700, 200)):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
    monkeypatch.setattr(host_memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(host_memory, "_group", lambda: "a/b")
    assert host_memory.available_bytes() == 500
    (inner.parent / "memory.max").unlink()
    assert host_memory.available_bytes() > 2**20, "the machine's"


PARENT = """
    from pathlib import Path
    from mnet_jax.ablation.runners import run
    from test_runners import configs, runner_of
    from trial_stand_ins import LONG

    if __name__ == "__main__":
        def report(config, event):
            print(event.step, flush=True)

        try:
            list(run(iter(configs(LONG)), runner_of(), lambda c: Path("long"), print, report))
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
    process.stdout.readline()  # what began
    worker = int(process.stdout.readline())
    wait_until(lambda: (tmp_path / "long" / "begun").exists())
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
    (outcome,) = run(
        iter([config]), runner_of(trial=train), lambda c: tmp_path / "run", lambda c: None,
        lambda c, event: events.append(event),
    )  # fmt: skip
    assert outcome.cause is None and outcome.config == config
    assert outcome.result.test_count == 500 and len(outcome.result.history) == 1
    assert 0 <= outcome.result.test_accuracy <= 1
    assert {event.phase for event in events} == {"train", "validation", "epoch", "test"}
    assert outcome.environment["device"]
    assert (tmp_path / "run" / "scalars.jsonl").is_file()
    assert (tmp_path / "run" / "checkpoints").is_dir()
    (opened,) = trained_models.open_models(ModelArguments(checkpoint=(tmp_path / "run",), images=8))
    assert opened.images.name == "digits", "the directory says what it was trained on"
    assert [batch.shape for batch in opened.batches()] == [(8, 8, 8, 3)]
