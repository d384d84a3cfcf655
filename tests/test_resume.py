"""A run that is cut off and resumed is the run that was not, bit for bit, on one pinned core."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lowerings import every_lowering, every_precision

PROGRAM = Path(__file__).with_name("resume_program.py")
PIECES = ("params", "batch_stats", "opt_state", "average", "data")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot be pinned"),
]


def call(mode, directory):
    return subprocess.run(
        [sys.executable, PROGRAM, mode, directory], capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    done = call("all", tmp_path_factory.mktemp("runs"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_repeats_itself(digests):
    assert digests["a"] == digests["b"]


def test_a_run_cut_off_within_an_epoch_and_resumed_equals_the_uninterrupted_one(digests):
    assert digests["cut"] == digests["a"]


@pytest.mark.parametrize("piece", PIECES)
def test_a_checkpoint_without_a_piece_is_noticed(digests, piece):
    assert digests[f"without {piece}"] != digests["a"]


def test_a_killed_process_resumes_to_the_uninterrupted_run(digests, tmp_path):
    assert call("kill", tmp_path).returncode == -signal.SIGKILL
    done = call("resume", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["killed"] == digests["a"]


def test_a_run_stopped_behind_any_step_and_any_batch_equals_the_uninterrupted_one(
    tmp_path, exhaustive
):
    done = call("stops" if exhaustive else "some stops", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    pieces = (*PIECES, "losses") if exhaustive else ("losses",)
    without = {f"without {piece}" for piece in pieces}
    assert len(found) == 1 + (27 if exhaustive else 3) + 1 + (6 if exhaustive else 1) + len(without)
    assert {name for name in found if found[name] != found["whole"]} == without


def test_a_resumed_run_goes_on_augmenting_and_mixing(tmp_path):
    done = call("drawn", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["cut"] == found["whole"]


@pytest.fixture(scope="module")
def lowered(tmp_path_factory):
    """Digests of a whole run and of one that was cut off, by lowering and precision."""
    done = call("lowerings", tmp_path_factory.mktemp("lowered"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@every_precision
@every_lowering
def test_in_every_lowering_and_precision_a_resumed_run_is_the_uninterrupted_one(
    lowered, lowering, precision
):
    whole, cut = lowered[f"{lowering} {precision}"]
    assert cut == whole


def test_lowerings_and_precisions_are_runs_that_differ(lowered):
    runs = ("grouped float32", "shifted float32", "shifted bfloat16")
    assert len({lowered[name][0] for name in runs}) == len(runs)
