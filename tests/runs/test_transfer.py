"""Fine-tuning: what is frozen stays, what is deep learns slower, what fits is taken over."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_networks import random_like, random_variables
from tiny_network import make_tiny_spec

from mnet_jax import models
from mnet_jax.architectures import mobilenet_v1
from mnet_jax.config import AdamW, Constant, Pretrained, RunConfig, Sgd, TrainingConfig
from mnet_jax.runs import pretrained
from mnet_jax.training import optimizer
from mnet_jax.training.hyperparameters import Hyperparameters, StaticRecipe
from mnet_jax.training.step import initial_state, make_train_step

pytestmark = pytest.mark.usefixtures("quickly_compiled")

PARTS = ("stem", "block_0", "block_1", "head")


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1, 1, (8, 12, 12, 3)).astype(np.float32)
    return {"image": image, "label": rng.integers(0, 10, 8).astype(np.int32)}


def stepped(training, frozen=0):
    """The state before and after two steps."""
    model = models.MobileNet(spec=make_tiny_spec(), frozen=frozen)
    update, hyperparams = (
        optimizer.make(StaticRecipe.of(training), PARTS),
        Hyperparameters.of(training),
    )
    variables = random_variables(model, batch_of()["image"], train=False)
    before = initial_state(variables, update(hyperparams), jax.random.key(1)).averaging()
    step, after = jax.jit(make_train_step(model.apply, update)), before
    for seed in range(2):
        after, metrics = step(after, batch_of(seed), hyperparams)
        assert metrics["finite"]
    return before, after


@pytest.mark.parametrize(
    ("frozen", "rule"), [(1, Sgd()), (2, AdamW()), (3, Sgd())], ids=["1 sgd", "2 adamw", "3 sgd"]
)
def test_frozen_parts_stay_bit_for_bit_and_the_others_learn(frozen, rule):
    training = TrainingConfig(
        frozen=frozen, optimizer=rule, weight_decay=0.1, warmup_epochs=0, schedule=Constant()
    )
    before, after = stepped(training, frozen)
    for i, part in enumerate(PARTS):
        for tree in ("params", "batch_stats"):
            old, new = getattr(before, tree)[part], getattr(after, tree)[part]
            averages = [state.average[tree][part] for state in (before, after)]
            if i < frozen:
                chex.assert_trees_all_equal(*averages)
            if i < frozen:
                chex.assert_trees_all_equal(new, old)
            else:
                changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), new, old)
                assert any(jax.tree.leaves(changed))


def test_frozen_parts_compute_as_in_inference(tiny_spec):
    """With all blocks frozen, training features are inference features."""
    images = batch_of()["image"]
    plain = models.MobileNet(spec=tiny_spec)
    variables = random_variables(plain, images, train=False)
    frozen = models.MobileNet(spec=tiny_spec, frozen=3)
    apply = functools.partial(plain.apply, train=False, mutable=["intermediates"])
    expected = jax.jit(apply)(variables, images)[1]
    apply = functools.partial(frozen.apply, train=True, mutable=["intermediates", "batch_stats"])
    found = jax.jit(apply)(variables, images, rngs={"dropout": jax.random.key(2)})[1]
    for name in ("stem_output", "block_0_output", "block_1_output"):
        a, b = (tree["intermediates"][name] for tree in (found, expected))
        chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-5)


def test_updates_shrink_by_the_decay_with_each_part_towards_the_image():
    rule = optax.chain(optax.sgd(1.0), optimizer.scale_by_depth(PARTS, frozen=1, depth_decay=0.5))
    params = {part: {"kernel": jnp.ones(3)} for part in PARTS}
    updates, _ = rule.update(params, rule.init(params), params)
    factors = {part: -float(tree["kernel"][0]) for part, tree in updates.items()}
    assert factors == {"stem": 0.0, "block_0": 0.25, "block_1": 0.5, "head": 1.0}


def linear(variables, images, *, train, mutable, rngs):
    """The logits of one matrix after the other, one for each part."""
    flat = images.reshape(len(images), -1)
    kernels = [variables["params"][part]["kernel"] for part in PARTS]
    return functools.reduce(jnp.matmul, kernels, flat), {"batch_stats": {}}


def test_one_step_of_sgd_with_depth_decay_is_the_plain_step_scaled():
    base = TrainingConfig(weight_decay=0.0, warmup_epochs=0, schedule=Constant())
    scaled = dataclasses.replace(base, depth_decay=0.5)
    rng, sizes = np.random.default_rng(0), (12 * 12 * 3, 6, 6, 6, 10)
    params = {
        part: {"kernel": jnp.asarray(rng.normal(0, 0.2, sizes[i : i + 2]), jnp.float32)}
        for i, part in enumerate(PARTS)
    }
    moves = []
    for training in (base, scaled):
        update, hyperparams = (
            optimizer.make(StaticRecipe.of(training), PARTS),
            Hyperparameters.of(training),
        )
        variables = {"params": params, "batch_stats": {}}
        state = initial_state(variables, update(hyperparams), jax.random.key(1))
        after, _ = jax.jit(make_train_step(linear, update))(state, batch_of(), hyperparams)
        moves.append(jax.tree.map(lambda a, b: a - b, after.params, state.params))
    for part, factor in zip(PARTS, (0.125, 0.25, 0.5, 1.0), strict=True):
        assert np.abs(moves[0][part]["kernel"]).max() > 1e-3
        expected = jax.tree.map(lambda x, f=factor: f * x, moves[0][part])
        chex.assert_trees_all_close(moves[1][part], expected, rtol=1e-4, atol=1e-6)


@pytest.fixture
def source(tmp_path):
    """A saved model of ten classes, and its variables."""
    model = models.MobileNet(spec=make_tiny_spec())
    variables = random_variables(model, batch_of()["image"], train=False)
    models.save(tmp_path / models.FILE_NAME, model, variables)
    return tmp_path, variables


def first_state(spec):
    model = models.MobileNet(spec=spec)
    shapes = jax.eval_shape(
        lambda key: model.init(key, batch_of()["image"], train=False), jax.random.key(0)
    )
    variables = random_like(shapes, seed=1)  # others than the saved ones
    return initial_state(variables, optax.sgd(0.1), jax.random.key(1)).averaging()


def named(path):
    return Pretrained(path=str(path), sha256=models.digest(path))


def test_a_run_starts_from_the_saved_weights(source):
    path, variables = source
    spec = make_tiny_spec(dropout=0.5)
    state = pretrained.initialize_from(named(path), first_state(spec), spec)
    chex.assert_trees_all_equal(state.params, variables["params"])
    chex.assert_trees_all_equal(state.batch_stats, variables["batch_stats"])
    chex.assert_trees_all_equal(state.average, dict(variables))


def test_another_number_of_classes_leaves_the_classifier_random(source):
    path, variables = source
    spec = make_tiny_spec(num_classes=3)
    first = first_state(spec)
    state = pretrained.initialize_from(named(path), first, spec)
    assert state.params["head"]["classifier"]["kernel"].shape == (16, 3)
    chex.assert_trees_all_equal(
        state.params["head"]["classifier"], first.params["head"]["classifier"]
    )
    chex.assert_trees_all_equal(state.params["head"]["conv"], variables["params"]["head"]["conv"])
    chex.assert_trees_all_equal(state.params["stem"], variables["params"]["stem"])


def test_another_network_or_other_weights_are_refused(source):
    path, variables = source
    with pytest.raises(ValueError, match=r"pretrained: .* has another name"):
        pretrained.require_fit(named(path), mobilenet_v1())
    old = named(path)
    variables["params"]["head"]["classifier"]["bias"] += 1.0
    models.save(path / models.FILE_NAME, models.MobileNet(spec=make_tiny_spec()), variables)
    spec = make_tiny_spec()
    with pytest.raises(models.SavedModelError, match="not the weights that the config names"):
        pretrained.initialize_from(old, first_state(spec), spec)


def test_freezing_more_than_there_is_is_refused(tiny_spec):
    RunConfig(spec=tiny_spec, training=TrainingConfig(frozen=3))
    with pytest.raises(ValueError, match="frozen: got 4, legal: 0 to 3"):
        RunConfig(spec=tiny_spec, training=TrainingConfig(frozen=4))
    with pytest.raises(ValueError, match="depth_decay: got 0, legal: above 0"):
        TrainingConfig(depth_decay=0)
