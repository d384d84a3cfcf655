"""Files that cannot be vouched for are reported, kept and not used."""

import hashlib
import json
import math
from pathlib import Path

import pytest
from stored_trials import make_trial, path_of, snapshot

from mnet_jax.ablation.store import Store, missing


def _edit(path, change):
    sealed = json.loads(path.read_text())
    change(sealed["trial"])
    path.write_text(json.dumps(sealed))


def _edit_and_seal(path, change):
    """An edit by someone who knows the format, or a file of another version."""
    sealed = json.loads(path.read_text())
    change(sealed["trial"])
    canonical = json.dumps(sealed["trial"], sort_keys=True, separators=(",", ":"))
    sealed["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(sealed))


def _nest(plain, *path_and_value):
    *path, last, value = path_and_value
    for step in path:
        plain = plain[step]
    plain[last] = value


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "zeros": lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a list": lambda path: path.write_text("[]"),
    "too deep": lambda path: path.write_text("[" * 100_000),
    "other JSON": lambda path: path.write_text('{"accuracy": 1}'),
    "accuracy": lambda path: _edit(path, lambda t: _nest(t, "result", "test_accuracy", 0.99)),
    "NaN": lambda path: _edit(path, lambda t: _nest(t, "result", "test_accuracy", math.nan)),
    "seed": lambda path: _edit_and_seal(path, lambda t: _nest(t, "config", "seed", 7)),
    "illegal": lambda path: _edit_and_seal(path, lambda t: _nest(t, "config", "seed", -1)),
    "unknown field": lambda path: _edit_and_seal(path, lambda t: _nest(t, "result", "f1", 0.5)),
    "no result": lambda path: _edit_and_seal(path, lambda t: _nest(t, "result", None)),
    "text": lambda path: _edit_and_seal(path, lambda t: _nest(t, "result", "params", "5")),
    "local time": lambda path: _edit_and_seal(
        path, lambda t: _nest(t, "finished", "2026-01-01T10:00:00+02:00")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_doubtful_file_is_reported_and_kept(tmp_path, damage):
    good, bad = make_trial(0), make_trial(1)
    trials = Store(tmp_path)
    trials.write(good)
    trials.write(bad)
    damage(path_of(tmp_path, bad))
    before = snapshot(tmp_path)
    found, complaints = trials.read()
    assert found == {good.key: good}
    assert len(complaints) == 1
    assert complaints[0].startswith(f"{path_of(tmp_path, bad)}: not used, ")
    assert "\n" not in complaints[0]
    assert missing(found, [good.config, bad.config]) == (bad.config,)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("damage", ["torn", "seed", "too deep"])
def test_running_it_again_sets_the_doubtful_file_aside(tmp_path, damage):
    trial = make_trial()
    trials = Store(tmp_path)
    trials.write(trial)
    DAMAGES[damage](path_of(tmp_path, trial))
    evidence = path_of(tmp_path, trial).read_bytes()
    trials.write(trial)
    assert trials.read() == ({trial.key: trial}, ())
    assert evidence in snapshot(tmp_path).values()


def test_a_copy_under_another_name_is_foreign(tmp_path):
    trial, other = make_trial(0), make_trial(1)
    Store(tmp_path).write(trial)
    path_of(tmp_path, trial).rename(path_of(tmp_path, other))
    found, complaints = Store(tmp_path).read()
    assert found == {}
    assert trial.key in complaints[0]


def test_what_is_no_file_and_what_is_no_json(tmp_path):
    trial = make_trial()
    Store(tmp_path).write(trial)
    (tmp_path / "trials" / "notes.txt").write_text("mine")
    (tmp_path / "trials" / "folder.json").mkdir()
    found, complaints = Store(tmp_path).read()
    assert list(found) == [trial.key]
    assert [Path(line.split(":")[0]).name for line in complaints] == ["folder.json"]
