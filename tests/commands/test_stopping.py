"""SIGTERM and Ctrl-C at any moment: the documented exit code, no step lost, and it goes on."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from forking import Forking

from mnet_jax.training import agreement
from mnet_jax.training.stopping import INTERRUPTED, SIGNALS, TERMINATED, Stop, StoppedError, blocked

PROGRAM = Path(__file__).parents[1] / "support" / "stopping_program.py"
STEPS = 9  # of an epoch
NOTHING_TO_SAVE = ("importing", "loading")
MOMENTS = (
    *NOTHING_TO_SAVE, "compiling", "stepping 1 1", "stepping 2 4", "stepping 3 9",
    "evaluating 1", "evaluating 3", "testing", "saving", "sealing", "twice", "finished",
)  # fmt: skip
BY_HAND = ("importing", "compiling", "stepping 2 4", "testing", "sealing")


@pytest.fixture
def own_handler():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tell(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGTERM, TERMINATED, "stopped by SIGTERM, the run is saved"),
        (signal.SIGINT, INTERRUPTED, "interrupted, the run is saved"),
    ],
)
@pytest.mark.usefixtures("own_handler")
def test_a_signal_ends_the_process_where_nothing_is_unsaved_and_is_noted_elsewhere(
    number, code, words
):
    assert code == 128 + number  # as shells say it
    left = []
    stop = Stop(left.append)
    stop.listen()
    tell(number)
    assert left == [number]
    stop.check()  # says nothing
    with pytest.raises(StoppedError, match=words) as stopped, stop.deferred():
        tell(number)
        tell(number)
        assert left == [number]
        stop.check()
    assert stopped.value.code == code
    with stop.deferred():
        pass
    assert left == [number] * 2  # nobody asked, so it ends afterwards


@pytest.mark.usefixtures("own_handler")
def test_a_signal_that_comes_while_the_processes_agree_is_asked_for_next_time(monkeypatch):
    stop = Stop()
    stop.listen()
    answers = []

    def most(mine):
        if not answers:
            tell()
        answers.append(mine)
        return mine

    monkeypatch.setattr(agreement, "max_over_processes", most)
    with stop.deferred():
        assert [stop.stop_requested(), stop.stop_requested()] == [False, True]
    assert answers == [0, signal.SIGTERM]


@pytest.mark.usefixtures("own_handler")
def test_a_blocked_signal_comes_when_it_no_longer_is():
    left = []
    stop = Stop(left.append)
    stop.listen()
    with blocked(*SIGNALS):  # in this thread, so that is who gets it
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        assert not left
    assert left == [signal.SIGTERM]


@pytest.mark.usefixtures("own_handler")
def test_an_interruption_is_raised_once_where_there_are_processes_to_end():
    stop = Stop()
    stop.listen()
    with pytest.raises(KeyboardInterrupt), stop.raised():
        tell(signal.SIGTERM)
    assert (stop.requested, stop.number) == (True, signal.SIGTERM)
    with stop.raised():
        tell(signal.SIGINT)  # while what was interrupted ends its processes


def test_sigint_stays_ignored_where_it_was():
    """As shells start jobs in the background, which a Ctrl-C in the foreground is not for."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    term = signal.getsignal(signal.SIGTERM)
    try:
        Stop().listen()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, term)


CHILD = """
    import multiprocessing, signal
    from mnet_jax.training.stopping import interrupted_alone

    def is_blocked():
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def tell(pipe):
        pipe.send(is_blocked())

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        child = context.Process(target=tell, args=(theirs,))
        with interrupted_alone():
            child.start()
        print(ours.recv(), is_blocked())
"""


def test_ctrl_c_is_blocked_in_a_child_from_its_start_and_not_in_the_parent(tmp_path):
    """The first child, whose start also starts Python's tracker, in a process of its own."""
    (tmp_path / "parent.py").write_text(textwrap.dedent(CHILD))
    done = subprocess.run(
        [sys.executable, "parent.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True False\n", "")


# The command.


def of_the_command(test):
    """Marks a test that runs it, which takes seconds and a core of its own."""
    pinned = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot be pinned")
    return pytest.mark.slow(pinned(test))


@pytest.fixture(scope="module")
def environment(tmp_path_factory, quickly_compiled):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla"))}
    return cache | dict(os.environ)


@pytest.fixture(scope="module")
def call(environment, tmp_path_factory):
    """Calls the program, and gives what `subprocess.run` does.

    A process of its own, instead of a fork, is for what happens while it imports, and for limits
    that the files for its output would have too.
    """
    forking = Forking(PROGRAM, tmp_path_factory.mktemp("streams"), environment)

    def run(moment, directory, number=signal.SIGTERM, *, forks=True):
        arguments = (number.name, moment, directory)
        if forks:
            return forking.call(arguments)
        return subprocess.run(
            [sys.executable, PROGRAM, *arguments],
            capture_output=True, text=True, timeout=600, env=environment,
        )  # fmt: skip

    yield run
    forking.close()


def digest_of(done):
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def uninterrupted(call, tmp_path_factory):
    """Its digest, and how many seconds it takes."""
    start = time.perf_counter()
    done = call("never", tmp_path_factory.mktemp("runs") / "run", forks=False)
    return digest_of(done), time.perf_counter() - start


def steps_taken(output):
    """The last step of the run that a process told of; 0 if it came to none."""
    taken = [line.split()[1:] for line in output.splitlines() if line.startswith("train")]
    return (int(taken[-1][0]) - 1) * STEPS + int(taken[-1][1]) if taken else 0


def last_saved(directory):
    return max((int(p.name) for p in directory.glob("checkpoints/*[0-9]")), default=0)


def goes_on(call, directory, stopped, uninterrupted, number=signal.SIGTERM):
    """Checks how a process was stopped, and what the same command makes of it."""
    assert stopped.returncode == 128 + number, (stopped.stdout, stopped.stderr)
    (line,) = stopped.stderr.splitlines()
    answer = {signal.SIGTERM: "stopped by SIGTERM", signal.SIGINT: "interrupted"}[number]
    assert line.startswith(f"experiments.train: {answer}") and "goes on" in line
    assert last_saved(directory) >= steps_taken(stopped.stdout)
    assert digest_of(call("never", directory)) == uninterrupted[0]


def pytest_generate_tests(metafunc):
    """Each moment with one of the signals; --exhaustive: by SIGTERM at all, by Ctrl-C at some."""
    if "moment" not in metafunc.fixturenames:
        return
    cases = [(moment, signal.SIGINT) for moment in BY_HAND]
    by_term = [moment for moment in MOMENTS if moment not in BY_HAND]
    if metafunc.config.getoption("exhaustive"):
        by_term = MOMENTS
    cases += [(moment, signal.SIGTERM) for moment in by_term]
    metafunc.parametrize(("moment", "number"), cases)


@of_the_command
def test_a_process_told_to_stop_saves_ends_and_goes_on(
    call, uninterrupted, tmp_path, moment, number
):
    stopped = call(moment, tmp_path / "run", number, forks=moment != "importing")
    if moment in NOTHING_TO_SAVE:
        assert steps_taken(stopped.stdout) == 0
        assert not list(tmp_path.glob("run/checkpoints/*"))
    goes_on(call, tmp_path / "run", stopped, uninterrupted, number)


@of_the_command
def test_the_second_ctrl_c_ends_a_process_at_once(call, uninterrupted, tmp_path):
    directory = tmp_path / "run"
    stopped = call("twice", directory, signal.SIGINT)
    assert stopped.returncode == INTERRUPTED
    assert stopped.stderr == "experiments.train: interrupted, the same command goes on\n"
    assert last_saved(directory) < steps_taken(stopped.stdout)  # the save was cut off
    assert digest_of(call("never", directory)) == uninterrupted[0]


@of_the_command
def test_a_process_told_to_stop_while_it_resumes_goes_on(call, uninterrupted, tmp_path):
    directory = tmp_path / "run"
    assert call("stepping 2 4", directory).returncode == TERMINATED
    stopped = call("resuming", directory)
    assert steps_taken(stopped.stdout) == 0
    assert last_saved(directory) == STEPS + 4
    goes_on(call, directory, stopped, uninterrupted)


@of_the_command
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    call, uninterrupted, tmp_path
):
    directory = tmp_path / "run"
    done = call("full", directory, forks=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"experiments.train: {directory}")
    assert last_saved(directory) == STEPS
    assert digest_of(call("never", directory)) == uninterrupted[0]


@of_the_command
def test_a_signal_from_outside_at_any_time(call, environment, uninterrupted, tmp_path):
    directory = tmp_path / "run"
    delay = random.uniform(0.1, 0.8 * uninterrupted[1])
    print(f"SIGTERM after {delay:.3f} s")
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "SIGTERM", "never", directory],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout.readline() == "started\n"
    time.sleep(delay)
    process.terminate()
    output, errors = process.communicate(timeout=600)
    last = output.splitlines()[-1:]  # none, if it was stopped at once
    if last and last[0].startswith("digest"):  # it was quicker this time
        assert last == [uninterrupted[0]]
        # There was nothing to save; a process that is through takes no more signals.
        assert process.returncode in (0, TERMINATED)
        return
    stopped = subprocess.CompletedProcess([], process.returncode, output, errors)
    goes_on(call, directory, stopped, uninterrupted)
