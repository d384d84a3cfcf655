"""The papers' tables and the released models' exact counts, against our arithmetic and parameters.

Oracles: V1 is arXiv 1704.04861, V2 is arXiv 1801.04381; the exact integers are the parameter counts
of the released Keras and torchvision models, which the papers print rounded.
"""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnet_jax import architectures, models
from mnet_jax.analysis import cost
from mnet_jax.architectures import walk

V1, V2 = "mobilenet_v1", "mobilenet_v2"

# network, options, trainable, with BatchNorm statistics (None: not published), MAdds in millions
COUNTS = [
    (V1, {}, 4_231_976, 4_253_864, {224: 568.7, 192: 418.1, 160: 290.7, 128: 186.4}),
    (V1, {"width": 0.75}, 2_585_560, 2_601_976, {224: 325.4}),
    (V1, {"width": 0.5}, 1_331_592, 1_342_536, {224: 149.5}),
    (V1, {"width": 0.25}, 470_072, 475_544, {224: 41.0}),
    (V1, {"convolution": "full"}, 29_294_088, None, {224: 4867}),
    (V1, {"depth": "shallow"}, 2_887_976, None, {224: 307.3}),
    (V2, {"width": 1.4}, 6_108_776, 6_156_712, {224: 582.2}),
    (V2, {}, 3_504_872, 3_538_984, {224: 300.8}),
    (V2, {"width": 0.75}, 2_636_424, 2_663_064, {224: 209.1}),
    (V2, {"width": 0.5}, 1_968_680, 1_987_224, {224: 97.1}),
    (V2, {"expansion": 1}, 1_871_432, None, {224: 63.7}),
    (V2, {"expansion": 3}, 2_601_416, None, {224: 171.5}),
    (V2, {"expansion": 10}, 4_709_480, None, {224: 473.1}),
]


def named(network, options):
    return "-".join([network, *(f"{name}={value}" for name, value in options.items())])


counts = pytest.mark.parametrize(
    ("network", "options", "trainable", "with_statistics", "madds"),
    COUNTS,
    ids=[named(*row[:2]) for row in COUNTS],
)


def spec_of(network, options):
    return getattr(architectures, network)(**options)


@cache
def initialized_shapes(spec):
    model = models.MobileNet(spec=spec, lowering="grouped")
    images = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@counts
def test_cost_counts_the_published_parameters_and_madds(
    network, options, trainable, with_statistics, madds
):
    spec = spec_of(network, options)
    for resolution, millions in madds.items():
        counted = cost.count(spec, resolution)
        assert counted.params == trainable
        assert with_statistics in (None, counted.params + counted.statistics)
        digits = 0 if isinstance(millions, int) else 1
        assert round(counted.madds / 1e6, digits) == millions


@counts
def test_initialized_network_has_the_published_parameters(
    network, options, trainable, with_statistics, madds
):
    variables = initialized_shapes(spec_of(network, options))
    assert elements(variables["params"]) == trainable
    assert with_statistics in (None, elements(variables))


# The papers' own rounded figures: network, options, resolution, M parameters, M MAdds.
PRINTED = [
    (V1, {}, 224, 4.2, 569),
    (V1, {"convolution": "full"}, 224, 29.3, 4866),
    (V1, {"depth": "shallow"}, 224, 2.9, 307),
    (V1, {"width": 0.75}, 224, 2.6, 325),
    (V1, {"width": 0.5}, 224, 1.3, 149),
    (V1, {"width": 0.25}, 224, 0.5, 41),
    (V1, {}, 192, 4.2, 418),
    (V1, {}, 160, 4.2, 290),
    (V1, {}, 128, 4.2, 186),
    (V2, {}, 224, 3.5, 300),
]


@pytest.mark.parametrize(("network", "options", "resolution", "params", "madds"), PRINTED)
def test_counts_round_to_what_the_papers_print(network, options, resolution, params, madds):
    counted = cost.count(spec_of(network, options), resolution)
    assert round(counted.params / 1e6, 1) == params
    # The papers both round and truncate, and 4866 leaves the classifier out.
    assert abs(counted.madds / 1e6 - madds) < max(1, 0.0005 * madds)


@pytest.mark.parametrize(
    ("network", "options", "quantity", "published"),
    [
        pytest.param(V2, {"width": 1.4}, "params", 6.9e6, id="V2 Table 4, 1.4"),
        pytest.param(V2, {}, "params", 3.4e6, id="V2 Table 4, 1.0"),
        pytest.param(V2, {"width": 1.4}, "madds", 585e6, id="V2 Table 4, 1.4 MAdds"),
        pytest.param(V1, {"width": 0.75}, "madds", 317e6, id="TF-slim's README, V1 0.75"),
    ],
)
def test_known_discrepancies_are_not_what_arithmetic_gives(network, options, quantity, published):
    counted = getattr(cost.count(spec_of(network, options), 224), quantity)
    assert 0.004 < abs(counted - published) / published < 0.15


# V1, Table 1 at 224: kind, stride, channels in, channels out, input size.
V1_TABLE = [
    ("conv", 2, 3, 32, 224),
    ("depthwise", 1, 32, 32, 112),
    ("pointwise", 1, 32, 64, 112),
    ("depthwise", 2, 64, 64, 112),
    ("pointwise", 1, 64, 128, 56),
    ("depthwise", 1, 128, 128, 56),
    ("pointwise", 1, 128, 128, 56),
    ("depthwise", 2, 128, 128, 56),
    ("pointwise", 1, 128, 256, 28),
    ("depthwise", 1, 256, 256, 28),
    ("pointwise", 1, 256, 256, 28),
    ("depthwise", 2, 256, 256, 28),
    ("pointwise", 1, 256, 512, 14),
    *[("depthwise", 1, 512, 512, 14), ("pointwise", 1, 512, 512, 14)] * 5,
    ("depthwise", 2, 512, 512, 14),
    ("pointwise", 1, 512, 1024, 7),
    ("depthwise", "misprint", 1024, 1024, 7),
    ("pointwise", 1, 1024, 1024, 7),
    ("dense", 1, 1024, 1000, 1),
]


def test_v1_is_table_1_row_by_row():
    rows = list(walk(architectures.mobilenet_v1(), 224))
    assert len(rows) == len(V1_TABLE)
    for layer, (kind, stride, inputs, outputs, size) in zip(rows, V1_TABLE, strict=True):
        expected = 1 if stride == "misprint" else stride
        assert (layer.kind, layer.stride, layer.inputs) == (kind, expected, inputs), layer
        assert (layer.outputs, layer.input_size) == (outputs, (size, size)), layer
        assert layer.kernel == (3 if kind in ("conv", "depthwise") else 1), layer


def test_v1_last_depthwise_stride_2_is_a_misprint():
    """The table prints stride 2, and gives the next row and the pool 7 x 7, which needs 1."""
    *_, depthwise, pointwise, _ = walk(architectures.mobilenet_v1(), 224)
    assert depthwise.input_size == pointwise.input_size == pointwise.output_size == (7, 7)
    assert math.ceil(depthwise.input_size[0] / 2) != 7


def test_shallow_v1_leaves_out_the_five_14x14x512_layers():
    full, shallow = (
        [(layer.inputs, layer.outputs, layer.output_size) for layer in walk(spec, 224)]
        for spec in (
            architectures.mobilenet_v1(),
            architectures.mobilenet_v1(depth="shallow"),
        )
    )
    assert full.count((512, 512, (14, 14))) == 10  # five depthwise, five pointwise
    assert shallow == [row for row in full if row != (512, 512, (14, 14))]


# V2, Table 2: input size, channels in, t, c, n, s.
V2_TABLE = [
    (112, 32, 1, 16, 1, 1),
    (112, 16, 6, 24, 2, 2),
    (56, 24, 6, 32, 3, 2),
    (28, 32, 6, 64, 4, 2),
    (14, 64, 6, 96, 3, 1),
    (14, 96, 6, 160, 3, 2),
    (7, 160, 6, 320, 1, 1),
]


def test_v2_is_table_2_row_by_row():
    spec = architectures.mobilenet_v2()
    layers = {layer.name: layer for layer in walk(spec, 224)}
    index = 0
    for size, inputs, t, c, n, s in V2_TABLE:
        for repeat in range(n):
            block = spec.blocks[index]
            first = repeat == 0
            depthwise = layers[f"block_{index}/depthwise"]
            project = layers[f"block_{index}/project"]
            assert depthwise.input_size == ((size, size) if first else project.output_size)
            assert block.inputs == (inputs if first else c)
            assert depthwise.inputs == depthwise.outputs == t * block.inputs
            assert (project.inputs, project.outputs) == (t * block.inputs, c)
            assert (f"block_{index}/expand" in layers) == (t != 1)
            assert depthwise.kernel == 3 and depthwise.stride == (s if first else 1)
            assert block.bottleneck == "linear" and block.activation == "relu6"
            assert (block.shortcut == "bottleneck") == (not first)
            index += 1
    assert len(spec.blocks) == index == 17
    stem, last, classifier = layers["stem"], layers["head/conv"], layers["head/classifier"]
    assert (stem.input_size, stem.outputs, stem.stride, stem.kernel) == ((224, 224), 32, 2, 3)
    assert (last.input_size, last.inputs, last.outputs) == ((7, 7), 320, 1280)
    assert (classifier.inputs, classifier.outputs) == (1280, 1000)


@pytest.mark.parametrize(
    ("width", "channels"),
    [(0.35, 1280), (0.5, 1280), (0.999, 1280), (1.0, 1280), (1.3, 1664), (1.4, 1792)],
)
@pytest.mark.parametrize("dialect", ["paper", "keras", "torchvision", "timm"])
def test_v2_last_convolution_grows_above_width_1_and_never_shrinks(width, channels, dialect):
    spec = architectures.mobilenet_v2(width=width, dialect=dialect)
    assert spec.head.conv.outputs == spec.features == channels


@pytest.mark.parametrize("options", [{}, {"width": 0.25}, {"depth": "shallow"}])
def test_depthwise_separation_costs_one_over_n_plus_one_over_k_squared(options):
    """Section 3.1 of V1, equation 5, for each of its depthwise separable layers."""
    spec = architectures.mobilenet_v1(**options)
    separations = cost.count(spec, 128).separations
    assert len(separations) == len(spec.blocks)
    for separation, block in zip(separations, spec.blocks, strict=True):
        expected = 1 / block.outputs + 1 / 9
        assert separation.ratio == pytest.approx(expected, rel=1e-12)
        assert separation.predicted == pytest.approx(expected, rel=1e-12)


def test_full_convolutions_cost_what_the_separations_say():
    separable = cost.count(architectures.mobilenet_v1(), 224)
    full = cost.count(architectures.mobilenet_v1(convolution="full"), 224)
    saved = sum(s.full_madds - s.madds for s in separable.separations)
    assert full.madds == separable.madds + saved
    assert separable.madds / full.madds == pytest.approx(1 / 8.5, abs=0.01)  # "8 to 9 times less"


def test_madds_scale_with_the_square_of_the_resolution_but_for_the_classifier():
    """Equation 7 of V1: rho squared, at resolutions that every stride divides."""
    spec = architectures.mobilenet_v1()
    classifier = 1024 * 1000
    small, large = (cost.count(spec, r).madds - classifier for r in (96, 192))
    assert large == 4 * small


def test_bytes_of_a_layer_are_its_arrays():
    """The stem by hand: 3x3x3 kernels to 32 channels, two normalization vectors, two statistics."""
    spec = architectures.mobilenet_v1()
    wide, narrow = (
        cost.count(spec, (64, 96), activation_itemsize=itemsize).rows[0] for itemsize in (4, 2)
    )
    assert wide.weight_bytes == narrow.weight_bytes == 4 * (27 * 32 + 2 * 32 + 2 * 32)
    touched = np.zeros((64, 96, 3), np.float32).nbytes + np.zeros((32, 48, 32), np.float32).nbytes
    assert (wide.activation_bytes, narrow.activation_bytes) == (touched, touched // 2)
