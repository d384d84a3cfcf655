"""Feature maps for dense tasks: the last of each stride, finer ones by dilation, half a tail."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from messages import one_line
from small_networks import (
    SMALL,
    evaluate,
    images_of,
    model_and_variables,
    quick_jit,
    selected,
    shortened,
    small_v2,
)

from mnet_jax import architectures, models
from mnet_jax.architectures import FACTORIES, variable_shapes

# The channels of the last map of each stride, from the papers' tables; the head's layer last.
MAPS = {
    "mobilenet_v1": {2: 64, 4: 128, 8: 256, 16: 512, 32: 1024},
    "mobilenet_v2": {2: 16, 4: 24, 8: 32, 16: 96, 32: 1280},
    "mobilenet_v3_large": {2: 16, 4: 24, 8: 40, 16: 112, 32: 960},
    "mobilenet_v3_small": {2: 16, 4: 16, 8: 24, 16: 48, 32: 576},
    "mobilenet_v4_conv_small": {2: 32, 4: 32, 8: 64, 16: 96, 32: 960},
    "mobilenet_v4_conv_medium": {2: 32, 4: 48, 8: 80, 16: 160, 32: 960},
    "mobilenet_v4_conv_large": {2: 24, 4: 48, 8: 96, 16: 192, 32: 960},
    "mobilenet_v4_hybrid_medium": {2: 32, 4: 48, 8: 80, 16: 160, 32: 960},
    "mobilenet_v4_hybrid_large": {2: 24, 4: 48, 8: 96, 16: 192, 32: 960},
}


def map_shapes(model, size, variables=None, train=False):
    """The maps' shapes, with variables of the shapes that `variable_shapes` gives."""
    variables = variables or shapes_of_variables(model.spec)
    features = partial(model.apply, train=train, method="features", mutable=["batch_stats"])
    maps, _ = jax.eval_shape(features, variables, jax.ShapeDtypeStruct((2, *size, 3), jnp.float32))
    return maps


def shapes_of_variables(spec):
    flat = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32)
        for path, shape in variable_shapes(spec).items()
    }
    return unflatten_dict(flat, sep="/")


@pytest.mark.parametrize("network", FACTORIES)
def test_features_are_the_last_map_of_each_stride(network):
    model = getattr(models, network)(lowering="grouped", dtype=jnp.bfloat16)
    maps = map_shapes(model, (65, 96))
    shapes = {stride: x.shape for stride, x in maps.items()}
    assert shapes == {
        stride: (2, -(-65 // stride), 96 // stride, channels)
        for stride, channels in MAPS[network].items()
    }
    assert list(shapes) == sorted(shapes)
    assert {x.dtype for x in maps.values()} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("output_stride", [8, 16, pytest.param(32, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("network", FACTORIES)
def test_backbone_stops_at_its_output_stride_with_the_same_variables(network, output_stride):
    model = getattr(models, network)(lowering="grouped")
    backbone = model.as_backbone(output_stride=output_stride)
    # With the variables of the network itself.
    maps = map_shapes(backbone, (65, 96), shapes_of_variables(model.spec), train=True)
    shapes = {stride: x.shape for stride, x in maps.items()}
    expected = {
        stride: (2, -(-65 // stride), 96 // stride, channels)
        for stride, channels in MAPS[network].items()
        if stride <= output_stride
    }
    last = MAPS[network][32]
    expected[output_stride] = (2, -(-65 // output_stride), 96 // output_stride, last)
    assert shapes == expected
    assert variable_shapes(backbone.spec) == variable_shapes(model.spec)
    assert backbone.dtype == model.dtype and backbone.lowering == model.lowering


@pytest.mark.parametrize("output_stride", [16, pytest.param(32, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("network", FACTORIES)
def test_reduced_tail_halves_the_coarsest_map_and_leaves_the_finer_ones(network, output_stride):
    model = getattr(models, network)(lowering="grouped")
    backbone = model.as_backbone(output_stride=output_stride, reduced_tail=True)
    channels = {s: x.shape[-1] for s, x in map_shapes(backbone, (64, 64)).items()}
    expected = {s: c for s, c in MAPS[network].items() if s < output_stride}
    assert channels == expected | {output_stride: MAPS[network][32] / 2}


def test_input_stride_makes_the_strides_of_the_maps_smaller():
    model = models.mobilenet_v3_small(input_stride=1, lowering="grouped")
    sizes = {stride: x.shape[1] for stride, x in map_shapes(model, (32, 32)).items()}
    assert sizes == {1: 32, 2: 16, 4: 8, 8: 4}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: models.mobilenet_v2().as_backbone(output_stride=4), "output_stride: got 4, legal"),
        (lambda: models.mobilenet_v4_conv_small().as_backbone(output_stride=64), "legal: 8, 16"),
        (
            lambda: models.MobileNet(spec=shortened(small_v2(), 1)).as_backbone(reduced_tail=True),
            "reduced_tail: mobilenet_v2 has no strided block",
        ),
    ],
)
def test_impossible_backbones_are_one_line(call, words):
    one_line(ValueError, call, words)


@pytest.mark.parametrize("name", SMALL)
def test_the_coarsest_map_is_what_the_head_pools(name):
    model, variables = model_and_variables(SMALL[name]())
    images = images_of(2, 32, 33, 3)
    _, named = evaluate(model, variables, images)
    maps = quick_jit(lambda v, x: model.apply(v, x, train=False, method="features"))(
        variables, images
    )
    coarsest = maps[max(maps)]
    np.testing.assert_allclose(coarsest.mean((1, 2)), named["head"]["pooled"], rtol=1e-4, atol=1e-5)
    last = {}  # the last block of each stride, counted by hand
    stride = 2
    last[stride] = named["stem_output"]
    for i, block in enumerate(model.spec.blocks):
        stride *= block.stride
        last[stride] = named[f"block_{i}_output"]
    assert maps.keys() == last.keys()
    for stride in list(maps)[:-1]:
        np.testing.assert_allclose(maps[stride], last[stride], rtol=1e-5, atol=1e-5)


def features_of(spec, variables, images, output_stride):
    model = models.MobileNet(spec=spec, lowering="grouped")
    backbone = model.as_backbone(output_stride=output_stride)
    apply = quick_jit(lambda v, x: backbone.apply(v, x, train=False, method="features"))
    return jax.device_get(apply(variables, images))


def assert_close_to_scale(a, b, tolerance=1e-4):
    assert a.shape == b.shape
    scale = np.abs(b).max()
    assert scale > 1e-3
    np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


def sparse(spec):
    """Without the blocks that change neither stride nor channels, but for one after each stride."""
    blocks = [(None, spec.blocks[0]), *itertools.pairwise(spec.blocks)]
    kept = [
        i
        for i, (before, block) in enumerate(blocks)
        if i == 0 or block.inputs != block.outputs or 2 in (before.stride, block.stride)
    ]
    return selected(spec, kept)


SYMMETRIC = [
    ("mobilenet_v1", "timm"),
    ("mobilenet_v2", "torchvision"),
    ("mobilenet_v3_large", "timm"),
    ("mobilenet_v4_conv_small", "timm"),
    ("mobilenet_v4_conv_large", "timm"),
    *(
        pytest.param(*case, marks=pytest.mark.exhaustive)
        for case in [
            ("mobilenet_v2", "timm"),
            ("mobilenet_v3_large", "torchvision"),
            ("mobilenet_v3_small", "timm"),
            ("mobilenet_v4_conv_medium", "timm"),
        ]
    ),
]


@pytest.mark.parametrize(("network", "dialect"), SYMMETRIC)
def test_dilated_maps_are_the_coarse_ones_at_every_second_or_fourth_position(network, dialect):
    """arXiv 1706.05587, section 3.1: a dilated window sees what the strided one saw."""
    options = {"dialect": dialect, "width": 0.35, "num_classes": 5}
    if network.startswith("mobilenet_v3"):
        options["squeeze_excite"] = False  # its mean would be over more positions
    spec = sparse(FACTORIES[network](**options))
    _, variables = model_and_variables(spec, lowering="grouped")
    images = images_of(1, 65, 64, 3)  # maps of odd and even sizes
    coarse, finer, finest = (features_of(spec, variables, images, s) for s in (32, 16, 8))
    assert [max(maps) for maps in (coarse, finer, finest)] == [32, 16, 8]
    assert_close_to_scale(finer[16][:, ::2, ::2], coarse[32])
    assert_close_to_scale(finest[8][:, ::4, ::4], coarse[32])
    for stride in (2, 4, 8):
        assert_close_to_scale(finer[stride], coarse[stride])


def test_dilated_maps_differ_under_tensorflows_padding():
    """At even sizes SAME pads a strided window unlike one of stride 1: other positions are seen."""
    spec = sparse(architectures.mobilenet_v1(width=0.125))
    _, variables = model_and_variables(spec, lowering="grouped")
    coarse, finer = (features_of(spec, variables, images_of(1, 64, 64, 3), s) for s in (32, 16))
    found = finer[16][:, ::2, ::2]
    assert found.shape == coarse[32].shape
    assert np.abs(found - coarse[32]).max() > 0.01 * np.abs(coarse[32]).max()
