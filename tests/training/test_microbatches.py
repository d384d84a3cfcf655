"""Micro-batches and normalization groups, against NumPy and against doing the parts by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from messages import one_line
from small_networks import initial_variables
from tiny_network import make_short_spec

from mnet_jax import models
from mnet_jax.config import DataConfig, RunConfig, Sgd, TrainingConfig
from mnet_jax.training import optimizer
from mnet_jax.training.hyperparameters import Hyperparameters, StaticRecipe
from mnet_jax.training.microbatches import in_groups
from mnet_jax.training.placement import placement
from mnet_jax.training.step import initial_state, make_eval_step, make_train_step

pytestmark = pytest.mark.usefixtures("quickly_compiled")

# Relative to an array's largest value: float32 sums over the batch, taken in another order.
TOLERANCE = 1e-5
BATCH = 24
TRAINING = TrainingConfig(
    optimizer=Sgd(momentum=0.0), learning_rate=0.5, weight_decay=0.0, label_smoothing=0.0
)
NUMBERS = Hyperparameters.of(TRAINING)


def batch_of(seed, count=BATCH):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(0, 1, (count, 8, 8, 3)).astype(np.float32),
        "label": rng.integers(0, 10, count).astype(np.int32),
    }


def assert_close(found, expected, tolerance=TOLERANCE):
    def compare(a, b):
        scale = np.max(np.abs(np.asarray(b)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(scale, 1e-3))

    jax.tree.map(compare, found, expected)


def linear_apply(variables, images, *, train, mutable=(), rngs=None):
    """A classifier without hidden layers, and so without normalization."""
    logits = images.reshape(len(images), -1) @ variables["params"]["kernel"]
    return (logits, {"batch_stats": {}}) if train else logits


@functools.cache
def short():
    spec = make_short_spec(dropout=0.0)
    return models.MobileNet(spec=spec), initial_variables(spec, 8)


def started(variables):
    return initial_state(
        variables, optimizer.make(StaticRecipe.of(TRAINING))(NUMBERS), jax.random.key(1)
    )


@functools.cache
def step_of(apply, **how):
    return jax.jit(make_train_step(apply, optimizer.make(StaticRecipe.of(TRAINING)), **how))


@pytest.mark.parametrize("accumulate", [1, 2, 3, 24])
def test_a_step_of_micro_batches_is_the_whole_batchs_by_numpy(accumulate):
    """Softmax regression: the gradient is x^T (p - y) / b whatever the micro-batches."""
    kernel = np.random.default_rng(3).normal(0, 0.05, (192, 10))
    batch = batch_of(0)
    x, labels = batch["image"].reshape(BATCH, -1).astype(np.float64), batch["label"]
    exponentials = np.exp(x @ kernel)
    shares = exponentials / exponentials.sum(-1, keepdims=True)
    expected = kernel - 0.5 * x.T @ (shares - np.eye(10)[labels]) / BATCH
    state = started({"params": {"kernel": jnp.asarray(kernel, jnp.float32)}, "batch_stats": {}})
    state, found = step_of(linear_apply, accumulate=accumulate)(state, batch, NUMBERS)
    assert_close(state.params["kernel"], expected)
    assert found["loss"] == pytest.approx(-np.log(shares[range(BATCH), labels]).mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((shares.argmax(-1) == labels).mean())
    assert int(state.step) == 1


def test_micro_batches_move_the_running_statistics_in_turn():
    model, variables = short()
    batch, apply = (
        batch_of(0),
        jax.jit(functools.partial(model.apply, mutable=["batch_stats"], train=True)),
    )
    batch_stats = variables["batch_stats"]
    for i in range(3):
        now = {"params": variables["params"], "batch_stats": batch_stats}
        _, updates = apply(now, batch["image"][i::3])
        batch_stats = updates["batch_stats"]
    state, _ = step_of(model.apply, accumulate=3)(started(variables), batch, NUMBERS)
    assert_close(state.batch_stats, batch_stats)
    whole, _ = step_of(model.apply)(started(variables), batch, NUMBERS)
    with pytest.raises(AssertionError):
        assert_close(whole.batch_stats, batch_stats, 100 * TOLERANCE)


def numpy_normed(x, scale, bias, epsilon):
    """x [b, h, w, c] normalized over all but its channels."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias, mean, var


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_are_normalized_by_their_own_statistics(groups):
    """A pointwise convolution against NumPy: outputs of each group, running means over groups."""
    layer = models.ConvNorm(outputs=5, kernel=1, activation="linear")
    images = np.random.default_rng(1).normal(2, 3, (8, 4, 4, 3)).astype(np.float32)
    variables = layer.init(jax.random.key(0), images, train=False)
    apply = in_groups(layer.apply, groups)
    found, updates = jax.jit(
        lambda v, x: apply(v, x, train=True, mutable=["batch_stats"], rngs={})
    )(variables, images)
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    epsilon, momentum = layer.setting.dialect.norm_epsilon, layer.setting.dialect.norm_momentum
    parts = [
        numpy_normed(part @ params["conv"]["kernel"], **params["norm"], epsilon=epsilon)
        for part in np.split(images.astype(np.float64), groups)
    ]
    assert_close(found, np.concatenate([y for y, _, _ in parts]))
    mean = np.mean([mean for _, mean, _ in parts], axis=0)
    var = np.mean([var for _, _, var in parts], axis=0)
    stats = updates["batch_stats"]["norm"]
    assert_close(stats["mean"], (1 - momentum) * mean)
    assert_close(stats["var"], momentum + (1 - momentum) * var)


def test_a_step_in_groups_is_the_mean_of_the_groups_steps():
    model, variables = short()
    batch, alone = batch_of(0), step_of(model.apply)
    parts = [
        alone(started(variables), {k: v[i * 6 : i * 6 + 6] for k, v in batch.items()}, NUMBERS)
        for i in range(4)
    ]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *[p[0].values for p in parts])
    state, found = step_of(model.apply, norm_groups=4)(started(variables), batch, NUMBERS)
    assert_close(state.values, mean, 1e-4)
    assert float(found["loss"]) == pytest.approx(np.mean([p[1]["loss"] for p in parts]), rel=1e-5)
    whole, _ = step_of(model.apply)(started(variables), batch, NUMBERS)
    with pytest.raises(AssertionError):
        assert_close(whole.values, mean, 1e-3)


@pytest.mark.parametrize("how", [{"norm_groups": 2}, {"accumulate": 2}], ids=str)
def test_groups_and_micro_batches_drop_other_units(how):
    """Each is given a key of its own for dropout."""
    seen = []

    def apply(variables, images, *, train, mutable, rngs):
        jax.debug.callback(lambda k: seen.append(k.tobytes()), jax.random.key_data(rngs["dropout"]))
        return linear_apply(variables, images, train=train)

    variables = {"params": {"kernel": jnp.ones((192, 10))}, "batch_stats": {}}
    step_of(apply, **how)(started(variables), batch_of(0), NUMBERS)
    jax.effects_barrier()
    assert len({*seen}) == 2


def test_an_evaluation_in_micro_batches_counts_every_image_once():
    model, variables = short()
    batch = batch_of(5) | {"mask": (np.arange(BATCH) < 17).astype(np.float32)}
    whole = jax.jit(make_eval_step(model.apply))(variables, batch)
    parts = jax.jit(make_eval_step(model.apply, accumulate=4))(variables, batch)
    assert_close(parts, whole)
    assert float(parts["count"]) == 17


def test_micro_batches_and_groups_that_do_not_divide_the_batch_are_refused(tiny_spec):
    def config(**training):
        return RunConfig(
            spec=tiny_spec, data=DataConfig(batch_size=24), training=TrainingConfig(**training)
        )

    config(accumulate=3, norm_groups=4)
    one_line(ValueError, lambda: config(accumulate=5), "accumulate: got 5", "batch of 24")
    one_line(
        ValueError, lambda: config(accumulate=3, norm_groups=3), "norm_groups: got 3", "the 8 "
    )
    one_line(ValueError, lambda: config(accumulate=0), "accumulate: got 0", "1 micro-batch or more")
    one_line(ValueError, lambda: config(norm_groups=0), "norm_groups: got 0", "1 group or more")


def test_every_device_needs_its_share_of_every_micro_batch():
    devices = [jax.devices()[0]] * 4
    one_line(
        ValueError,
        lambda: placement("jit", 8, devices, accumulate=4),
        "batch_size: got 8, legal: multiples of the 4 devices times 4 micro-batches",
    )
    one_line(
        ValueError,
        lambda: placement("pmap", 8, devices, norm_groups=2),
        "norm_groups: got 2, legal: by pmap 1 or multiples of the 4 devices",
    )
