"""Flax's lifted transformations of networks, blocks and layers: `train` by position and by name."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_networks import images_of, random_variables, selected, small_v4

from mnet_jax import models

pytestmark = pytest.mark.usefixtures("quickly_compiled")
NETWORK = partial(models.MobileNet, spec=selected(small_v4(dropout=0.0), (0,)))
MODULES = {
    "network": (NETWORK, (4, 32, 32, 3)),
    "block": (partial(models.InvertedResidual, 6, expanded=12, squeeze=4), (4, 8, 8, 6)),
    "separable": (partial(models.DepthwiseSeparable, 6), (4, 8, 8, 6)),
    "fused": (partial(models.FusedInvertedResidual, 6, 12), (4, 8, 8, 6)),
    "layer": (partial(models.ConvNorm, 6, kernel=3), (4, 8, 8, 6)),
}
QUICKLY = {"xla_backend_optimization_level": 0}  # to compile takes longer than to compute
# What differs between the modes is a branch of the layer; compiling a network for each is slow.
MODES = (("network", True), ("block", True), ("layer", True), ("layer", False))
WAYS = ("remat", "jit")
every_train = pytest.mark.parametrize("train", [True, False])


def lifted(made, transformation):
    """The module made of a transformed class."""
    return partial(transformation(made.func), *made.args, **made.keywords)()


def outcome(module, variables, x, *args, **mode):
    """The output and statistics, and the gradients of parameters and input, in one tree."""

    def loss(params, x):
        y, state = module.apply(
            variables | {"params": params}, x, *args, **mode, mutable=["batch_stats"]
        )
        return jnp.sin(y).sum(), (y, state)

    gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
    of, aux = jax.jit(gradient, compiler_options=QUICKLY)(variables["params"], x)
    return of, aux


def assert_equal(found, wanted):
    def compare(a, b):
        # The gradient of a bias in front of a normalization is zero but for rounding.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(0.1, np.abs(b).max()))

    jax.tree.map(compare, found, wanted)


def pytest_generate_tests(metafunc):
    """Every mode in one way, or all ways; test_every_module_can_be_lifted has both for each."""
    if "way" in metafunc.fixturenames:
        cases = [(*mode, way) for mode in MODES for way in WAYS]
        cover = [(*mode, WAYS[i % 2]) for i, mode in enumerate(MODES)]
        exhaustive = metafunc.config.getoption("exhaustive")
        metafunc.parametrize(("name", "train", "way"), cases if exhaustive else cover)


def test_a_checkpointed_or_compiled_module_is_the_module(name, train, way):
    made, shape = MODULES[name]
    x = images_of(*shape)
    variables = random_variables(made(), x, train=False)
    module = lifted(made, partial(getattr(nn, way), static_argnums=(2,)))
    assert_equal(outcome(module, variables, x, train), outcome(made(), variables, x, train=train))


@pytest.mark.parametrize(
    "name, train",
    [
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("network", "block")),
        ("layer", True),
        ("layer", False),
    ],
)
def test_a_mapped_module_is_one_module_for_each(name, train):
    made, shape = MODULES[name]
    x = jnp.stack([images_of(*shape), 2 * images_of(*shape)])
    every = lifted(
        made,
        partial(
            nn.vmap,
            in_axes=(0, None),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
        ),
    )
    init = jax.jit(every.init, static_argnums=2, compiler_options=QUICKLY)
    variables = jax.device_get(init(jax.random.key(0), x, False))  # sliced by NumPy
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], variables) for i in range(2))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))
    found = jax.device_get(outcome(every, variables, x, train))
    for i, own in enumerate((first, second)):
        wanted = outcome(made(), own, x[i], train=train)
        assert_equal(jax.tree.map(lambda leaf, i=i: leaf[i], found), wanted)


@every_train
def test_a_scanned_block_is_the_blocks_in_turn(train):
    made, shape = MODULES["block"]
    x, deep = images_of(*shape), 3

    class Stack(nn.Module):
        """Equal blocks, one after the other."""

        @nn.compact
        def __call__(self, x, train):
            scan = nn.scan(
                lambda block, x, _: (block(x, train), None),
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                length=deep,
            )
            return scan(made(name="block"), x, None)[0]

    init = jax.jit(Stack().init, static_argnums=2, compiler_options=QUICKLY)
    variables = jax.device_get(init(jax.random.key(0), x, False))  # sliced by NumPy

    def outputs(module):
        apply = partial(module.apply, mutable=["batch_stats"])
        return jax.jit(apply, static_argnums=2, compiler_options=QUICKLY)

    found, _ = outputs(Stack())(variables, x, train)
    one, wanted = outputs(made()), x
    for i in range(deep):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], variables)
        own = {collection: tree["block"] for collection, tree in own.items()}
        wanted, _ = one(own, wanted, train)
    assert_equal(found, wanted)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_lifted(name):
    made, shape = MODULES[name]
    x = images_of(*shape)
    wanted = jax.eval_shape(lambda key: made().init(key, x, train=False), jax.random.key(0))
    for way in (nn.remat, nn.jit):
        module = lifted(made, partial(way, static_argnums=(2,)))
        found = jax.eval_shape(lambda key, m=module: m.init(key, x, False), jax.random.key(0))
        assert found == wanted


def test_feature_maps_take_it_by_position_too():
    model, x = NETWORK(), images_of(2, 32, 32, 3)
    variables = random_variables(model, x, train=False)
    found = model.apply(variables, x, False, method="features")
    assert_equal(found, model.apply(variables, x, train=False, method="features"))
