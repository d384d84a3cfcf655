"""One training on other numbers of devices and processes, and on fewer in the middle of it."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from forking import Forking
from messages import one_line

from mnet_jax.commands import processes, supervision
from mnet_jax.commands.processes import ProcessArguments, require_processes
from mnet_jax.training.stopping import INTERRUPTED, TERMINATED

PROGRAM = Path(__file__).parents[1] / "support" / "processes_program.py"
ROOT = PROGRAM.parents[2]
# Relative; float32 sums over the batch are taken in another order, and nothing else differs.
TOLERANCE = 1e-3
STEPS, EPOCHS = 3, 3
# What a survivor may take to notice and to end, on a machine that is busy.
NOTICE_SECONDS = processes.HEARTBEAT_SECONDS + 15

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def call(request, tmp_path_factory):
    """Calls the command as `process` 0 or 1 of those at a time; gives what `subprocess.run` does.

    Unless it `forks`, or with --exhaustive, it is a process of its own.
    """
    fixed = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{PROGRAM.parent}"}
    known = {"KILL": "", "SIGNAL": "SIGKILL", "DEVICES": "1"}
    forking = [Forking(PROGRAM, tmp_path_factory.mktemp("streams"), fixed) for _ in range(2)]

    def run(flags, *, process=0, forks=True, **changes):
        if forks and not request.config.getoption("exhaustive"):
            return forking[process].call(flags, **known | changes)
        return subprocess.run(
            [sys.executable, PROGRAM, *map(str, flags)],
            env=fixed | known | changes, capture_output=True, text=True, timeout=400,
        )  # fmt: skip

    yield run
    for each in forking:
        each.close()


@pytest.fixture
def pair(call, tmp_path):
    """A function that runs two processes that join.

    One of them may send itself a signal at `epoch,step`. Of each it returns the exit code, when it
    ended, and what it said on standard error.
    """

    def run(*, devices=1, killed=None, at="", by="SIGKILL", forks=True):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"

        def one(i):
            joining = ["--coordinator", address, "--processes", 2, "--process-id", i]
            done = call(
                ["--run", tmp_path / "run", *joining],
                process=i,
                forks=forks,
                ORDER=str(tmp_path / f"order-{i}"),
                DEVICES=str(devices),
                KILL=at if i == killed else "",
                SIGNAL=by,
            )
            return done.returncode, time.monotonic(), done.stderr

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(2)))

    return run


def alone(call, directory, *, devices=1, at=""):
    """One process to its end; its exit code."""
    order = str(directory.parent / "order")
    done = call(["--run", directory], ORDER=order, DEVICES=str(devices), KILL=at)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


def batches(path):
    """The batches that a process has noted; the next one begins a new list."""
    lines = path.read_text().splitlines()
    path.unlink()
    return [line.split() for line in lines]


def losses(directory):
    lines = [json.loads(line) for line in (directory / "scalars.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    return [line[name] for line in lines for name in ("train_loss", "validation_loss")]


@pytest.fixture(scope="module")
def whole(call, tmp_path_factory):
    """A run on one device from its start to its end: its losses and its batches."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert alone(call, directory) == 0
    order = batches(directory.parent / "order")
    assert len(order) == STEPS * EPOCHS
    assert len({tuple(batch) for batch in order}) == len(order)
    return losses(directory), order


def assert_survivor_left(survivor, killed):
    (code, end, output), (killed_code, killed_end, _) = survivor, killed
    assert killed_code == -9
    assert code not in (0, -9)
    assert end - killed_end < NOTICE_SECONDS
    (line,) = output.splitlines()
    assert line == f"experiments.train: {supervision.GONE}"


def shares(directory):
    """The batches of a pair, the shares of the two side by side."""
    both = [batches(directory / f"order-{i}") for i in range(2)]
    return [[*first, *second] for first, second in zip(*both, strict=False)]


@slow
def test_a_killed_process_ends_both_and_two_go_on(pair, tmp_path, whole):
    """The coordinator is killed in the second epoch, and the other one in the third."""
    expected, order = whole
    killed, survivor = pair(killed=0, at="2,2", forks=False)
    assert_survivor_left(survivor, killed)
    seen = shares(tmp_path)
    assert seen == order[: len(seen)]
    assert len(seen) > STEPS
    survivor, killed = pair(killed=1, at="3,1")
    assert_survivor_left(survivor, killed)
    seen = shares(tmp_path)
    assert len(seen) > STEPS and seen[0] in (order[0], order[STEPS])
    assert seen == order[order.index(seen[0]) :][: len(seen)]
    for code, _, output in pair():
        assert code == 0
        assert "experiments.train" not in output
    left = shares(tmp_path)
    assert left == order[-len(left) :]
    assert len(left) in (STEPS, 2 * STEPS), "the last save may not have been through"
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=TOLERANCE)


@slow
def test_a_process_that_is_told_to_stop_stops_both_and_fewer_devices_go_on(
    call, pair, tmp_path, whole
):
    """Two processes of four devices lose no step; one of four is killed; one of one ends it."""
    expected, order = whole
    directory = tmp_path / "run"
    both = pair(devices=4, killed=1, at="2,2", by="SIGTERM")
    assert [code for code, _, _ in both] == [TERMINATED] * 2
    taken = STEPS + 2
    assert shares(tmp_path) == order[:taken]
    assert alone(call, directory, devices=4, at="3,2") == -9
    seen = batches(tmp_path / "order")
    assert seen == order[taken:][: len(seen)]
    assert alone(call, directory) == 0
    left = batches(tmp_path / "order")
    assert left == order[-len(left) :]
    assert len(left) in (STEPS, STEPS + 1), "the last save may not have been through"
    assert losses(directory) == pytest.approx(expected, rel=TOLERANCE)


@slow
def test_ctrl_c_to_one_process_stops_both(pair):
    both = pair(killed=1, at="1,2", by="SIGINT")
    assert [code for code, _, _ in both] == [INTERRUPTED] * 2
    for _, _, output in both:
        message = "interrupted, the run is saved, the same command goes on"
        assert output == f"experiments.train: {message}\n"


GOOD = ProcessArguments(coordinator="10.0.0.1:1234", processes=2, process_id=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"coordinator": "10.0.0.1"}, ["coordinator: got '10.0.0.1'", "HOST:PORT"]),
        ({"coordinator": "host:99999"}, ["coordinator: got", "HOST:PORT"]),
        ({"coordinator": None}, ["processes: got 2", "with a coordinator only"]),
        ({"coordinator": None, "processes": None}, ["process_id: got 1", "with a coordinator"]),
        ({"processes": None}, ["processes: got None", "1 or more"]),
        ({"processes": 0}, ["processes: got 0", "1 or more"]),
        ({"process_id": 2}, ["process_id: got 2", "from 0 to 1"]),
        ({"process_id": None}, ["process_id: got None", "from 0 to 1"]),
        ({"cluster": True}, ["coordinator: got", "none with --cluster"]),
    ],
)
def test_flags_that_name_no_process_are_refused(change, words):
    require_processes(GOOD)
    require_processes(ProcessArguments())
    require_processes(ProcessArguments(cluster=True))
    arguments = dataclasses.replace(GOOD, **change)
    one_line(ValueError, lambda: require_processes(arguments), *words)


def test_where_there_is_no_cluster_that_is_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", "--run", str(tmp_path), "--cluster"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("experiments.train: --cluster: got True, legal: in a process that a TPU")
