"""Mixup and CutMix by hand, given the permutation and the proportion that were drawn."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from mnet_jax.config import TrainingConfig
from mnet_jax.training import optimizer
from mnet_jax.training.hyperparameters import Hyperparameters, StaticRecipe
from mnet_jax.training.mixing import Mixed, mix, outside_box
from mnet_jax.training.step import initial_state, make_train_step

pytestmark = pytest.mark.usefixtures("quickly_compiled")

LIKELY = 1e-4
SIDES = (10, 12)
COUNT = 8
# Image i is i everywhere, so that each pixel says whose it is.
BATCH = {
    "image": jnp.broadcast_to(jnp.arange(8.0)[:, None, None, None], (COUNT, *SIDES, 3)),
    "label": jnp.arange(COUNT),
}
BOTH = {"mixup": 0.4, "cutmix": 1.0}
DRAWS = 3000
KEYS = jax.vmap(jax.random.key)(np.arange(DRAWS))


@jax.jit
def mixed_by(keys, alphas):
    """Compiled once for mixup, for CutMix and for both."""
    return jax.vmap(lambda key: mix(BATCH, key, alphas))(keys)


def drawn(alphas, keys=KEYS):
    """Many batches: Mixed with an axis in front."""
    alphas = {name: jnp.float32(alpha) for name, alpha in alphas.items()}
    return jax.tree.map(np.asarray, mixed_by(keys, alphas))


def boxes_of(found):
    """Whether each pixel is the partner's, bool [n, h, w], of images that are not their own's."""
    own = found.images[..., 0] == np.arange(COUNT)[:, None, None]
    other = found.images[..., 0] == found.partners[:, :, None, None]
    assert (own | other).all(), "a pixel is the one's or the other's"
    different = (found.partners != np.arange(COUNT)).argmax(axis=1)
    return ~own[np.arange(len(own)), different], different


def test_nothing_is_mixed_without_an_alpha():
    mixed = mix(BATCH, jax.random.key(0), {})
    assert mixed.images is BATCH["image"] and mixed.labels is BATCH["label"]
    assert mixed.partners is None and mixed.share is None


def test_mixup_is_the_papers_formula():
    found = drawn({"mixup": 0.4})
    share = found.share[:, None, None, None, None]
    own = np.asarray(BATCH["image"])
    partners = own[found.partners]
    np.testing.assert_allclose(found.images, share * own + (1 - share) * partners, atol=1e-5)
    np.testing.assert_array_equal(
        np.sort(found.partners, axis=1), np.tile(np.arange(8), (DRAWS, 1))
    )
    np.testing.assert_array_equal(found.labels, np.tile(np.arange(8), (DRAWS, 1)))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_the_share_is_betas(alpha):
    share = drawn({"mixup": alpha}).share
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > LIKELY
    assert len({*share.tolist()}) > 2000


@pytest.mark.parametrize("alpha", [1e-6, 1000.0])
def test_extreme_alphas_are_numbers(alpha):
    found = drawn({"mixup": alpha, "cutmix": alpha})
    assert np.isfinite(found.images).all() and ((found.share >= 0) & (found.share <= 1)).all()


def test_a_cutmix_is_a_box_of_the_partner_whose_area_is_its_share():
    found = drawn({"cutmix": 1.0})
    boxes, _ = boxes_of(found)
    np.testing.assert_allclose(boxes.mean(axis=(1, 2)), 1 - found.share, atol=1e-6)
    for box in boxes:
        rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
        if len(rows):
            assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert box.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    covered = boxes.mean(axis=0)
    assert covered.min() > 0.05, "every pixel is sometimes in a box"


def box_by_hand(height, width, share, y, x):
    """The authors' `rand_bbox`, given its draws."""
    ratio = np.sqrt(1.0 - share)
    h, w = int(height * ratio), int(width * ratio)
    weight = np.ones((height, width))
    top, bottom = np.clip([y - h // 2, y + h // 2], 0, height)
    left, right = np.clip([x - w // 2, x + w // 2], 0, width)
    weight[top:bottom, left:right] = 0
    return weight


@pytest.mark.parametrize("share", [0.0, 0.13, 0.5, 0.87, 1.0])
@pytest.mark.parametrize(("y", "x"), [(0, 0), (9, 11), (4, 6), (2, 10)])
def test_a_box_is_the_authors(share, y, x):
    found = outside_box(SIDES, jnp.float32(share), jnp.array([y, x]))
    np.testing.assert_array_equal(found, box_by_hand(*SIDES, share, y, x))


def test_cutmix_keeps_as_much_of_its_label_as_the_authors():
    rng, count = np.random.default_rng(0), 20000
    shares, ys, xs = rng.beta(1, 1, count), rng.integers(0, 10, count), rng.integers(0, 12, count)
    expected = [box_by_hand(*SIDES, *given).mean() for given in zip(shares, ys, xs, strict=True)]
    found = drawn({"cutmix": 1.0}).share  # of 10 x 12 pixels
    pixels = [np.rint(np.multiply(share, 120)) for share in (found, expected)]
    assert stats.ks_2samp(*pixels).pvalue > LIKELY


def test_with_both_each_has_half_of_the_batches():
    found = drawn(BOTH)
    whole = np.array([np.isin(image, np.arange(8)).all() for image in found.images])
    # Mixed pixels lie between the two, but for the few shares that round to 0 or 1.
    assert stats.binomtest(int(whole.sum()), len(whole), 0.5).pvalue > LIKELY


def test_the_loss_is_cross_entropy_with_the_soft_target():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 5)).astype(np.float32)
    labels, partners = rng.integers(0, 5, 6), rng.integers(0, 5, 6)
    log_p = logits - special.logsumexp(logits, axis=1, keepdims=True)
    for share, smoothing in ((0.3, 0.0), (0.3, 0.1), (1.0, 0.1), (0.0, 0.0)):
        target = share * np.eye(5)[labels] + (1 - share) * np.eye(5)[partners]
        target = (1 - smoothing) * target + smoothing / 5
        mixed = Mixed(jnp.zeros(()), labels, partners, jnp.float32(share))
        found = mixed.losses(jnp.asarray(logits), smoothing)
        np.testing.assert_allclose(found, -(target * log_p).sum(axis=1), rtol=1e-5)


# In a step, of a linear model that returns the images that it was given.

BASE = TrainingConfig(warmup_epochs=0.0, label_smoothing=0.1, ema_decay=0.0, weight_decay=0.0)
KERNEL = np.random.default_rng(1).normal(size=(10 * 12 * 3, COUNT)).astype(np.float32) / 50


def linear(variables, images, *, train, mutable, rngs):
    flat = images.reshape(len(images), -1)
    return flat @ variables["params"]["head"]["kernel"], {"batch_stats": images}


def parts_of(config, axis_name=None):
    """A step (state, batch, numbers), its first state, and numbers."""
    update = optimizer.make(StaticRecipe.of(config), ("head",))
    hyperparams = Hyperparameters.of(config)
    variables = {"params": {"head": {"kernel": jnp.asarray(KERNEL)}}, "batch_stats": BATCH["image"]}
    state = initial_state(variables, update(hyperparams), jax.random.key(3))
    return make_train_step(linear, update, axis_name=axis_name), state, hyperparams


def pytest_generate_tests(metafunc):
    """A step compiles for seconds, and what is drawn with one number alone is tested above."""
    if "alphas" in metafunc.fixturenames:
        alone = [{"mixup": 0.4}, {"cutmix": 1.0}]
        exhaustive = metafunc.config.getoption("exhaustive")
        metafunc.parametrize("alphas", [BOTH, *(alone if exhaustive else ())], ids=str)


def test_a_step_learns_the_mixed_batch(alphas):
    config = dataclasses.replace(BASE, **alphas)
    step, state, hyperparams = parts_of(config)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(step, n=1))
    seen = set()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(state.dropout_key, np.arange(DRAWS))
    every = drawn(alphas, keys)
    for n in range(4):
        before = np.asarray(state.params["head"]["kernel"], np.float64)
        mixed = jax.tree.map(lambda x, n=n: x[n], every)
        state, found = step(state, BATCH, hyperparams)
        np.testing.assert_allclose(state.batch_stats, mixed.images, atol=1e-5)
        logits = mixed.images.reshape(COUNT, -1) @ before
        log_p = logits - special.logsumexp(logits, axis=1, keepdims=True)
        target = mixed.share * np.eye(COUNT) + (1 - mixed.share) * np.eye(COUNT)[mixed.partners]
        target = 0.9 * target + 0.1 / COUNT
        assert float(found["loss"]) == pytest.approx(-(target * log_p).sum(axis=1).mean(), rel=1e-4)
        own = (logits.argmax(axis=1) == np.arange(COUNT)).mean()
        assert float(found["accuracy"]) == pytest.approx(own)
        seen.add(float(mixed.share))
    assert len(seen) == 4, "each step draws anew"
    others = {name: alpha * 2 for name, alpha in alphas.items()}
    step(
        state, BATCH, Hyperparameters.of(dataclasses.replace(BASE, **others))
    )  # the same executable


def test_without_mixing_a_step_draws_nothing():
    step, state, hyperparams = parts_of(BASE)
    assert not hyperparams.mixing and StaticRecipe.of(BASE).mixing == ()
    assert "random_bits" not in str(jax.make_jaxpr(step)(state, BATCH, hyperparams))
    after, _ = jax.jit(step)(state, BATCH, hyperparams)
    np.testing.assert_array_equal(after.batch_stats, BATCH["image"])
    step, state, hyperparams = parts_of(dataclasses.replace(BASE, mixup=0.2))
    assert "random_bits" in str(jax.make_jaxpr(step)(state, BATCH, hyperparams))


def test_devices_mix_their_own_images_in_proportions_of_their_own():
    """The axis of vmap stands for pmap's."""
    step, state, hyperparams = parts_of(dataclasses.replace(BASE, mixup=1.0), axis_name="batch")
    shared = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), BATCH)
    state = state.replace(batch_stats=shared["image"][0])
    on_both = jax.jit(jax.vmap(step, axis_name="batch", in_axes=(None, 0, None)))
    after, _ = on_both(state, shared, hyperparams)
    first, second = np.asarray(after.batch_stats)
    assert first.min() >= 0 and first.max() <= 3 and second.min() >= 4 and second.max() <= 7
    assert np.abs(second - first - 4).max() > 1e-3
