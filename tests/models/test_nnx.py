"""Flax's own bridge to NNX: the same logits, and it trains."""

import chex
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from tiny_network import make_short_spec

from mnet_jax import models, quantization
from mnet_jax.quantization import Quantization

pytestmark = pytest.mark.usefixtures("quickly_compiled")
IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32)
LABELS = np.arange(8) % 10


def bridged():
    linen = models.MobileNet(spec=make_short_spec())
    model = nnx.bridge.ToNNX(linen, rngs=nnx.Rngs(params=0, dropout=1))
    return linen, nnx.bridge.lazy_init(model, IMAGES, train=False)


def test_the_bridge_gives_the_same_logits():
    linen, model = bridged()
    state = nnx.state(model)
    variables = {"params": nnx.to_pure_dict(nnx.state(model, nnx.Param))}
    variables["batch_stats"] = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    assert jax.tree.leaves(state)
    chex.assert_trees_all_close(
        model(IMAGES, train=False), linen.apply(variables, IMAGES, train=False), rtol=1e-6
    )


def test_variables_from_elsewhere_go_in_under_the_same_names():
    linen, model = bridged()
    variables = jax.jit(lambda key: linen.init(key, IMAGES, train=False))(jax.random.key(9))
    wanted = linen.apply(variables, IMAGES, train=False)
    assert not np.allclose(model(IMAGES, train=False), wanted, rtol=0.1, atol=0)
    flat = {path: a for tree in variables.values() for path, a in flatten_dict(tree).items()}
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.replace_by_pure_dict(state, unflatten_dict(flat))
    nnx.update(model, state)
    chex.assert_trees_all_close(model(IMAGES, train=False), wanted, rtol=1e-4)


def test_a_quantized_network_goes_in_under_the_same_names():
    linen, _ = bridged()
    variables = jax.jit(lambda key: linen.init(key, IMAGES, train=False))(jax.random.key(9))
    seen = quantization.observe(linen, variables, [IMAGES])
    rounding, values = quantization.quantized(linen, variables, Quantization(weight_bits=4), seen)
    model = nnx.bridge.ToNNX(rounding, rngs=nnx.Rngs(params=0, dropout=1))
    model = nnx.bridge.lazy_init(model, IMAGES, train=False)
    flat = {path: a for tree in values.values() for path, a in flatten_dict(tree).items()}
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.replace_by_pure_dict(state, unflatten_dict(flat))
    nnx.update(model, state)
    wanted = rounding.apply(values, IMAGES, train=False)
    chex.assert_trees_all_close(model(IMAGES, train=False), wanted, rtol=1e-4)
    assert not np.allclose(wanted, linen.apply(variables, IMAGES, train=False), rtol=1e-3)


def test_the_bridged_model_trains_a_step():
    _, model = bridged()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss_of(model):
            logits = model(IMAGES, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    losses = [float(step(model, optimizer)) for _ in range(5)]
    assert losses[-1] < losses[0]
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    assert all(jax.tree.leaves(changed))
