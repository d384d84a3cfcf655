"""What a checkpoint refuses: another config, another network, a state that is not finite."""

import dataclasses
import functools
import json
import math
import os
import re
import resource
import shutil
import sys
import warnings
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_results import make_result
from tiny_network import make_tiny_spec

from mnet_jax import data, models
from mnet_jax.architectures import transforms
from mnet_jax.config import Constant, DataConfig, RunConfig, TrainingConfig
from mnet_jax.training import optimizer
from mnet_jax.training.checkpoints import manifest
from mnet_jax.training.checkpoints.checkpoint import CheckpointError, Checkpoints, SavingError
from mnet_jax.training.checkpoints.position import FILE_NAME as POSITION
from mnet_jax.training.checkpoints.position import PositionHandler, RestorePosition
from mnet_jax.training.epoch import EpochProgress
from mnet_jax.training.hyperparameters import Hyperparameters, StaticRecipe
from mnet_jax.training.monitoring import NonFiniteStateError
from mnet_jax.training.step import initial_state
from mnet_jax.validation import one_line

CONFIG = RunConfig(spec=make_tiny_spec(), data=DataConfig(resolution=8, batch_size=64))


@functools.cache
def state_of(spec):
    """A first state of ones: values do not matter here, shapes do."""
    model = models.MobileNet(spec=spec)
    image = jnp.zeros((1, 8, 8, 3))
    shapes = jax.eval_shape(lambda k: model.init(k, image, train=False), jax.random.key(0))
    variables = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)
    config = TrainingConfig()
    update = optimizer.make(StaticRecipe.of(config))(Hyperparameters.of(config))
    return initial_state(variables, update, jax.random.key(1)).averaging()


@functools.cache
def images():
    return data.load(CONFIG.data).train


@pytest.fixture
def batches():
    return iter(data.train_batches(images(), CONFIG.data, seed=0))


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    """A directory with a checkpoint of step 3, for all tests: they take copies."""
    directory = tmp_path_factory.mktemp("saved") / "once"
    first = iter(data.train_batches(images(), CONFIG.data, seed=0))
    with Checkpoints(directory, CONFIG) as checkpoints:
        checkpoints.save(state_of(CONFIG.spec).replace(step=jnp.int32(3)), first, (), 12.5)
    return directory


@pytest.fixture(scope="module")
def saved_again(saved_once):
    """A directory with a checkpoint of step 5 too, for all tests."""
    directory = shutil.copytree(saved_once, saved_once.with_name("again"))
    first = iter(data.train_batches(images(), CONFIG.data, seed=0))
    with Checkpoints(directory, CONFIG) as checkpoints:
        checkpoints.save(state_of(CONFIG.spec).replace(step=jnp.int32(5)), first, (), 20.0)
    return directory


@pytest.fixture
def saved(saved_once, tmp_path):
    """A directory with a checkpoint of step 3."""
    return shutil.copytree(saved_once, tmp_path / "saved")


@pytest.fixture
def saved_twice(saved_again, tmp_path):
    """A directory with checkpoints of the steps 3 and 5."""
    return shutil.copytree(saved_again, tmp_path / "saved")


def test_an_empty_directory_has_nothing_to_restore(tmp_path, batches):
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        first = state_of(CONFIG.spec)
        assert checkpoints.restore(first, batches) == (first, (), 0.0, EpochProgress())


def test_what_was_saved_comes_back(saved, batches):
    like = jax.tree.map(jnp.zeros_like, state_of(CONFIG.spec))
    with Checkpoints(saved, CONFIG) as checkpoints:
        state, history, seconds, progress = checkpoints.restore(like, batches)
    assert (history, seconds, progress) == ((), 12.5, EpochProgress())
    expected = state_of(CONFIG.spec).replace(step=jnp.int32(3))
    chex.assert_trees_all_equal(
        state.replace(dropout_key=jax.random.key_data(state.dropout_key)),
        expected.replace(dropout_key=jax.random.key_data(expected.dropout_key)),
    )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (dataclasses.replace(CONFIG, seed=7), "seed: got 7, .* with 0"),
        (
            dataclasses.replace(CONFIG, training=TrainingConfig(epochs=7)),
            r"training\.epochs: got 7, .* with 20",
        ),
        (
            dataclasses.replace(CONFIG, training=TrainingConfig(mixup=0.2)),
            r"training\.mixup: got 0\.2, .* with 0",  # a field that the saved text leaves out
        ),
        (
            dataclasses.replace(CONFIG, training=TrainingConfig(schedule=Constant())),
            r"training\.schedule: got Constant\(\), .* with Cosine\(\)",
        ),
        (
            dataclasses.replace(CONFIG, spec=transforms.with_bottleneck(make_tiny_spec(), "relu6")),
            r"spec\.blocks\[\S+\]\.bottleneck: got relu6, .* with linear",
        ),
    ],
)
def test_another_config_is_refused_naming_the_field_and_both_values(saved, batches, changed, named):
    with (
        Checkpoints(saved, changed) as checkpoints,
        pytest.raises(CheckpointError, match=rf"^{named}") as caught,
    ):
        checkpoints.restore(state_of(CONFIG.spec), batches)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [9, 11])
def test_another_network_is_refused_naming_the_parameter_and_both_shapes(saved, batches, classes):
    with (
        Checkpoints(saved, CONFIG) as checkpoints,
        pytest.raises(CheckpointError, match=rf"classifier.*\(10,\).*\({classes},\)"),
    ):
        checkpoints.restore(state_of(make_tiny_spec(num_classes=classes)), batches)


def test_a_shallower_network_is_refused(saved, batches):
    spec = make_tiny_spec()
    head = dataclasses.replace(spec.head, conv=None)
    with (
        Checkpoints(saved, CONFIG) as checkpoints,
        pytest.raises(CheckpointError, match=r"head.*the network needs"),
    ):
        checkpoints.restore(state_of(dataclasses.replace(spec, head=head)), batches)


@pytest.mark.parametrize("piece", ["params", "batch_stats", "opt_state", "average"])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, batches, piece):
    state = state_of(CONFIG.spec)
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), getattr(state, piece))
    with (
        Checkpoints(tmp_path, CONFIG) as checkpoints,
        pytest.raises(NonFiniteStateError, match=r"^step 4: "),
    ):
        checkpoints.save(state.replace(step=jnp.int32(4), **{piece: broken}), batches, (), 1.0)
    assert not list(tmp_path.glob("[0-9]*"))


def files_of(step):
    return sorted(file for file in step.rglob("*") if file.is_file())


def change(file, change_of):
    file.write_bytes(change_of(file.read_bytes()))


def flip(content, position):
    """The content with one bit of one byte the other way round."""
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


def swap(step):
    """Gives this step's name to the one before."""
    other = step.with_name("3")
    aside = step.with_name("aside")
    step.rename(aside)
    shutil.copytree(other, step)
    shutil.rmtree(aside)


def largest(step):
    return max(files_of(step), key=lambda file: file.stat().st_size)


def as_written(path):
    """What changes if anything writes the file, and not if something only reads it."""
    found = path.stat()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns


def in_place(path, make):
    """Has something else in the place of a file or a directory."""
    path.unlink() if path.is_file() else shutil.rmtree(path)
    make(path)


DAMAGES = {
    "emptied": lambda step: [shutil.rmtree(child) for child in step.iterdir() if child.is_dir()],
    "truncated": lambda step: [
        change(file, lambda content: content[: len(content) // 2]) for file in files_of(step)
    ],
    "an empty step": lambda step: [shutil.rmtree(step), step.mkdir()],
    "another step": swap,
    "one bit": lambda step: change(largest(step), lambda c: flip(c, len(c) // 2)),
    "a missing file": lambda step: largest(step).unlink(),
    "a file more": lambda step: (step / "state" / "more").write_bytes(b"?"),
    "torn JSON": lambda step: [
        change(file, lambda content: content[:-3]) for file in (step / "run").iterdir()
    ],
    "no manifest": lambda step: (step / manifest.FILE_NAME).unlink(),
    "a torn manifest": lambda step: change(step / manifest.FILE_NAME, lambda c: c[:-2]),
    "a list for a manifest": lambda step: (step / manifest.FILE_NAME).write_text("[[]]"),
    "a FIFO for a manifest": lambda step: in_place(step / manifest.FILE_NAME, os.mkfifo),
    "a FIFO for metadata": lambda step: in_place(step / "_CHECKPOINT_METADATA", os.mkfifo),
    "a FIFO for an array": lambda step: in_place(largest(step), os.mkfifo),
    "a FIFO for a step": lambda step: in_place(step, os.mkfifo),
    "a FIFO more": lambda step: os.mkfifo(step / "state" / "more"),
    "a file for a step": lambda step: in_place(step, Path.touch),
    "wrongly typed metadata": lambda step: (step / "_CHECKPOINT_METADATA").write_text(
        '{"metrics": 3}'
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(
    saved_twice, batches, damage
):
    saved, last = saved_twice, state_of(CONFIG.spec).replace(step=jnp.int32(5))
    damage(saved / "5")
    with Checkpoints(saved, CONFIG) as checkpoints:
        with pytest.warns(
            UserWarning, match="step 5 is damaged and now in .*damaged-5: "
        ) as found_text:
            restored = checkpoints.restore(state_of(CONFIG.spec), batches)
        assert len(str(found_text[0].message).splitlines()) == 1
        assert (int(restored.state.step), restored.seconds) == (3, 12.5)
        checkpoints.save(last, batches, (), 20.0)  # the step may be taken again
    assert (saved / "damaged-5").exists()
    with Checkpoints(saved, CONFIG) as checkpoints:
        assert checkpoints.restore(state_of(CONFIG.spec), batches).seconds == 20.0


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo])
def test_what_has_the_name_of_a_damaged_checkpoint_already_stays(saved_twice, batches, make):
    saved = saved_twice
    make(saved / "damaged-5")
    before = as_written(saved / "damaged-5")
    DAMAGES["no manifest"](saved / "5")
    with Checkpoints(saved, CONFIG) as checkpoints, pytest.warns(match=r"now in .*/damaged-5-2: "):
        assert checkpoints.restore(state_of(CONFIG.spec), batches).seconds == 12.5
    assert as_written(saved / "damaged-5") == before
    assert (saved / "damaged-5-2" / "state").is_dir()


def test_metadata_of_a_checkpoint_that_are_wrongly_typed_hide_no_other(tmp_path, batches):
    """Nor do those of one between the last, which is damaged, and the one that is taken."""
    state = state_of(CONFIG.spec)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        for step in (10, 15, 17):
            checkpoints.save(state.replace(step=jnp.int32(step)), batches, records(0.4), 1.0)
    DAMAGES["wrongly typed metadata"](tmp_path / "15")
    DAMAGES["no manifest"](tmp_path / "17")
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        with pytest.warns(UserWarning, match="is damaged") as found_text:
            assert int(checkpoints.restore(state, batches).state.step) == 10
        assert len(found_text) == 2
    assert steps_in(tmp_path) == [10]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([{"next_index": 2**63}, {"next_index": "1"}, {"next_index": 1, "more": 1}]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.just("next_index") | st.text(max_size=9), inner, max_size=2)
    ),
    max_leaves=5,
)
PYTHONS_WORDS = re.compile(r"NoneType|object|subscript|attribute|not supported|Traceback|Error")


def is_position(value):
    """Whether it may be one: a number of batches, of as many as Python counts."""
    if not isinstance(value, dict) or value.keys() != {"next_index"}:
        return False
    (index,) = value.values()
    return type(index) is int and 0 <= index <= sys.maxsize // CONFIG.data.batch_size


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=JSON)
def test_a_position_in_the_data_is_taken_or_refused_in_our_words(tmp_path, batches, found):
    (tmp_path / POSITION).write_text(json.dumps(found))
    try:
        PositionHandler().restore(tmp_path, RestorePosition(batches))
    except manifest.DamageError as error:
        assert not is_position(found)
        assert "its data position" in str(error)
        assert not PYTHONS_WORDS.search(str(error).replace(repr(found), ""))
    else:
        assert is_position(found)
        assert batches.get_state() == found


@pytest.mark.parametrize("text", ["", "{", "\0" * 64, "[" * 10**5, '{"next_index": ' + "9" * 5000])
def test_a_position_that_is_no_json_is_refused(tmp_path, batches, text):
    (tmp_path / POSITION).write_text(text)
    with pytest.raises(manifest.DamageError, match=r"^its data position cannot be read$"):
        PositionHandler().restore(tmp_path, RestorePosition(batches))


@pytest.mark.parametrize(
    "forge",
    [
        lambda run: [],
        lambda run: run | {"seconds": "x"},
        lambda run: run | {"seconds": -1.0},
        lambda run: run | {"seconds": math.nan},
        lambda run: run | {"begun": None},
        lambda run: run | {"history": [1]},
        lambda run: {name: run[name] for name in run if name != "config"},
    ],
)
def test_a_run_that_is_forged_with_its_manifest_is_set_aside(saved_twice, batches, forge):
    saved = saved_twice
    (saved / "5" / manifest.FILE_NAME).unlink()
    path = saved / "5" / "run" / "metadata"
    path.write_text(json.dumps(forge(json.loads(path.read_text()))))
    manifest.write(saved / "5", 5)
    with (
        Checkpoints(saved, CONFIG) as checkpoints,
        pytest.warns(UserWarning, match="step 5 is damaged") as found_text,
    ):
        assert checkpoints.restore(state_of(CONFIG.spec), batches).seconds == 12.5
    assert not PYTHONS_WORDS.search(str(found_text[0].message))


def test_a_flipped_bit_anywhere_is_noticed(saved):
    """In every file, its first and last byte and every 199th."""
    step, flips = saved / "3", 0
    for file in files_of(step):
        content = file.read_bytes()
        if file.parent == step and file.name in manifest.OTHERS[1:]:
            continue
        for position in sorted({*range(0, len(content), 199), len(content) - 1} if content else ()):
            file.write_bytes(flip(content, position))
            with pytest.raises(manifest.DamageError) as caught:
                manifest.verify(step, 3)
            assert "\n" not in one_line(caught.value)
            flips += 1
        file.write_bytes(content)
    manifest.verify(step, 3)
    assert flips > 300


@pytest.mark.parametrize("name", manifest.OTHERS[1:])
@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[:-5], lambda content: flip(content, 2)],
    ids=["empty", "torn", "flipped"],
)
def test_what_the_manifest_is_not_about_changes_nothing_of_what_is_restored(
    saved_twice, batches, name, damage
):
    """It may make a checkpoint damaged, never another."""
    saved, last = saved_twice, state_of(CONFIG.spec)
    change(saved / "5" / name, damage)
    with Checkpoints(saved, CONFIG) as checkpoints, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        restored = checkpoints.restore(state_of(CONFIG.spec), batches)
    assert (int(restored.state.step), restored.seconds) in ((5, 20.0), (3, 12.5))
    chex.assert_trees_all_equal(restored.state.params, last.params)


def records(*accuracies):
    return tuple(
        dataclasses.replace(record, step=10 * record.epoch, validation_accuracy=accuracy)
        for record, accuracy in zip(
            make_result(epochs=len(accuracies)).history, accuracies, strict=True
        )
    )


def steps_in(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def test_the_last_two_and_of_whole_epochs_the_last_and_the_best_are_kept(tmp_path, batches):
    state, history = state_of(CONFIG.spec), records(0.1, 0.7, 0.2, 0.7, 0.3)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:

        def save(step, epochs, progress):
            params = jax.tree.map(lambda p: p * step, state.params)
            of = state.replace(step=jnp.int32(step), params=params)
            checkpoints.save(
                of, batches, history[:epochs], 1.0, EpochProgress(losses=(0.5,) * progress)
            )

        for epoch in range(1, 6):
            save(10 * epoch, epoch, 0)
        checkpoints.best(state)  # waits
        assert steps_in(tmp_path) == [20, 40, 50]
        for within in (1, 2, 3):
            save(50 + within, 5, within)
        best = checkpoints.best(state)
        assert steps_in(tmp_path) == [20, 50, 52, 53]
        chex.assert_trees_all_equal(best.params, jax.tree.map(lambda p: p * 20, state.params))
    with Checkpoints(tmp_path, CONFIG) as checkpoints:  # it knows them again
        restored = checkpoints.restore(state, batches)
        assert restored.progress.losses == (0.5,) * 3
        assert int(checkpoints.best(state).step) == 20


def test_what_was_saved_before_its_epochs_validation_stays_and_counts_once_that_is_known(
    tmp_path, batches
):
    """To make room for another would be to have none for a while."""
    state = state_of(CONFIG.spec).replace(step=jnp.int32(10))
    waiting = EpochProgress(losses=(0.5,) * 10)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(state, batches, (), 1.0, waiting)
        assert checkpoints.best(state) is None
        written = as_written(tmp_path / "10" / manifest.FILE_NAME)
        checkpoints.save(state, batches, records(0.4), 2.0)
        assert int(checkpoints.best(state).step) == 10
    assert as_written(tmp_path / "10" / manifest.FILE_NAME) == written
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        restored = checkpoints.restore(state, batches)
    assert (restored.history, restored.progress, restored.seconds) == ((), waiting, 1.0)


def test_no_memory_is_no_damage(saved, batches, monkeypatch):
    def verify(directory, step):
        raise MemoryError

    monkeypatch.setattr(manifest, "verify", verify)
    with Checkpoints(saved, CONFIG) as checkpoints, pytest.raises(MemoryError):
        checkpoints.restore(state_of(CONFIG.spec), batches)
    assert steps_in(saved) == [3]


def test_going_back_deletes_what_came_later_and_leaves_the_data_where_they_are(saved, batches):
    state = state_of(CONFIG.spec)
    with Checkpoints(saved, CONFIG) as checkpoints:
        for step in (5, 7):
            checkpoints.save(state.replace(step=jnp.int32(step)), batches, (), 20.0)
        next(batches)
        position = batches.get_state()
        assert int(checkpoints.go_back(5, state).state.step) == 5
        assert batches.get_state() == position
        assert steps_in(saved) == [5]
        DAMAGES["one bit"](saved / "5")
        with pytest.raises(CheckpointError, match=r"step 5: .* has changed since it was written$"):
            checkpoints.go_back(5, state)
        assert checkpoints.go_back(0, state).state is state
    assert steps_in(saved) == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a file's size are POSIX's")
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(saved, batches):
    state = state_of(CONFIG.spec)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(SavingError, match="cannot save a checkpoint, ") as caught,
            Checkpoints(saved, CONFIG) as checkpoints,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
            checkpoints.save(state.replace(step=jnp.int32(5)), batches, (), 20.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    with Checkpoints(saved, CONFIG) as checkpoints:
        assert int(checkpoints.restore(state, batches).state.step) == 3


def test_a_run_with_nothing_but_damaged_checkpoints_is_refused(saved, batches):
    DAMAGES["emptied"](saved / "3")
    with (
        Checkpoints(saved, CONFIG) as checkpoints,
        pytest.warns(UserWarning, match="step 3 is damaged"),
        pytest.raises(CheckpointError, match="all its checkpoints are damaged"),
    ):
        checkpoints.restore(state_of(CONFIG.spec), batches)
    first = state_of(CONFIG.spec)
    with Checkpoints(saved, CONFIG) as checkpoints:
        with pytest.raises(CheckpointError, match="all its checkpoints are damaged"):
            checkpoints.restore(first, batches)
        shutil.rmtree(saved / "damaged-3")
        assert checkpoints.restore(first, batches).state is first
