"""A run and a trial know which files of a folder they are of, and those from before keep theirs."""

import dataclasses
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from messages import one_line
from PIL import Image

from mnet_jax import data, serialization
from mnet_jax.ablation.events import success
from mnet_jax.ablation.report import summarize
from mnet_jax.ablation.store import Store, comparable, key_of
from mnet_jax.commands import planning, trained_models
from mnet_jax.config import FILE_NAME, SPLIT_BY_POSITION, Arm, RunConfig
from mnet_jax.runs.run import run
from mnet_jax.training.checkpoints.checkpoint import CheckpointError
from mnet_jax.training.results import RunResult

# Made by the code of before there were listings: 21 images, a run of 2 epochs that was cut off
# after the first one, what it came to where it was not, its test split, and a journal.
BEFORE = Path(__file__).parents[1] / "folder_run_without_listing.tar.xz"


@pytest.fixture
def before(tmp_path, monkeypatch):
    with tarfile.open(BEFORE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(before):
    return serialization.from_json(RunConfig, (before / FILE_NAME).read_text())


def listed(config):
    listing = data.load(config.data).listing
    return dataclasses.replace(config, data=dataclasses.replace(config.data, listing=listing))


def add_image():
    Image.new("RGB", (8, 8), (60, 60, 60)).save("images/cat/new.png")


def test_a_config_from_before_is_what_it_was(before):
    text = (before / FILE_NAME).read_text()
    assert serialization.to_json(serialization.from_json(RunConfig, text)) == text.strip()


@pytest.mark.slow
def test_a_run_from_before_goes_on_with_its_own_split(before, caplog):
    config = config_of(before)
    expected = serialization.from_json(RunResult, (before / "result.json").read_text())
    found = run(config, before / "run")
    assert found.history[1].train_loss == pytest.approx(expected.history[1].train_loss, rel=1e-3)
    assert found.test_loss == pytest.approx(expected.test_loss, rel=1e-3)
    assert (found.test_count, len(found.history)) == (4, 2)
    (message,) = [r.getMessage() for r in caplog.records if "an earlier version" in r.getMessage()]
    assert "\n" not in message and "its own test split" in message
    kept = serialization.from_json(RunConfig, (before / "run" / FILE_NAME).read_text())
    assert kept == config
    again = run(listed(config), before / "run")  # as a command asks for it today
    assert again.test_loss == pytest.approx(found.test_loss)


def test_models_from_before_are_tested_on_what_they_were_not_trained_on(before):
    (before / "run" / FILE_NAME).write_text((before / FILE_NAME).read_text())
    of = config_of(before).data
    listing = trained_models.listing_for(before / "run", "folder")
    assert listing == SPLIT_BY_POSITION
    dataset = data.load(dataclasses.replace(of, listing=listing))
    held = json.loads((before / "test_split.json").read_text())
    pixels = {Image.open(before / "images" / name).convert("RGB").tobytes() for name in held}
    assert {dataset.test[i]["image"].tobytes() for i in range(len(dataset.test))} == pixels
    assert trained_models.listing_for(before / "run", "digits") == ""


def test_a_run_whose_folder_changed_is_refused(before):
    config, place = config_of(before), before / "another"
    first = run(config, place)
    kept = serialization.from_json(RunConfig, (place / FILE_NAME).read_text())
    assert kept == listed(config), "a caller need not list the files"
    assert trained_models.listing_for(place, "folder") == ""
    add_image()
    now = data.load(config.data).listing
    one_line(
        CheckpointError, lambda: run(config, place),
        f"data.listing: got {now}, but", f"holds a run with {kept.data.listing}", "as they were",
    )  # fmt: skip
    one_line(data.DataError, lambda: run(kept, place), now, kept.data.listing)
    Path("images/cat/new.png").unlink()
    assert run(config, place).test_accuracy == first.test_accuracy


def test_trials_from_before_are_other_trials_than_those_of_today(before):
    Path("results").mkdir()
    shutil.copy("journal.jsonl", "results/journal.jsonl")
    store = Store("results")
    contents = store.read()
    assert not store.complaints and len(contents.trials) == 2
    for key, trial in contents.trials.items():
        assert key == key_of(trial.config)
    old = [trial.config for trial in contents.trials.values()]
    today = [listed(config) for config in old]
    add_image()
    changed = [listed(config) for config in old]
    assert len({key_of(config) for config in [*old, *today, *changed]}) == 6
    result = next(iter(contents.trials.values())).result
    for config in (*today, *changed):
        store.append(success(config, result, {}))
    trials = store.read().trials
    for configs in (old, today, changed):
        shown = comparable(trials, configs)
        assert {trial.config for trial in shown} == {*configs}
    report = summarize(
        trials.values(),
        today,
        lambda config: {"model": config.spec.name},
        baseline=Arm.of(today[0]),
    )
    assert [arm.seeds for arm in report.arms] == [(0, 1)] * 3, "no arm is of two listings"
    assert len({report.name_of(arm) for arm in report.arms}) == 3


def test_a_command_plans_its_runs_of_the_files_that_are_there(before):
    arguments = planning.RunArguments(dataset="folder", data_dir="images")
    images = planning.baseline(arguments).data
    found = planning.load(images)
    assert found.num_classes == 2 and found.listing
    add_image()
    assert planning.load(images).listing != found.listing
