"""SIGTERM at any moment: the documented exit code, no step lost, and the same command goes on."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mnet_jax.training import agreement
from mnet_jax.training.stopping import EXIT_CODE, Stop, StoppedError

PROGRAM = Path(__file__).with_name("stopping_program.py")
STEPS = 9  # of an epoch
NOTHING_TO_SAVE = ("importing", "loading")
MOMENTS = (
    *NOTHING_TO_SAVE, "compiling", "stepping 1 1", "stepping 2 4", "stepping 3 9",
    "evaluating 1", "evaluating 3", "testing", "saving", "sealing", "twice", "finished",
)  # fmt: skip


@pytest.fixture
def own_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def tell():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("own_handler")
def test_a_signal_ends_the_process_where_nothing_is_unsaved_and_is_noted_elsewhere():
    left = []
    stop = Stop(lambda: left.append(True))
    stop.listen()
    tell()
    assert left == [True]
    stop.check()  # says nothing
    with pytest.raises(StoppedError), stop.deferred():
        tell()
        tell()
        assert left == [True]
        stop.check()
    with stop.deferred():
        pass
    assert left == [True, True]  # nobody asked, so it ends behind


@pytest.mark.usefixtures("own_handler")
def test_a_signal_that_comes_while_the_processes_agree_is_asked_for_next_time(monkeypatch):
    stop = Stop()
    stop.listen()
    answers = []

    def any_says(mine):
        if not answers:
            tell()
        answers.append(mine)
        return mine

    monkeypatch.setattr(agreement, "any_says", any_says)
    with stop.deferred():
        assert [stop.told(), stop.told()] == answers == [False, True]


@pytest.mark.usefixtures("own_handler")
def test_a_blocked_signal_comes_when_it_no_longer_is():
    left = []
    stop = Stop(lambda: left.append(True))
    stop.listen()
    with stop.blocked():  # in this thread, so that is who gets it
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        assert not left
    assert left == [True]


# The command.


def of_the_command(test):
    """Marks a test that runs it, which takes seconds and a core of its own."""
    pinned = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot be pinned")
    return pytest.mark.slow(pinned(test))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla"))}
    return cache | dict(os.environ)


def call(environment, moment, directory):
    return subprocess.run(
        [sys.executable, PROGRAM, moment, directory],
        capture_output=True, text=True, timeout=600, env=environment,
    )  # fmt: skip


def digest_of(done):
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def uninterrupted(environment, tmp_path_factory):
    """Its digest, and how many seconds it takes."""
    start = time.perf_counter()
    done = call(environment, "never", tmp_path_factory.mktemp("runs") / "run")
    return digest_of(done), time.perf_counter() - start


def steps_taken(output):
    """The last step of the run that a process told of; 0 if it came to none."""
    taken = [line.split()[1:] for line in output.splitlines() if line.startswith("train")]
    return (int(taken[-1][0]) - 1) * STEPS + int(taken[-1][1]) if taken else 0


def last_saved(directory):
    return max((int(p.name) for p in directory.glob("checkpoints/*[0-9]")), default=0)


def goes_on(environment, directory, stopped, uninterrupted):
    """Checks how a process was stopped, and what the same command makes of it."""
    assert stopped.returncode == EXIT_CODE == 143, (stopped.stdout, stopped.stderr)
    (line,) = stopped.stderr.splitlines()
    assert line.startswith("experiments.train: stopped by SIGTERM") and "goes on" in line
    assert last_saved(directory) >= steps_taken(stopped.stdout)
    assert digest_of(call(environment, "never", directory)) == uninterrupted[0]


@pytest.mark.parametrize("moment", MOMENTS)
@of_the_command
def test_a_process_told_to_stop_saves_ends_and_goes_on(
    environment, uninterrupted, tmp_path, moment
):
    stopped = call(environment, moment, tmp_path / "run")
    if moment in NOTHING_TO_SAVE:
        assert steps_taken(stopped.stdout) == 0
        assert not list(tmp_path.glob("run/checkpoints/*"))
    goes_on(environment, tmp_path / "run", stopped, uninterrupted)


@of_the_command
def test_a_process_told_to_stop_while_it_resumes_goes_on(environment, uninterrupted, tmp_path):
    directory = tmp_path / "run"
    assert call(environment, "stepping 2 4", directory).returncode == EXIT_CODE
    stopped = call(environment, "resuming", directory)
    assert steps_taken(stopped.stdout) == 0
    assert last_saved(directory) == STEPS + 4
    goes_on(environment, directory, stopped, uninterrupted)


@of_the_command
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    environment, uninterrupted, tmp_path
):
    directory = tmp_path / "run"
    done = call(environment, "full", directory)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"experiments.train: {directory}")
    assert last_saved(directory) == STEPS
    assert digest_of(call(environment, "never", directory)) == uninterrupted[0]


@of_the_command
def test_a_signal_from_outside_at_any_time(environment, uninterrupted, tmp_path):
    directory = tmp_path / "run"
    delay = random.uniform(0.1, 0.8 * uninterrupted[1])
    print(f"SIGTERM after {delay:.3f} s")
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "never", directory],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout.readline() == "started\n"
    time.sleep(delay)
    process.terminate()
    output, errors = process.communicate(timeout=600)
    last = output.splitlines()[-1:]  # none, if it was stopped at once
    if last and last[0].startswith("digest"):  # it was quicker this time
        assert last == [uninterrupted[0]]
        # There was nothing to save; an interpreter that shuts down has taken the handlers off.
        assert process.returncode in (0, EXIT_CODE, -signal.SIGTERM)
        return
    stopped = subprocess.CompletedProcess([], process.returncode, output, errors)
    goes_on(environment, directory, stopped, uninterrupted)
