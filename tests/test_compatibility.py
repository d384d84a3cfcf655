"""What version 0.1.0 has stored is read, hashed and gone on with as it was then.

`stored_by_0_1_0` was made by that version: a run that was cut off in its second epoch, and the
config, result and model of one that was not; a journal of every kind of event and its report; and
the keys of trials, by what their configs are.
"""

import json
import tarfile
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import safetensors.numpy
from flax import traverse_util

from mnet_jax import models, serialization
from mnet_jax.ablation import events, presets, rendering
from mnet_jax.ablation.arms import Report
from mnet_jax.ablation.events import Started, Sweep, Trial, key_of
from mnet_jax.ablation.preset import SCALES
from mnet_jax.ablation.store import Store
from mnet_jax.commands import planning, sweeps
from mnet_jax.config import RunConfig
from mnet_jax.options import axes, recipes
from mnet_jax.runs.run import run
from mnet_jax.training.results import RunResult

pytestmark = pytest.mark.usefixtures("quickly_compiled")

STORED = Path(__file__).parent / "stored_by_0_1_0"
KEYS = json.loads((STORED / "keys.json").read_text())
JOURNALS = [
    STORED / "journal.jsonl",
    *sorted((STORED.parents[1] / "docs/results").glob("*/journal.jsonl")),
]


def test_a_config_and_a_result_are_the_text_that_they_were():
    for cls, name in ((RunConfig, "config.json"), (RunResult, "result.json")):
        text = (STORED / name).read_text()
        assert serialization.to_json(serialization.from_json(cls, text)) == text.strip()


def test_a_report_is_the_text_that_it_was():
    text = (STORED / "report.json").read_text()
    assert rendering.to_json(serialization.from_json(Report, text)) == text


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.parent.name)
def test_every_line_of_a_journal_is_the_bytes_that_it_was(path):
    lines = path.read_bytes().splitlines(keepends=True)
    found = [events.from_line(line.rstrip(b"\n")) for line in lines]
    assert [events.to_line(event) for event in found] == lines
    for event in found:
        if isinstance(event, Trial):
            assert key_of(event.config) == event.key


def test_a_journal_is_read_whole():
    lines = (STORED / "journal.jsonl").read_bytes().splitlines()
    kinds = [type(events.from_line(line)) for line in lines]
    assert [kinds.count(kind) for kind in (Sweep, Started, Trial)] == [2, 4, 4]
    store = Store(STORED)
    contents = store.read()
    assert not store.complaints and not contents.running
    assert [trial.result is None for trial in contents.trials.values()].count(False) == 2
    wanted = {key_of(config) for config in contents.sweeps[0].configs}
    assert wanted >= {*contents.trials}


def test_a_saved_model_has_the_arrays_and_the_digest_that_its_file_had():
    path = STORED / models.FILE_NAME
    expected = safetensors.numpy.load_file(path)
    loaded = models.load(path)
    found = traverse_util.flatten_dict(loaded.variables, sep="/")
    assert found.keys() == expected.keys()
    assert all((found[name] == array).all() for name, array in expected.items())
    config = serialization.from_json(RunConfig, (STORED / "config.json").read_text())
    assert loaded.model.spec == config.spec and loaded.view.resolution == 8
    trials = Store(STORED).read().trials.values()
    (started,) = {t.config.pretrained.sha256 for t in trials if t.config.pretrained}
    assert models.digest(path) == started


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_the_one_that_was_not(tmp_path):
    """Whatever the checkpoint holds counts: momentum, averages, data order, the epoch so far."""
    with tarfile.open(STORED / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    config = serialization.from_json(RunConfig, (STORED / "config.json").read_text())
    expected = serialization.from_json(RunResult, (STORED / "result.json").read_text())
    before = (tmp_path / "run/scalars.jsonl").read_text()
    steps = []
    found = run(config, tmp_path / "run", report=lambda event: steps.append(event))
    trained = [event for event in steps if event.phase == "train"]
    assert (trained[0].epoch, trained[0].step) == (2, 6), "it goes on from step 5 of epoch 2"
    for now, then in zip(found.history, expected.history, strict=True):
        assert now.train_loss == pytest.approx(then.train_loss, rel=1e-3)
        assert now.validation_loss == pytest.approx(then.validation_loss, rel=1e-3)
    assert found.test_loss == pytest.approx(expected.test_loss, rel=1e-3)
    assert (tmp_path / "run/scalars.jsonl").read_text().startswith(before)


def test_every_recipe_has_the_key_that_it_had():
    found = {
        f"recipe {name}": key_of(recipe.arm.config(10)) for name, recipe in recipes.RECIPES.items()
    }
    start = recipes.baseline("folder")
    for name, sized in recipes.SIZED.items():
        for images in (20, 3000, 600_000):
            found[f"recipe {name}, {images} images"] = key_of(sized.fit(start, images).config(7))
    assert found == of("recipe ")


def test_every_arm_of_a_preset_has_the_key_that_it_had():
    found = {}
    stored = {key.removeprefix("preset ").partition(",")[0] for key in of("preset ")}
    later = {f"{version}-quantization" for version in ("v1", "v2", "v3")}
    assert presets.PRESETS.keys() == stored | later
    for name in stored:
        for scale in SCALES:
            arguments = sweeps.SweepArguments(preset=name, scale=scale)
            for i, arm in enumerate(sweeps.plan(arguments, {}).arms):
                found[f"preset {name}, {scale}, arm {i}"] = key_of(arm.config(10))
    assert found == of("preset ")


def test_every_value_of_an_axis_makes_the_key_that_it_made():
    start, found = planning.baseline(planning.RunArguments()), {}
    (model,) = (axis for axis in axes.AXES if axis.name == "model")
    for name in get_args(model.values):
        own = axes.with_values(start, {"model": name})
        for axis in (*axes.AXES, *axes.RETIRED_AXES):
            for value in some_of(axis.values) if axis is not model else ():
                try:
                    arm = axis.applied(own, value)
                except ValueError:
                    continue
                if arm != own:
                    found[f"{name}, {axis.name} {value}"] = key_of(arm.config(10))
    # A retired axis takes any value now: what it was given once is all that counts.
    later = [
        "quantization",
        "attention",
        "attention_downsampling",
        "layer_scale",
        "crop_share",
        "interpolation",
        "drop_path",
        "clip_norm",
        "update_rms",
        "ema_warmup",
        *(axis.name for axis in axes.RETIRED_AXES),
    ]
    values = ("optimizer lamb", "optimizer muon", "scaling unit")
    added = [name.split(", ") for name in found.keys() - of("mobilenet").keys()]
    assert all(
        "_hybrid_" in network
        or value in values
        or value.split()[0] in later
        or value.endswith(" gelu")
        for network, value in added
    )
    assert found.items() >= of("mobilenet").items()


def some_of(kind):
    """Every value of a closed choice, some numbers of others."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return {bool: (True, False), int: (0, 1, 2, 3, 24), float: (0.0, 0.1, 0.5, 2.0)}[kind]


def of(start):
    return {name: key for name, key in KEYS.items() if name.startswith(start)}
