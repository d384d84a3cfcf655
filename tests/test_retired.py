"""Fields that no run takes any more: what was made with them is read and reported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from messages import one_line
from tiny_network import make_tiny_spec

from mnet_jax import data, serialization
from mnet_jax.ablation.report import summarize
from mnet_jax.ablation.store import Store, key_of
from mnet_jax.config import DataConfig, RunConfig
from mnet_jax.options.axes import labels
from mnet_jax.runs.run import run

JOURNAL = Path(__file__).parent.parent / "docs" / "results" / "fashion-mnist" / "journal.jsonl"


@pytest.fixture
def published(tmp_path):
    """A journal of an earlier version: the events as JSON, and what the store makes of them."""
    shutil.copy(JOURNAL, tmp_path)
    store = Store(tmp_path)
    contents = store.read()
    assert not store.complaints
    return [json.loads(line)["event"] for line in JOURNAL.read_text().splitlines()], contents


def test_trials_of_images_that_grew_keep_their_keys_and_text(published):
    events, contents = published
    stored = {event["key"]: event["config"] for event in events if event["type"] == "Trial"}
    assert {c["data"].get("start_resolution", 0) for c in stored.values()} == {0, 16}
    assert contents.trials.keys() == stored.keys()
    for key, trial in contents.trials.items():
        assert key_of(trial.config) == key
        assert serialization.to_plain(trial.config) == stored[key]


def test_their_report_says_from_which_side_they_grew(published):
    events, contents = published
    trials = contents.trials.values()
    sides = {
        event["key"]: event["config"]["data"].get("start_resolution") or "-"
        for event in events
        if event["type"] == "Trial"
    }
    requested = [trial.config for trial in trials]
    report = summarize(trials, requested, labels, baseline=None)
    assert "start_resolution" in report.columns and len(report.arms) == 3
    for arm in report.arms:
        own = {str(sides[t.key]) for t in trials if replace(t.config, seed=0) == arm.config}
        assert own == {arm.labels["start_resolution"]}


def test_a_sweep_over_it_is_reported_with_its_column(published):
    events, contents = published
    (varied,) = [e for e in events if e["type"] == "Sweep" and "start_resolution" in e["axes"]]
    requested = [trial.config for trial in contents.trials.values()]
    report = summarize(
        contents.trials.values(),
        requested,
        lambda config: labels(config, varied["axes"]),
        baseline=None,
        named_axes=varied["axes"],
    )
    assert report.columns[:2] == ("start_resolution", "epochs")
    assert {arm.labels["start_resolution"] for arm in report.arms} == {"0", "16"}


def test_no_run_takes_it(tmp_path):
    images = DataConfig(name="digits", resolution=16, start_resolution=8)
    source = data.ArraySource(np.zeros((4, 16, 16, 1), np.uint8), np.zeros(4, np.int32))
    for call in (
        lambda: data.train_batches(source, images, seed=0),
        lambda: data.first_images(source, images, 0, np.arange(2)),
        lambda: run(RunConfig(spec=make_tiny_spec(), data=images), tmp_path / "run"),
    ):
        one_line(ValueError, call, "start_resolution: got 8, legal: 0, as images no longer grow")
