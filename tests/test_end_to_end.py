"""A sweep from the command line to its report, resumed, extended and with an arm that fails."""

import csv
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from messages import call_command
from stored_trials import journal_of

from mnet_jax import process
from mnet_jax.ablation import figure, runners
from mnet_jax.ablation.runners.work import outcome_of
from mnet_jax.ablation.store import Store
from mnet_jax.commands import ablate
from mnet_jax.options import axes, recipes

ROOT = Path(__file__).parents[1]
# The network that compiles soonest.
SMALL = "--model mobilenet_v1 --repeats 1 --width 0.1 --resolution 8 --epochs 1"

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of_the_sweep(out):
    """The lines that are not about what is going on just now."""
    passing = re.compile(r"reading |compiling |\d+ of \d+ trials ended")
    return [line for line in out.splitlines() if not passing.match(line)]


def run_here(configs, runner, directory_of, begun, report):
    """`runners.run` with real trials, but in this process: a worker takes seconds to start."""
    for config in configs:
        begun(config)
        directory = directory_of(config)
        yield outcome_of(runners.train, config, directory, functools.partial(report, config))


@pytest.fixture
def sweep(place, monkeypatch, capfd):
    """Calls `ablate` here: its exit code and the lines that it prints."""
    monkeypatch.setattr(runners, "run", run_here)

    def call(line, others=SMALL):
        words = f"{line} {others} --results R".split()
        code, out, _ = call_command(ablate, words, monkeypatch, capfd)
        return code, of_the_sweep(out)

    return call


def first_call(place):
    """The same as it is typed: in a process of its own, which starts a worker for the trials."""
    alone = f"--cores-per-trial {process.usable_cores()}"
    words = f"--activation relu6 relu --seeds 2 {SMALL} {alone} --results R".split()
    done = subprocess.run(
        [sys.executable, "-m", "experiments.ablate", *words],
        cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, of_the_sweep(done.stdout)


def stored(place):
    """When each trial ended, by its key."""
    return {key: t.finished for key, t in Store(place / "R").read().trials.items()}


def lose(place, key):
    """Takes what the journal tells of a trial out of it."""
    journal = journal_of(place / "R")
    message = [f'"key":"{key}"'.encode(), b'"type":"Trial"']
    lines = journal.read_bytes().splitlines(keepends=True)
    left = [line for line in lines if not all(text in line for text in message)]
    assert len(left) == len(lines) - 1
    journal.write_bytes(b"".join(left))


def arms(place, axis="activation"):
    """The report's arms by name: seeds finished, seeds failed, part of the call."""
    report = json.loads((place / "R" / "report.json").read_text())
    return {
        arm["labels"][axis]: (len(arm["outcomes"]), len(arm["failures"]), arm["requested"])
        for arm in report["arms"]
    }


def key_of_first(place):
    """The key of the baseline's trial with seed 0."""
    trials = Store(place / "R").read().trials
    rate = recipes.baseline("digits").training.learning_rate
    wanted = {"activation": "relu6", "learning_rate": f"{rate:g}"}
    return next(
        key
        for key, trial in trials.items()
        if trial.config.seed == 0 and wanted.items() <= axes.labels(trial.config).items()
    )


@pytest.mark.slow
def test_a_sweep_from_the_command_line_to_its_report(place, sweep, monkeypatch):
    code, lines = first_call(place)
    assert code == 0 and lines[0] == "4 trials to run, 0 of 4 stored in R", lines
    for arm in ("relu6", "relu"):
        assert sum(arm in line.split() for line in lines) == 1, "a row of the table for each arm"
    assert arms(place) == {"relu6": (2, 0, True), "relu": (2, 0, True)}
    trials = stored(place)
    assert len(trials) == 4
    assert len(list(csv.DictReader((place / "R" / "report.csv").open()))) == 2
    assert (place / "R" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "--activation relu6 relu" in (place / "R" / "report.md").read_text()

    journal, report = (place / "R" / name for name in ("journal.jsonl", "report.md"))
    written = journal.read_bytes(), report.read_bytes()
    code, lines = sweep("--activation relu6 relu --seeds 2")
    assert (code, lines[0]) == (0, "0 trials to run, 4 of 4 stored in R")
    assert stored(place) == trials, "nothing is trained again"
    assert (journal.read_bytes(), report.read_bytes()) == written, "nothing new is stored"
    monkeypatch.setattr(figure, "obstacle", lambda: "no more charts: they take a second each")

    code, lines = sweep("--activation relu6 relu --seeds 3")
    assert (code, lines[0]) == (0, "2 trials to run, 4 of 6 stored in R")
    assert arms(place) == {"relu6": (3, 0, True), "relu": (3, 0, True)}
    assert stored(place).items() > trials.items()

    lost = next(iter(trials))
    lose(place, lost)
    code, lines = sweep("--activation relu6 relu --seeds 3")
    assert (code, lines[0]) == (0, "1 trial to run, 5 of 6 stored in R")
    assert lost in stored(place) and len(stored(place)) == 6

    code, lines = sweep("--activation relu6 --seeds 2")
    assert (code, lines[0]) == (0, "0 trials to run, 2 of 2 stored in R")
    assert arms(place) == {"relu6": (3, 0, True), "relu": (3, 0, False)}
    assert [line for line in lines if "mobilenet_v1*" in line and "relu" in line.split()]

    lose(place, key_of_first(place))
    fails = "--learning-rate 1e30 0.05 --seeds 1"  # 0.05 is the baseline's
    code, lines = sweep(fails)
    assert (code, lines[0]) == (1, "2 trials to run, 0 of 2 stored in R")
    assert any("failed, NonFiniteError: step " in line for line in lines)
    assert "seed 0 failed: NonFiniteError: step" in " ".join(" ".join(lines).split())
    failed = [arm for arm in arms(place, "learning_rate").items() if arm[1][1]]
    assert failed == [("1e+30", (0, 1, True))], "a row with its cause, and the others went on"
    trials = stored(place)

    code, lines = sweep(fails)
    assert (code, lines[0]) == (1, "1 trial to run, 1 of 2 stored in R")
    again = stored(place)
    assert len({key for key in again if again[key] != trials[key]}) == 1

    report, table = (place / "R" / "report.json").read_bytes(), lines[2:]
    code, lines = sweep("report", "")
    assert (code, lines) == (0, table), "from what is stored alone"
    assert (place / "R" / "report.json").read_bytes() == report
