"""`ablate status`, `report` and `export`: what is stored, told without training."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from journal_lines import seal
from messages import call_command
from run_results import make_result
from stored_trials import ENVIRONMENT, journal_of, snapshot
from stored_trials import sweep_of as make_sweep

from mnet_jax import serialization
from mnet_jax.ablation import events, figure
from mnet_jax.ablation.events import Trial, failure, success
from mnet_jax.ablation.status import status_of
from mnet_jax.ablation.store import Store
from mnet_jax.commands import ablate
from mnet_jax.options import axes, recipes

ROOT = Path(__file__).parents[2]
ARMS = axes.grid(
    recipes.baseline("digits").config(10), {"bottleneck": ["linear", "relu6"], "width": [0.25, 0.5]}
)
COMMAND = "python -m experiments.ablate --bottleneck linear relu6"
CAUSE = "NonFiniteError: step 4, 'nan' | 1"


def sweep_of(arms, seeds, baseline=ARMS[0], command=COMMAND):
    return make_sweep(command, arms, seeds, baseline, ["bottleneck", "width"])


def trial_of(arm, seed, accuracy):
    return success(seeded(arm, seed), make_result(accuracy), ENVIRONMENT)


def seeded(arm, seed):
    return replace(arm, seed=seed)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three calls of four arms with three seeds; some finished, one failed."""
    monkeypatch.chdir(tmp_path)
    store = Store("R")
    store.append(sweep_of(ARMS[:2], (0, 1)))
    store.append(sweep_of(ARMS, (0, 1, 2), baseline=ARMS[1]))
    for arm in ARMS[:2]:
        for seed in (0, 1):
            store.append(trial_of(arm, seed, 0.5 + 0.1 * seed))
    store.append(failure(seeded(ARMS[2], 1), CAUSE, ENVIRONMENT))
    store.append(sweep_of(ARMS[:2], (0, 1), baseline=ARMS[1], command="the third"))
    return tmp_path


@pytest.fixture
def call(monkeypatch, capfd):
    """Calls `ablate`: exit code, standard output, standard error."""

    def call(line):
        return call_command(ablate, line.split(), monkeypatch, capfd)

    return call


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out the charts, which take most of a report's time."""
    monkeypatch.setattr(figure, "obstacle", lambda: "no charts here")


def rows(out):
    """The table's rows as their words."""
    return [
        line.split() for line in out.splitlines() if line.split()[:1] in (["linear"], ["relu6"])
    ]


def test_every_seed_is_in_one_place(place):
    store = Store("R")
    contents = store.read()
    with Store("R") as other:
        again = seeded(ARMS[2], 1)
        leases = other.lease_trials(contents.trials, [seeded(ARMS[3], 2), again])
        assert [next(leases), next(leases)] == [seeded(ARMS[3], 2), again]
        arms = status_of(contents.sweeps[1], store.read(), axes.labels)
    found = [(arm.finished, tuple(arm.running), arm.failed, arm.not_run) for arm in arms]
    assert found == [
        ((0, 1), (), {}, (2,)),
        ((0, 1), (), {}, (2,)),
        ((), (1,), {}, (0, 2)),
        ((), (2,), {}, (0, 1)),
    ]
    arms = status_of(contents.sweeps[1], store.read(), axes.labels)
    assert [arm.failed for arm in arms] == [{}, {}, {1: CAUSE}, {}]
    assert [arm.not_run for arm in arms] == [(2,), (2,), (0, 2), (0, 1, 2)]


ODDITIES = [  # a change, and whether the charts show anything of it
    ({"command": "ablate --results 'mine"}, False),
    ({"command": "ablate --results '\udcff' \x1b[31m ```\n# title"}, False),
    ({"preset": "no such preset"}, False),
    ({"started": "0001-01-01T00:00:00+00:00"}, False),
    ({"axes": ["width", "width"]}, True),
    ({"axes": []}, True),
    ({"seeds": [0, 0, 10**18]}, True),
    ({"arms": [{"spec": {"name": "mine"}}]}, True),
    ({"baseline": {"spec": {"name": "mine", "width": 0.3}}}, True),
]


def merged(plain, changes):
    """Plain data with some values in its depths replaced, those of all elements of a list."""
    if isinstance(plain, dict) and isinstance(changes, dict):
        return plain | {key: merged(plain.get(key), change) for key, change in changes.items()}
    if isinstance(changes, list) and changes and isinstance(changes[0], dict):
        return [merged(each, changes[0]) for each in plain]
    return changes


@pytest.mark.parametrize(("changes", "charted"), ODDITIES, ids=map(str, range(len(ODDITIES))))
def test_whatever_a_journal_holds_there_is_a_report(place, call, changes, charted, request):
    """Legal, but nothing that a sweep of ours would have written."""
    if not (charted or request.config.getoption("exhaustive")):
        request.getfixturevalue("undrawn")
    plain = json.loads(events.to_line(sweep_of(ARMS, (0, 1))))["event"]
    journal_of(Path("R")).open("ab").write(seal(merged(plain, changes)) + b"\n")
    for action in ("status", "report", "export"):
        code, _, err = call(f"{action} --results R")
        assert (code, err) == (0, "")
    assert {path.name for path in Path("R").iterdir()} >= {"report.md", "report.html"}


def test_no_command_breaks_out_of_its_fence(place, call, undrawn):
    commands = ["ablate '```' x", "ablate '`````'\n```\n# a title"]
    for command in commands:
        Store("R").append(sweep_of(ARMS[:2], (0, 1), command=command))
        assert call("report --results R")[0] == 0
        page = Path("R/report.md").read_text(encoding="utf-8")
        (opening,) = re.findall(r"^(`+)sh$", page, re.MULTILINE)
        shown, after = page.partition(f"{opening}sh\n")[2].split(f"\n{opening}\n", 1)
        assert shown == command and opening not in shown and after.startswith("\n| ")


def test_status_tells_of_every_sweep_once(place, call):
    with Store("R") as other:
        next(other.lease_trials({}, [seeded(ARMS[3], 2)]))
        code, out, err = call("status --results R")
    assert (code, err) == (0, "")
    assert "sweep 1, " not in out, "the third call asked for the same"
    assert f": {COMMAND}\n" in out and ": the third\n" in out
    assert out.index("sweep 2, ") < out.index("sweep 3, ")
    assert rows(out) == [
        ["linear", "0.25", "2", "0", "0", "1"],
        ["linear", "0.5", "2", "0", "0", "1"],
        ["relu6", "0.25", "0", "1", "0", "2"],
        ["relu6", "0.5", "0", "0", "1", "2"],
        ["linear", "0.25", "2", "0", "0", "0"],
        ["linear", "0.5", "2", "0", "0", "0"],
    ]
    assert f"relu6, 0.25: seed 1 failed: {CAUSE}\n" in out
    assert "relu6, 0.5: seed 2 running since 20" in out and f"process {os.getpid()} on " in out


def test_status_of_one_sweep(place, call):
    code, out, _ = call("status --results R --sweep 1")
    assert code == 0 and len(rows(out)) == 2 and "sweep 1, " in out


def test_report_is_made_again_of_the_last_sweep_or_another(place, call, undrawn):
    code, out, err = call("report --results R")
    assert (code, err) == (0, "")
    assert "the third" in (place / "R" / "report.md").read_text()
    report = json.loads((place / "R" / "report.json").read_text())
    arms = {(a["labels"]["bottleneck"], a["labels"]["width"]): a for a in report["arms"]}
    assert {name: arm["requested"] for name, arm in arms.items()} == {
        ("linear", "0.25"): True, ("linear", "0.5"): True, ("relu6", "0.25"): False,
    }  # fmt: skip
    assert arms["linear", "0.5"]["baseline"] and "R/report.html" in out
    assert arms["linear", "0.25"]["accuracy"]["mean"] == pytest.approx(0.55)

    code, out, _ = call("report --results R --sweep 2")
    assert code == 0 and f"{COMMAND}\n" in (place / "R" / "report.md").read_text()
    report = json.loads((place / "R" / "report.json").read_text())
    assert [arm["not_run"] for arm in report["arms"]] == [[2], [2], [0, 2], [0, 1, 2]]
    assert CAUSE.split(",")[0] in out


def test_export_has_a_row_for_each_trial(place, call):
    code, out, err = call("export --results R")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["5 trials in R/trials.csv", "5 trials in R/trials.json"]
    trials = [*Store("R").read().trials.values()]
    with (place / "R" / "trials.csv").open(newline="") as file:
        table = [*csv.DictReader(file)]
    assert len(table) == 5
    for row, trial in zip(table, trials, strict=True):
        labels = axes.labels(trial.config)
        assert {axis: row[axis] for axis in labels} == labels
        assert (row["key"], row["seed"]) == (trial.key, str(trial.config.seed))
        assert (row["cause"] or None, row["finished"]) == (trial.cause, trial.finished)
        if result := trial.result:
            assert float(row["accuracy"]) == result.test_accuracy
            assert float(row["loss"]) == result.test_loss
            assert float(row["seconds"]) == result.seconds
            assert float(row["images_per_second"]) == result.images_per_second
            counts = (result.test_count, result.params, result.madds)
            assert (row["test_count"], row["params"], row["madds"]) == tuple(map(str, counts))
        else:
            assert row["accuracy"] == row["params"] == row["seconds"] == ""
    plain = json.loads((place / "R" / "trials.json").read_text())
    for own, trial in zip(plain, trials, strict=True):
        assert own.pop("labels") == axes.labels(trial.config)
        assert serialization.from_plain(Trial, own) == trial


@pytest.mark.parametrize("action", ["status", "report", "export"])
def test_damage_is_told_and_does_not_stop_anything(place, call, undrawn, action):
    journal = journal_of(place / "R")
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"0.5", b"0.6")
    journal.write_bytes(b"".join(lines)[:-20])
    code, out, err = call(f"{action} --results R")
    assert code == 0 and out
    assert [line.partition(": ")[2].split(": ")[0] for line in err.splitlines()] == [
        "R/journal.jsonl, line 3", "R/journal.jsonl, line 8",
    ]  # fmt: skip
    assert journal.read_bytes() == b"".join(lines)[:-20]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("status --results nowhere", "--results: got 'nowhere', legal: a directory with a journal"),
        ("report --results empty", "--results: got 'empty', legal: a directory with a journal"),
        ("export --results file", "--results: got 'file', legal: a directory with a journal"),
        ("report --results trials", "--results: got 'trials', legal: a journal with a sweep"),
        ("report --results trials --sweep 1", "--sweep: got 1, legal: none, the journal has no"),
        ("report --results R --sweep 4", "--sweep: got 4, legal: 1 to 3"),
        ("report --results R --sweep 0", "--sweep: got 0, legal: 1 to 3"),
        ("status --results R --sweep x", "--sweep: got 'x', legal: whole numbers"),
        ("export --results R --sweep 1", "--sweep: got 1, legal: none for export"),
        ("status --resluts R", "--resluts: no such flag, the nearest: --results"),
        ("status report", "--action: got 'status report', legal: one value of status, report"),
        ("status --bottleneck linear", "--bottleneck: no such flag"),
    ],
)
def test_bad_input_is_one_line(place, call, line, message):
    (place / "empty").mkdir()
    (place / "file").write_text("no journal")
    Store("trials").append(trial_of(ARMS[0], 0, 0.5))
    before = snapshot(place)
    code, out, err = call(line)
    assert (code, out) == (2, "")
    assert err.startswith(f"experiments.ablate: {message}") and err.count("\n") == 1, err
    assert snapshot(place) == before


def test_what_only_reads_does_not_wait_for_jax(place):
    program = (
        "import sys\n"
        "from mnet_jax.commands import ablate\n"
        "for action in ('status', 'report', 'export'):\n"
        "    sys.argv = ['ablate', action, '--results', 'R']\n"
        "    ablate.main()\n"
        "    assert not {'jax', 'flax', 'tensorflow_datasets'} & {*sys.modules}, action\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_help(place, call):
    for line in ("--help", "status --help"):
        code, out, _ = call(line)
        assert code == 0 and "status" in out and "export" in out and "--results" in out
