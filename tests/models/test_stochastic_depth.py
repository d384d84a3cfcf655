"""Stochastic depth: which images skip which blocks, and how often, by timm and NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from messages import one_line
from small_networks import images_of, random_variables
from tiny_network import make_short_spec, make_tiny_spec

from mnet_jax import models
from mnet_jax.architectures import Attention, mobilenet_v1, mobilenet_v2, mobilenet_v3
from mnet_jax.config import RunConfig, TrainingConfig
from mnet_jax.models.network import drop_path_rates

pytestmark = pytest.mark.usefixtures("quickly_compiled")

KEY = jax.random.key(3)


def dropped(rate, x, key=KEY):
    layer = models.DropPath(rate)
    return layer.apply({}, x, deterministic=False, rngs={"dropout": key})


def test_whole_images_are_dropped_and_the_rest_keeps_the_mean():
    x = jnp.ones((4000, 2, 3, 5))
    found = np.asarray(dropped(0.3, x))
    of_image = found.reshape(4000, -1)
    assert (of_image == of_image[:, :1]).all(), "an image is dropped as a whole"
    assert set(np.unique(of_image)) == {np.float32(0), np.float32(1 / 0.7)}
    # Within 4 standard deviations of a Bernoulli mean.
    assert abs(of_image[:, 0].mean() - 1) < 4 * np.sqrt(0.3 / 0.7 / 4000)


def test_what_is_kept_is_scaled_as_timm_scales_it():
    layers = pytest.importorskip("timm.layers", reason="its drop_path is the oracle")
    torch = pytest.importorskip("torch", reason="timm's layers are torch's")
    expected = layers.drop_path(torch.ones(100, 2, 2, 1), drop_prob=0.25, training=True).numpy()
    found = dropped(0.25, jnp.ones((100, 2, 2, 1)))
    np.testing.assert_array_equal(np.unique(found), np.unique(expected))


def test_a_key_draws_the_same_images_again_and_another_key_draws_others():
    x = images_of(64, 2, 2, 3)
    np.testing.assert_array_equal(dropped(0.5, x), dropped(0.5, x))
    assert (dropped(0.5, x) != dropped(0.5, x, jax.random.key(4))).any()


def test_rates_are_timms():
    timm = pytest.importorskip("timm", reason="its drop_path_rate is the oracle")
    network = timm.create_model("mobilenetv2_100", drop_path_rate=0.2)
    expected = [
        block.drop_path.drop_prob if getattr(block, "has_skip", False) else 0
        for stage in network.blocks
        for block in stage
    ]
    assert drop_path_rates(mobilenet_v2(), 0.2) == pytest.approx(expected)
    assert sum(map(bool, expected)) == 10  # shortcuts of V2's Table 2


def outputs_of(model, variables, images, key):
    found = model.apply(
        variables, images, train=True, mutable=["batch_stats", "intermediates"],
        rngs={"dropout": key},
    )[1]["intermediates"]  # fmt: skip
    return found


@pytest.mark.parametrize("kind", ["inverted residual", "attention"])
def test_in_training_an_image_skips_a_block_or_counts_it_more(kind):
    spec = make_short_spec(dropout=0.0)
    (second,) = spec.blocks
    if kind == "attention":
        second = Attention(inputs=second.outputs, heads=2, head_channels=4)
    spec = dataclasses.replace(spec, blocks=(*spec.blocks, second))
    images = images_of(32, 8, 8, 3)
    model = models.MobileNet(spec=spec, drop_path=0.8)
    variables = random_variables(model, images, train=False)
    found = outputs_of(model, variables, images, KEY)
    rate = 0.8 / 2  # of block 1 of 2
    before, after = (np.asarray(found[f"block_{i}_output"][0]) for i in range(2))
    branch = np.asarray(found["block_1"]["projected"][0])
    skipped = np.array([np.array_equal(*pair) for pair in zip(before, after, strict=True)])
    assert 0 < skipped.sum() < 32
    expected = (before + branch / (1 - rate))[~skipped]
    np.testing.assert_allclose(after[~skipped], expected, rtol=1e-5, atol=1e-5)


def test_in_inference_and_in_frozen_parts_nothing_is_skipped():
    spec, images = make_tiny_spec(dropout=0.0), images_of(16, 8, 8, 3)
    plain = models.MobileNet(spec=spec)
    variables = random_variables(plain, images, train=False)
    dropping = plain.clone(drop_path=0.9)
    np.testing.assert_array_equal(
        *(model.apply(variables, images, train=False) for model in (plain, dropping))
    )
    found = [
        model.clone(frozen=3).apply(
            variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": KEY}
        )[0]
        for model in (plain, dropping)
    ]
    np.testing.assert_array_equal(*found)


def test_recomputed_blocks_skip_the_same_images():
    spec, images = make_tiny_spec(dropout=0.0), images_of(16, 8, 8, 3)
    spec = dataclasses.replace(spec, blocks=(spec.blocks[0], *spec.blocks))
    model = models.MobileNet(spec=spec, drop_path=0.9)
    variables = random_variables(model, images, train=False)

    def loss(params, model):
        logits, _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"],
            rngs={"dropout": KEY},
        )  # fmt: skip
        return jnp.square(logits).mean()

    plain, recomputed = (
        jax.jit(jax.grad(lambda p, m=m: loss(p, m)))(variables["params"])
        for m in (model, model.clone(remat="blocks"))
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(recomputed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_rates_and_networks_that_cannot_skip_are_refused():
    one_line(ValueError, lambda: TrainingConfig(drop_path=1.0), "drop_path: got 1.0")
    training = TrainingConfig(drop_path=0.1)
    RunConfig(spec=mobilenet_v3("small"), training=training)
    for spec in (mobilenet_v1(), mobilenet_v2(shortcut="none"), mobilenet_v2(shortcut="expansion")):
        one_line(
            ValueError, lambda spec=spec: RunConfig(spec=spec, training=training),
            "drop_path: got 0.1", "legal: 0",
        )  # fmt: skip
    network = models.MobileNet(spec=make_tiny_spec(), drop_path=-0.1)
    one_line(ValueError, lambda: network.init(KEY, images_of(1, 8, 8, 3), train=False), "drop_path")
