"""Programs that forbid NumPy's silent broadcasts (`jax_numpy_rank_promotion`) can use all of this.

Broadcasts are refused when a function is traced, so nothing is compiled here.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowerings import every_lowering
from small_networks import KEY, SMALL, mixed

from mnet_jax import models, ops
from mnet_jax.config import Sgd, TrainingConfig
from mnet_jax.training import optimizer
from mnet_jax.training.hyperparameters import Hyperparameters, StaticRecipe
from mnet_jax.training.step import initial_state, make_eval_step, make_train_step

IMAGES = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)


@pytest.fixture(autouse=True)
def strict():
    jax.clear_caches()  # what was traced before would not be traced again
    with jax.numpy_rank_promotion("raise"):
        yield


def test_the_setting_is_in_force():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


def shapes_of(model):
    return jax.eval_shape(partial(model.init, train=False), KEY, IMAGES)


def trace_gradients(model, variables):
    def loss(params, images):
        logits, state = model.apply(
            variables_of(variables) | {"params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": KEY},
        )
        return logits.sum(), state

    jax.eval_shape(jax.grad(loss, (0, 1), has_aux=True), variables["params"], IMAGES)


@pytest.mark.parametrize("version", SMALL)
def test_networks_of_every_version_and_their_gradients_broadcast_explicitly(version):
    model = models.MobileNet(spec=SMALL[version]())
    trace_gradients(model, shapes_of(model))


def pytest_generate_tests(metafunc):
    """By default the one network with layers of every kind; to trace each takes seconds."""
    if "network" in metafunc.fixturenames:
        exhaustive = metafunc.config.getoption("exhaustive")
        networks = {"mixed": mixed} | (SMALL if exhaustive else {})
        metafunc.parametrize("network", networks.values(), ids=networks)


@every_lowering
def test_all_that_a_network_computes_broadcasts_explicitly(network, lowering):
    model = models.MobileNet(spec=network(), lowering=lowering)
    variables = shapes_of(model)
    named = ["intermediates", "preactivations"]
    for how in ({"mutable": named}, {"method": "features"}):
        jax.eval_shape(partial(model.apply, train=False, **how), variables, IMAGES)
    trace_gradients(model, variables)

    def fused(variables, images):
        infer, params = models.fuse(model, variables)
        return jax.grad(lambda params: infer(params, images).sum())(params)

    jax.eval_shape(fused, variables, IMAGES)


def variables_of(shapes):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.mark.parametrize("dilation, strides", [(1, 1), (1, 2), (2, 1)])
@every_lowering
def test_depthwise_convolutions_broadcast_explicitly(lowering, dilation, strides):
    def energy(x, kernel):
        return ops.depthwise_conv(
            x, kernel, strides=strides, dilation=dilation, lowering=lowering
        ).sum()

    jax.eval_shape(jax.grad(energy, (0, 1)), jnp.ones((2, 9, 9, 4)), np.ones((3, 3, 4), np.float32))


@pytest.mark.parametrize(
    "options",
    [{"mixup": 0.2, "cutmix": 1.0}, {"accumulate": 2, "norm_groups": 2, "depth_decay": 0.9}],
)
def test_steps_broadcast_explicitly(options):
    training = TrainingConfig(optimizer=Sgd(), **options)
    spec, structure = mixed(), StaticRecipe.of(training)
    model = models.MobileNet(spec=spec)
    parts = ["stem", *(f"block_{i}" for i in range(len(spec.blocks))), "head"]
    update, hyperparams = optimizer.make(structure, parts), Hyperparameters.of(training)
    counts = {"accumulate": training.accumulate, "norm_groups": training.norm_groups}
    step = make_train_step(model.apply, update, **counts, skips=True)
    batch = {"image": jnp.zeros((8, 32, 32, 3)), "label": jnp.zeros(8, jnp.int32)}
    variables = variables_of(shapes_of(model))
    state = initial_state(variables, update(hyperparams), KEY).averaging()
    jax.eval_shape(step, state, batch, hyperparams)
    evaluate = make_eval_step(model.apply, accumulate=2)
    jax.eval_shape(evaluate, variables, batch | {"mask": jnp.ones(8)})
