"""What a checkpoint refuses: another config, another network, a state that is not finite."""

import dataclasses
import functools
import shutil

import chex
import jax
import jax.numpy as jnp
import pytest
from conftest import make_tiny_spec

from mnet_jax import data, models
from mnet_jax.architectures import transforms
from mnet_jax.config import DataConfig, RunConfig, TrainingConfig
from mnet_jax.training import optimizer
from mnet_jax.training.checkpoint import CheckpointError, Checkpoints
from mnet_jax.training.divergence import NonFiniteError
from mnet_jax.training.epoch import Begun
from mnet_jax.training.recipe import Numbers, Structure
from mnet_jax.training.step import initial_state

CONFIG = RunConfig(spec=make_tiny_spec(), data=DataConfig(resolution=8, batch_size=64))


@functools.cache
def state_of(spec):
    """A first state of ones: values do not matter here, shapes do."""
    model = models.MobileNet(spec=spec)
    image = jnp.zeros((1, 8, 8, 3))
    shapes = jax.eval_shape(lambda k: model.init(k, image, train=False), jax.random.key(0))
    variables = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)
    config = TrainingConfig()
    update = optimizer.make(Structure.of(config))(Numbers.of(config))
    return initial_state(variables, update, jax.random.key(1)).averaging()


@pytest.fixture
def batches():
    dataset = data.load(CONFIG.data)
    return iter(data.train_batches(dataset.train, CONFIG.data, seed=0))


@pytest.fixture
def saved(tmp_path, batches):
    """A directory with a checkpoint of step 3."""
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(state_of(CONFIG.spec).replace(step=jnp.int32(3)), batches, (), 12.5)
    return tmp_path


def test_an_empty_directory_has_nothing_to_restore(tmp_path, batches):
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        assert checkpoints.restore(state_of(CONFIG.spec), batches) is None


def test_what_was_saved_comes_back(saved, batches):
    like = jax.tree.map(jnp.zeros_like, state_of(CONFIG.spec))
    with Checkpoints(saved, CONFIG) as checkpoints:
        state, history, seconds, begun = checkpoints.restore(like, batches)
    assert (history, seconds, begun) == ((), 12.5, Begun())
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
            dataclasses.replace(CONFIG, spec=transforms.with_bottleneck(make_tiny_spec(), "relu6")),
            r"spec\.blocks\.0\.bottleneck: got 'relu6', .* with 'linear'",
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
        pytest.raises(NonFiniteError, match=r"^step 4: "),
    ):
        checkpoints.save(state.replace(step=jnp.int32(4), **{piece: broken}), batches, (), 1.0)
    assert not list(tmp_path.glob("[0-9]*"))


DAMAGES = {
    "emptied": lambda step: [shutil.rmtree(child) for child in step.iterdir() if child.is_dir()],
    "truncated": lambda step: [
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        for file in step.rglob("*")
        if file.is_file()
    ],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(saved, batches, damage):
    last = state_of(CONFIG.spec).replace(step=jnp.int32(5))
    with Checkpoints(saved, CONFIG) as checkpoints:
        checkpoints.save(last, batches, (), 20.0)
    damage(saved / "5")
    with Checkpoints(saved, CONFIG) as checkpoints:
        with pytest.warns(UserWarning, match="step 5 is damaged and now in .*damaged-5: ") as told:
            restored = checkpoints.restore(state_of(CONFIG.spec), batches)
        assert len(str(told[0].message).splitlines()) == 1
        assert (int(restored.state.step), restored.seconds) == (3, 12.5)
        checkpoints.save(last, batches, (), 20.0)  # the step may be taken again
    assert (saved / "damaged-5").is_dir()
    with Checkpoints(saved, CONFIG) as checkpoints:
        assert checkpoints.restore(state_of(CONFIG.spec), batches).seconds == 20.0


def test_a_run_with_nothing_but_damaged_checkpoints_is_refused(saved, batches):
    DAMAGES["emptied"](saved / "3")
    with (
        Checkpoints(saved, CONFIG) as checkpoints,
        pytest.warns(UserWarning, match="step 3 is damaged"),
        pytest.raises(CheckpointError, match="all its checkpoints are damaged"),
    ):
        checkpoints.restore(state_of(CONFIG.spec), batches)
