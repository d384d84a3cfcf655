"""Networks for segmentation: their operations in NumPy, and training with any backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import images_of, quick_jit, random_variables, selected, small_v4

from mnet_jax import models
from mnet_jax.architectures import deeplabv3, lraspp, mobilenet_v2, segmentation
from mnet_jax.models.dense import resize

BACKBONES = {
    "v2": lambda: selected(mobilenet_v2(width=0.25), (0, 1, 3, 6)),
    "v4": small_v4,
}


def bilinear(x, size):
    """Bilinear interpolation by its definition, one axis after the other; x is [b, h, w, c]."""
    for axis, wanted in zip((1, 2), size, strict=True):
        length = x.shape[axis]
        at = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, length - 1)
        below = np.floor(at).astype(int)
        above = np.minimum(below + 1, length - 1)
        shape = [-1 if a == axis else 1 for a in range(4)]
        share = (at - below).reshape(shape)
        x = (1 - share) * x.take(below, axis) + share * x.take(above, axis)
    return x


def segmenter(spec, images):
    model = models.Segmenter(spec=spec, lowering="grouped")
    return model, random_variables(model, images, train=False)


@pytest.mark.parametrize("size", [(7, 9), (14, 18), (20, 31), (33, 9)])
def test_resize_is_bilinear_interpolation(size):
    x = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype(np.float32)
    np.testing.assert_allclose(resize(jnp.asarray(x), size), bilinear(x, size), atol=1e-5)


def test_one_position_is_resized_to_a_constant():
    x = jnp.asarray([[[[1.0, 2.0]]]])
    np.testing.assert_array_equal(resize(x, (3, 5)), np.broadcast_to(x, (1, 3, 5, 2)))


@pytest.mark.parametrize("pool", [None, segmentation.Pool(window=2, strides=(2, 3))])
def test_lraspp_by_hand(pool):
    spec = lraspp(BACKBONES["v2"](), num_classes=4, channels=8, pool=pool)
    images = images_of(2, 65, 96, 3)
    model, variables = segmenter(spec, images)
    found = quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    backbone = models.MobileNet(spec=spec.backbone, lowering="grouped")
    own = {kind: tree["backbone"] for kind, tree in variables.items()}
    blocks = (spec.head.low_block,)
    maps = quick_jit(
        lambda v, x: backbone.apply(v, x, blocks, train=False, method="block_maps")
    )(own, images)  # fmt: skip
    low, high = (np.asarray(x) for x in maps)
    assert (low.shape[1:3], high.shape[1:3]) == ((9, 12), (5, 6))
    head = jax.tree.map(np.asarray, variables["params"]["head"])
    statistics = jax.tree.map(np.asarray, variables["batch_stats"]["head"]["project"]["norm"])
    norm = head["project"]["norm"]
    x = high @ head["project"]["conv"]["kernel"]
    x = (x - statistics["mean"]) / np.sqrt(statistics["var"] + spec.dialect.norm_epsilon)
    x = np.maximum(x * norm["scale"] + norm["bias"], 0)
    if pool is None:
        pooled = high.mean((1, 2), keepdims=True)
    else:  # rows 0 and 2, columns 0 and 3, of 5 x 6 positions
        corners = [[high[:, r : r + 2, c : c + 2].mean((1, 2)) for c in (0, 3)] for r in (0, 2)]
        pooled = np.moveaxis(np.asarray(corners), 2, 0)
    gate = 1 / (1 + np.exp(-(pooled @ head["gate"]["kernel"])))
    x = bilinear(x * bilinear(gate, (5, 6)), (9, 12))
    scores = x @ head["classifier"]["kernel"] + head["classifier"]["bias"]
    scores += low @ head["low_classifier"]["kernel"] + head["low_classifier"]["bias"]
    expected = bilinear(scores, (65, 96))
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", [lraspp, deeplabv3])
@pytest.mark.parametrize("network", BACKBONES)
def test_any_backbone_is_built_and_trained_under_jit(network, head):
    spec = head(BACKBONES[network](), num_classes=4, channels=8)
    images = images_of(2, 64, 65, 3)
    model, variables = segmenter(spec, images)
    shapes = {
        "/".join(key.key for key in path): x.shape
        for path, x in jax.tree_util.tree_leaves_with_path(variables)
    }
    assert shapes == segmentation.variable_shapes(spec)
    labels = np.random.default_rng(0).integers(0, 4, (2, 64, 65))

    @quick_jit
    def step(params):
        def loss(params):
            scores, updated = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )  # fmt: skip
            logs = jax.nn.log_softmax(scores)
            picked = jnp.take_along_axis(logs, labels[..., None], axis=-1)
            return -picked.mean(), (scores, updated)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (scores, updated)), gradient = step(variables["params"])
    assert scores.shape == (2, 64, 65, 4) and scores.dtype == jnp.float32
    for path, x in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(x).all() and np.abs(x).max() > 0, path
    for new, old in zip(*map(jax.tree.leaves, (updated, variables["batch_stats"])), strict=False):
        assert np.isfinite(new).all() and (new != old).any()


@pytest.mark.parametrize("head", [lraspp, deeplabv3])
def test_backbone_of_a_trained_classifier(head):
    network = BACKBONES["v4"]()
    images = images_of(1, 32, 32, 3)
    _, variables = segmenter(head(network, channels=8), images)
    classifier = models.MobileNet(spec=network)
    trained = jax.tree.map(lambda x: x + 1, random_variables(classifier, images, train=False))
    merged = models.with_trained_backbone(variables, trained)
    assert jax.tree.structure(merged) == jax.tree.structure(variables)
    for kind in ("params", "batch_stats"):
        own = {**trained[kind], "head": {"conv": trained[kind]["head"]["conv"]}}
        jax.tree.map(np.testing.assert_array_equal, merged[kind]["backbone"], own)
        same = (merged[kind]["head"], variables[kind]["head"])
        jax.tree.map(np.testing.assert_array_equal, *same)
    other, wide = (
        random_variables(models.MobileNet(spec=spec), images, train=False)
        for spec in (BACKBONES["v2"](), small_v4(width=0.5))
    )
    with pytest.raises(ValueError, match="trained: got 'nothing', legal: an array for "):
        models.with_trained_backbone(variables, other)
    with pytest.raises(ValueError, match=r"trained .*/backbone/.*: got \(.*\), legal: \("):
        models.with_trained_backbone(variables, wide)


def test_images_of_the_wrong_shape_are_refused():
    model = models.Segmenter(spec=lraspp(BACKBONES["v2"]()))
    with pytest.raises(ValueError, match=r"images: got shape \(1, 64, 64, 1\), legal"):
        jax.eval_shape(
            lambda x: model.init(jax.random.key(0), x, train=False),
            jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32),
        )
