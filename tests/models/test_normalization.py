"""Batch normalization of one value a channel, of which nothing would be left."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from messages import assert_refused, call_command, one_line

from mnet_jax import architectures, models
from mnet_jax.commands import train
from mnet_jax.training.microbatches import in_groups

pytestmark = pytest.mark.usefixtures("quickly_compiled")
# The first layer whose map is 1x1, by the papers' tables; V4 also normalizes what is pooled.
LONE = [
    (models.mobilenet_v1, 32, "block_11/depthwise"),
    (models.mobilenet_v2, 32, "block_13/depthwise"),
    (models.mobilenet_v3_small, 32, "block_8/depthwise"),
    (models.mobilenet_v4_conv_small, 64, "head/hidden"),
    (models.ConvNorm, 1, "the layer"),
    (models.DepthwiseSeparable, 1, "depthwise"),
    (models.InvertedResidual, 1, "depthwise"),
    (models.FusedInvertedResidual, 1, "expand"),
]
BLOCKS = {
    models.ConvNorm: {"outputs": 4},
    models.DepthwiseSeparable: {"outputs": 4},
    models.InvertedResidual: {"outputs": 4},
    models.FusedInvertedResidual: {"outputs": 4, "expanded": 8},
}


def images_of(count, side):
    return jax.ShapeDtypeStruct((count, side, side, 3), jnp.float32)


def variables_of(model, side, **mode):
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images_of(1, side))


def training(model, variables, images):
    """The shapes of a network's training, which is refused when it is traced."""
    apply = partial(model.apply, train=True, mutable=["batch_stats"])
    return jax.eval_shape(apply, variables, images, rngs={"dropout": jax.random.key(0)})


@pytest.mark.parametrize("network, side, layer", LONE)
def test_one_value_a_channel_is_refused_in_training_and_nowhere_else(network, side, layer):
    model = network(**BLOCKS.get(network, {}))
    variables = variables_of(model, side)
    refused = partial(training, model, variables, images_of(1, side))
    one_line(ValueError, refused, f"{layer}: got 1 value a channel", "(1, ", "legal: more than 1")
    training(model, variables, images_of(2, side))
    jax.eval_shape(partial(model.apply, train=False), variables, images_of(1, side))


def test_init_in_training_takes_one_image_as_it_keeps_no_statistics():
    layer = models.ConvNorm(4)
    variables = layer.init(jax.random.key(0), jnp.ones((1, 1, 1, 3)), train=True)
    assert not variables["batch_stats"]["norm"]["mean"].any()


@pytest.mark.parametrize("network, side, layer", LONE[:4])
def test_arithmetic_finds_the_layer_that_the_network_refuses(network, side, layer):
    spec = network().spec
    assert architectures.unnormalizable_layer(spec, side, 1).name == layer
    assert architectures.unnormalizable_layer(spec, side, 2) is None


@pytest.mark.parametrize("frozen, refused", [(11, True), (12, True), (13, False)])
def test_parts_that_are_frozen_have_their_running_statistics(frozen, refused):
    """V1 at 32 pixels strides to 1x1 in block 11, the thirteenth part."""
    published = architectures.mobilenet_v1()
    spec = dataclasses.replace(published, blocks=published.blocks[:12])
    model = models.MobileNet(spec=spec, frozen=frozen)
    variables = variables_of(model, 32)
    lone = architectures.unnormalizable_layer(spec, 32, 1, frozen=frozen)
    assert bool(lone) == refused
    if refused:
        one_line(ValueError, lambda: training(model, variables, images_of(1, 32)), lone.name)
    else:
        training(model, variables, images_of(1, 32))


def test_devices_that_pool_their_statistics_have_several_values():
    alone = models.ConvNorm(4, kernel=3)
    pooled = models.ConvNorm(4, kernel=3, setting=models.Setting(axis_name="batch"))
    variables = alone.init(jax.random.key(0), jnp.zeros((1, 1, 1, 3)), train=False)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1, 1, 1, 3)), jnp.float32)

    def each(layer, x):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])

    found, _ = jax.vmap(partial(each, pooled), axis_name="batch")(x)
    together, _ = each(alone, x[:, 0])
    np.testing.assert_allclose(found[:, 0], together, rtol=1e-5, atol=1e-6)
    one_line(ValueError, lambda: jax.vmap(partial(each, alone))(x), "1 value a channel")


def test_groups_of_one_image_are_refused():
    model = models.mobilenet_v4_conv_small(num_classes=3)
    variables = variables_of(model, 64)
    keys = {"dropout": jax.random.key(0)}
    step = partial(in_groups(model.apply, 2), train=True, mutable=["batch_stats"], rngs=keys)
    one_line(ValueError, lambda: jax.eval_shape(step, variables, images_of(2, 64)), "head/hidden")
    jax.eval_shape(step, variables, images_of(4, 64))


@pytest.mark.parametrize(
    "words, layer",
    [
        ("--batch-size 1 --model mobilenet_v4_conv_small", "head/hidden"),
        ("--batch-size 64 --accumulate 64 --model mobilenet_v4_conv_small", "head/hidden"),
        ("--batch-size 64 --norm-groups 64 --model mobilenet_v4_conv_small", "head/hidden"),
        ("--batch-size 1 --input-stride 4 --model mobilenet_v2", "block_"),
    ],
)
def test_a_command_refuses_it_before_it_trains(words, layer, tmp_path, monkeypatch, capfd):
    words = [*words.split(), "--run", str(tmp_path / "run")]
    answer = call_command(train, words, monkeypatch, capfd)
    assert_refused(answer, "train", "--batch-size: got ", " at a time", layer)
    assert not (tmp_path / "run").exists()
