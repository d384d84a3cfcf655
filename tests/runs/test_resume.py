"""A run that is cut off and resumed is the run that was not, bit for bit, on one pinned core."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from lowerings import AVAILABLE

from mnet_jax.training.types import Precision

PROGRAM = Path(__file__).parents[1] / "support" / "resume_program.py"
PIECES = ("params", "batch_stats", "opt_state", "average", "data", "losses")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot be pinned"),
]


@pytest.fixture(scope="module")
def digests(tmp_path_factory, pytestconfig, quickly_compiled):
    """The digests of all runs."""
    mode = "exhaustive" if pytestconfig.getoption("exhaustive") else "some"
    command = [sys.executable, PROGRAM, mode, tmp_path_factory.mktemp("runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_repeats_itself(digests):
    assert digests["again"] == digests["whole"]


def test_a_run_cut_off_within_an_epoch_and_resumed_equals_the_uninterrupted_one(digests):
    assert digests["cut"] == digests["whole"]


def test_a_killed_process_resumes_to_the_uninterrupted_run(digests):
    assert digests["the kill"] == -signal.SIGKILL
    assert digests["killed"] == digests["whole"]


@pytest.mark.parametrize("piece", PIECES)
def test_a_checkpoint_without_a_piece_is_noticed(digests, piece):
    assert digests[f"without {piece}"] != digests["whole"]


def test_a_run_stopped_behind_any_step_and_any_batch_equals_the_uninterrupted_one(
    digests, exhaustive
):
    stopped = {name: found for name, found in digests.items() if name.startswith("stopped")}
    assert len(stopped) == (1 + 1 + 27 + 6 if exhaustive else 1)
    assert {name for name in stopped if stopped[name] != digests["whole"]} == set()


def test_a_resumed_run_goes_on_augmenting_and_mixing(digests):
    assert digests["drawn cut"] == digests["drawn"]


def test_in_every_lowering_and_precision_a_resumed_run_is_the_uninterrupted_one(
    digests, exhaustive
):
    """By default in a cover of the pairs; the runs of the other tests are "auto float32"."""
    lowered = digests["lowered"]
    pairs = {tuple(name.split()) for name in lowered}
    if exhaustive:
        assert pairs == {*itertools.product(AVAILABLE, get_args(Precision))}
    assert {lowering for lowering, _ in pairs} >= {*AVAILABLE} - {"auto"}
    assert {precision for _, precision in pairs} == {*get_args(Precision)}
    assert [name for name, (whole, cut) in lowered.items() if cut != whole] == []


def test_lowerings_and_precisions_are_runs_that_differ(digests):
    runs = ("grouped float32", "shifted float32", "shifted bfloat16")
    assert len({digests["lowered"][name][0] for name in runs}) == len(runs)
