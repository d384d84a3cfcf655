"""Whole networks: types, statistics, dropout, gradients and wrong images."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import convolve
from flax import linen as nn
from messages import one_line
from small_networks import (
    ALL,
    KEY,
    evaluate,
    images_of,
    mixed,
    model_and_variables,
    quick_jit,
    shortened,
    small_v1,
    small_v2,
)

from mnet_jax import models
from mnet_jax.architectures import FACTORIES, transforms
from mnet_jax.models.types import Quantization

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("train", [False, True])
def test_parameters_statistics_and_logits_are_float32_whatever_the_computation(name, dtype, train):
    model, variables = model_and_variables(ALL[name](), dtype=dtype)

    def apply(variables, images):
        collections = ["batch_stats", "intermediates"]
        return model.apply(
            variables, images, train=train, mutable=collections, rngs={"dropout": KEY}
        )

    logits, state = jax.eval_shape(apply, variables, jnp.zeros((2, 32, 40, 3)))
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    # Random numbers in arrays like those that the model initializes.
    chex.assert_trees_all_equal_shapes_and_dtypes(state["batch_stats"], variables["batch_stats"])
    for leaf in jax.tree.leaves(variables):
        assert leaf.dtype == jnp.float32
    assert state["intermediates"]["block_1_output"][0].dtype == dtype


@pytest.mark.parametrize("name", ALL)
def test_training_moves_statistics_towards_the_batch_and_inference_leaves_them(name):
    spec = ALL[name](norm_momentum=0.75, dialect="paper" if name in ("v4", "hybrid") else "keras")
    model, variables = model_and_variables(spec)
    images = images_of(4, 32, 32, 3)
    apply = quick_jit(model.apply, static_argnames=("train", "mutable"))
    rngs = {"dropout": KEY}
    _, trained = apply(variables, images, train=True, mutable=("batch_stats",), rngs=rngs)
    _, kept = apply(variables, images, train=False, mutable=("batch_stats",))
    chex.assert_trees_all_equal(kept["batch_stats"], variables["batch_stats"])

    kernel = variables["params"]["stem"]["conv"]["kernel"]
    batch = convolve(images, kernel, 2, "same")
    before, after = (v["batch_stats"]["stem"]["norm"] for v in (variables, trained))
    for key, of_batch in (("mean", batch.mean((0, 1, 2))), ("var", batch.var((0, 1, 2)))):
        expected = 0.75 * before[key] + 0.25 * of_batch
        np.testing.assert_allclose(after[key], expected, rtol=1e-4, atol=1e-5)
    for old, new in zip(
        *(jax.tree.leaves(v["batch_stats"]) for v in (variables, trained)), strict=True
    ):
        assert not np.allclose(old, new)


def test_dropout_scales_or_drops_pooled_features_by_its_key_and_in_training_alone():
    model, variables = model_and_variables(small_v2(dropout=0.25, num_classes=72))
    images = images_of(2, 32, 32, 3)

    @quick_jit
    def train(key):
        mutable = ["batch_stats", "intermediates"]
        logits, state = model.apply(
            variables, images, train=True, mutable=mutable, rngs={"dropout": key}
        )
        return logits, state["intermediates"]["head"]["pooled"][0]

    (first, pooled), (again, _), (other, _) = (train(jax.random.key(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    classifier = variables["params"]["head"]["classifier"]
    # With three times as many logits as features, they tell what the classifier saw.
    inverse = np.linalg.pinv(np.asarray(classifier["kernel"], np.float64))
    share = (first - classifier["bias"]) @ inverse / pooled
    kept = np.abs(share - 4 / 3) < 1e-3
    assert (kept | (np.abs(share) < 1e-3)).all() and 0.5 < kept.mean() < 0.95
    logits, named = evaluate(model, variables, images)
    expected = named["head"]["pooled"] @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_dropout_0_needs_nothing_random():
    model, variables = model_and_variables(small_v1(dropout=0.0))
    apply = quick_jit(
        lambda: model.apply(variables, images_of(2, 32, 32, 3), train=True, mutable=True)
    )
    logits, _ = apply()
    assert bool(jnp.isfinite(logits).all())


@pytest.mark.parametrize("name", ALL)
def test_inference_treats_every_image_alone(name):
    model, variables = model_and_variables(ALL[name]())
    apply = quick_jit(lambda images: model.apply(variables, images, train=False))
    images, others = images_of(3, 32, 32, 3), 5 * images_of(3, 32, 32, 3, seed=1)
    together, single = apply(images), []
    for i, image in enumerate(images):
        among_others = others.copy()
        among_others[i] = image
        single.append(apply(among_others)[i])
    np.testing.assert_allclose(together, single, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_gradient_is_the_slope_of_the_loss_and_reaches_every_parameter(name):
    """ReLU keeps the loss smooth enough, away from its corners, for a central difference."""
    spec = transforms.with_activation(ALL[name](), "relu")
    model, variables = model_and_variables(shortened(spec, 2))
    images = images_of(4, 32, 32, 3)

    @quick_jit
    @jax.value_and_grad
    def loss(params):
        logits = model.apply(variables | {"params": params}, images, train=False)
        return jnp.mean(nn.log_softmax(logits)[:, 0])

    params = variables["params"]
    _, gradient = jax.device_get(loss(params))  # by NumPy: JAX compiles for each shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.abs(leaf).max() > 0, path
    norm = math.sqrt(sum(float(np.vdot(g, g)) for g in jax.tree.leaves(gradient)))
    step = 1e-3
    high, low = (
        loss(jax.tree.map(lambda p, g, s=s: p + s * g / norm, params, gradient))[0]
        for s in (step, -step)
    )
    assert float(high - low) / (2 * step) == pytest.approx(norm, rel=0.05)


@pytest.mark.parametrize("method", ["__call__", "features"])
@pytest.mark.parametrize("network", FACTORIES)
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((32, 32, 3), "[b, h, w, 3]"),
        ((1, 1, 32, 32, 3), "[b, h, w, 3]"),
        ((1, 32, 32, 1), "[b, h, w, 3]"),
        ((1, 3, 32, 32), "[b, h, w, 3]"),
        ((1, 0, 32, 3), "1 pixel or more"),
    ],
)
def test_wrong_images_are_one_line(shape, words, network, method):
    model = getattr(models, network)(width=0.25)
    init = partial(model.init, KEY, train=False, method=method)
    one_line(ValueError, lambda: jax.eval_shape(init, jnp.zeros(shape)), "got", "legal", words)


def test_images_that_leave_a_layer_nothing_are_one_line():
    model = models.mobilenet_v1(width=0.25, dialect="keras")
    init, images = partial(model.init, KEY, train=False), jnp.zeros((1, 4, 64, 3))
    one_line(ValueError, lambda: jax.eval_shape(init, images), "got", "legal", "large enough")


@pytest.mark.parametrize("how", [{"folded": True}, {"quantization": Quantization()}], ids=str)
def test_values_before_activations_are_refused_where_they_are_not_known(how):
    model, variables = model_and_variables(mixed(), **how)
    with pytest.raises(ValueError, match="preactivations: got 'mixed', legal: a network that is"):
        model.apply(variables, images_of(1, 32, 32, 3), train=False, mutable=["preactivations"])
