"""One training on other numbers of devices and processes, and on fewer in the middle of it."""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import one_line

from experiments import processes, supervision
from experiments.processes import ProcessArguments, require_processes
from mnet_jax.training.stopping import INTERRUPTED, TERMINATED

PROGRAM = Path(__file__).with_name("processes_program.py")
ROOT = PROGRAM.parents[1]
# Relative; float32 sums over the batch are taken in another order, and nothing else differs.
TOLERANCE = 1e-3
STEPS, EPOCHS = 3, 3
# What a survivor may take to notice and to end, on a machine that is busy.
NOTICE_SECONDS = processes.HEARTBEAT_SECONDS + 15

slow = pytest.mark.slow


def started(directory, flags, **environment):
    """A process of the command."""
    known = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{PROGRAM.parent}",
        "KILL": "",
        "SIGNAL": "SIGKILL",
        "DEVICES": "1",
    }
    return subprocess.Popen(
        [sys.executable, PROGRAM, "--run", str(directory), *flags],
        cwd=ROOT,
        env=os.environ | known | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def pair(directory, orders, *, killed=None, at="", by="SIGKILL"):
    """Two processes that have joined, one of which may send itself a signal at `epoch,step`.

    Returns:
      Of each its exit code, when it ended, and what it said on standard error.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    joined = [
        started(
            directory,
            ["--coordinator", address, "--processes", "2", "--process-id", str(i)],
            ORDER=str(orders / f"{directory.name}-{i}"),
            KILL=at if i == killed else "",
            SIGNAL=by,
        )
        for i in range(2)
    ]
    ends = [0.0, 0.0]
    deadline = time.monotonic() + 400
    with contextlib.ExitStack() as stack:
        for process in joined:
            stack.callback(process.kill)
        while not all(ends):
            assert time.monotonic() < deadline, "one of them hangs"
            time.sleep(0.1)
            for i, process in enumerate(joined):
                if not ends[i] and process.poll() is not None:
                    ends[i] = time.monotonic()
        said = [process.communicate()[1] for process in joined]
    codes = [process.returncode for process in joined]
    return list(zip(codes, ends, said, strict=True))


def alone(directory, orders, *, devices=1, at=""):
    """One process to its end; its exit code."""
    order = str(orders / f"{directory.name}-alone")
    process = started(directory, [], ORDER=order, DEVICES=str(devices), KILL=at)
    _, said = process.communicate(timeout=400)
    assert process.returncode in (0, -9), said
    return process.returncode


def batches(path):
    return [line.split() for line in path.read_text().splitlines()]


def losses(directory):
    lines = [json.loads(line) for line in (directory / "scalars.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    return [line[name] for line in lines for name in ("train_loss", "validation_loss")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run on one device from its start to its end: its losses and its batches."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    orders = directory.parent
    assert alone(directory, orders) == 0
    order = batches(orders / "run-alone")
    assert len(order) == STEPS * EPOCHS
    assert len({tuple(batch) for batch in order}) == len(order)
    return losses(directory), order


def assert_survivor_left(survivor, killed):
    (code, end, said), (killed_code, killed_end, _) = survivor, killed
    assert killed_code == -9
    assert code not in (0, -9)
    assert end - killed_end < NOTICE_SECONDS
    (line,) = said.splitlines()
    assert line == f"experiments.train: {supervision.GONE}"


def shares(orders, name):
    """The batches of a pair, the shares of the two side by side."""
    both = [batches(orders / f"{name}-{i}") for i in range(2)]
    return [[*first, *second] for first, second in zip(*both, strict=False)]


@slow
def test_a_killed_process_ends_both_and_one_goes_on(tmp_path, whole):
    """Two processes, the second killed in the third epoch; then one to the end."""
    expected, order = whole
    survivor, killed = pair(tmp_path / "run", tmp_path, killed=1, at="3,1")
    assert_survivor_left(survivor, killed)
    seen = shares(tmp_path, "run")
    assert seen == order[: len(seen)]
    assert len(seen) > 2 * STEPS
    assert alone(tmp_path / "run", tmp_path) == 0
    left = batches(tmp_path / "run-alone")
    assert left == order[-len(left) :]
    assert len(left) in (STEPS, 2 * STEPS), "the last save may not have been through"
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=TOLERANCE)


@slow
def test_a_killed_coordinator_ends_both_and_two_go_on(tmp_path, whole):
    expected, order = whole
    killed, survivor = pair(tmp_path / "run", tmp_path, killed=0, at="2,2")
    assert_survivor_left(survivor, killed)
    for i in range(2):
        (tmp_path / f"run-{i}").unlink()
    for code, _, said in pair(tmp_path / "run", tmp_path):
        assert code == 0
        assert "experiments.train" not in said
    left = shares(tmp_path, "run")
    assert left == order[-len(left) :]
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=TOLERANCE)


@slow
def test_a_process_that_is_told_to_stop_stops_both_and_none_of_their_steps_is_lost(tmp_path, whole):
    expected, order = whole
    both = pair(tmp_path / "run", tmp_path, killed=1, at="2,2", by="SIGTERM")
    assert [code for code, _, _ in both] == [TERMINATED] * 2
    assert len(shares(tmp_path, "run")) == STEPS + 2
    assert alone(tmp_path / "run", tmp_path) == 0
    assert batches(tmp_path / "run-alone") == order[STEPS + 2 :]
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=TOLERANCE)


@slow
def test_ctrl_c_to_one_process_stops_both(tmp_path):
    both = pair(tmp_path / "run", tmp_path, killed=1, at="1,2", by="SIGINT")
    assert [code for code, _, _ in both] == [INTERRUPTED] * 2
    for _, _, said in both:
        told = "interrupted, the run is saved, the same command goes on"
        assert said == f"experiments.train: {told}\n"


@slow
def test_a_run_goes_on_with_fewer_devices(tmp_path, whole):
    """Eight for an epoch and a bit, four for the next, one for the last."""
    expected, order = whole
    directory = tmp_path / "run"
    assert alone(directory, tmp_path, devices=8, at="2,2") == -9
    assert alone(directory, tmp_path, devices=4, at="3,2") == -9
    assert alone(directory, tmp_path) == 0
    seen = batches(tmp_path / "run-alone")
    assert all(batch in order for batch in seen)
    assert seen[0] == order[0]
    assert seen[-STEPS:] == order[-STEPS:]
    assert losses(directory) == pytest.approx(expected, rel=TOLERANCE)


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
