"""A network is one function, however it is lowered and in either precision.

The oracle is NumPy in float64, and central differences of it for gradients.
"""

import dataclasses
import functools
from typing import get_args

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from depthwise_taps import LOWERINGS
from grids import product
from lowerings import bfloat16_error
from small_networks import images_of, mixed, model_and_variables
from weights_parity import compiled

from mnet_jax import models
from mnet_jax.training.types import Precision

BATCH, CLASSES = 16, 7
LABELS = np.arange(BATCH) % CLASSES
FLOAT32 = 1e-5  # relative: 24 bits, and sums of up to thousands
STEP = 1e-7  # of the central differences, small enough that nothing passes a corner

# In bfloat16 `auto` takes for each layer one of two lowerings that are tested here as well.
LOWERED = product(LOWERINGS, get_args(Precision), exhaustive=[("auto", "bfloat16")])
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("lowering, precision", LOWERED)]


@functools.cache
def images():
    """Of a colour each, so that logits depend on the image."""
    colours = np.random.default_rng(3).uniform(-1, 1, (BATCH, 1, 1, 3))
    return (colours + 0.5 * images_of(BATCH, 17, 16, 3)).astype(np.float32)


@functools.cache
def variables_of(spec):
    _, variables = model_and_variables(spec)
    return jax.tree.map(np.asarray, variables)


def model_of(spec, lowering, precision):
    return models.MobileNet(spec=spec, lowering=lowering, dtype=jnp.dtype(precision))


def assert_near(got, want, spec, precision):
    """Relative, by the root mean square."""
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    if precision == "float32":
        assert error <= FLOAT32
    else:
        assert FLOAT32 < error <= bfloat16_error(spec)  # and it is no float32


@functools.cache
def logits_by_hand(spec):
    logits, _ = by_hand.network(spec, variables_of(spec), images())
    assert logits.std(0).mean() > 0.02 * np.abs(logits).max(), "blind to the images"
    return logits


def test_logits_are_those_by_hand(lowering, precision):
    model = model_of(mixed(), lowering, precision)
    got = compiled(lambda v, x: model.apply(v, x, train=False), variables_of(model.spec), images())
    assert_near(got, logits_by_hand(model.spec), model.spec, precision)


def test_logits_without_normalization_are_those_by_hand_with_it(lowering, precision):
    model = model_of(mixed(), lowering, precision)
    infer, params = models.fuse(model, variables_of(model.spec))
    got = compiled(infer, params, images())
    assert_near(got, logits_by_hand(model.spec), model.spec, precision)


def loss_by_hand(spec, params):
    """Of a batch that is normalized by its own statistics, as in training."""
    logits, _ = by_hand.network(spec, {"params": params}, images())
    return np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(BATCH), LABELS])


@functools.cache
def slopes_by_hand(spec):
    """For every parameter two directions, of independent normal numbers, and the loss's slopes."""
    leaves, tree = jax.tree.flatten(variables_of(spec)["params"])
    rng = np.random.default_rng(1)

    def slope(i, direction):
        high, low = (
            loss_by_hand(
                spec,
                jax.tree.unflatten(
                    tree, [*leaves[:i], leaves[i] + step * direction, *leaves[i + 1 :]]
                ),
            )
            for step in (STEP, -STEP)
        )
        return (high - low) / (2 * STEP)

    directions = [rng.normal(size=(2, *leaf.shape)) for leaf in leaves]
    return directions, [[slope(i, one) for one in pair] for i, pair in enumerate(directions)]


def without_corners():
    """Every kind of layer in one block, between a convolution and the head."""
    spec = mixed(activation="linear")
    block = spec.blocks[2]
    stem = dataclasses.replace(spec.stem, outputs=block.inputs)
    return dataclasses.replace(spec, stem=stem, blocks=(block,))


def test_gradients_are_the_slopes_of_the_loss_by_hand(lowering, precision):
    """Each parameter's, relative to its norm, or to a hundredth of all where it has next to none.

    In bfloat16 of a network without corners. Where there are some, a unit that rounding takes
    across one has another slope: gradients differ by the root of the share of such units, which is
    ten times as much.
    """
    spec = mixed() if precision == "float32" else without_corners()
    model, variables = model_of(spec, lowering, precision), variables_of(spec)

    def loss_of(params):
        logits, _ = model.apply(
            variables | {"params": params}, images(), train=True, mutable=["batch_stats"]
        )
        return -jax.nn.log_softmax(logits)[np.arange(BATCH), LABELS].mean()

    loss, gradients = compiled(jax.value_and_grad(loss_of), variables["params"])
    # Of one number and of two products, not of many: as much again for chance.
    limit = 2 * (FLOAT32 if precision == "float32" else bfloat16_error(spec, gradients=True))
    assert loss == pytest.approx(loss_by_hand(spec, variables["params"]), rel=limit)
    named = jax.tree_util.tree_leaves_with_path(gradients)
    whole = np.sqrt(sum(np.vdot(leaf, leaf) for _, leaf in named))
    errors = {}
    for (path, leaf), pair, slopes in zip(named, *slopes_by_hand(spec), strict=True):
        leaf = np.asarray(leaf, np.float64)
        # A product with such a direction is off by the norm of the error, in root mean square.
        off = np.array([np.vdot(leaf, direction) for direction in pair]) - slopes
        norm = max(np.linalg.norm(leaf), 0.01 * whole)
        errors[jax.tree_util.keystr(path)] = np.sqrt(np.mean(off**2)) / norm
    worst = max(errors, key=errors.get)
    assert errors[worst] <= limit, worst
    assert precision == "float32" or errors[worst] > 2 * FLOAT32  # and it is no float32
