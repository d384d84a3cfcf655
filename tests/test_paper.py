"""The papers' tables and the released models' exact counts, against our arithmetic and parameters.

Oracles: V1 is arXiv 1704.04861, V2 1801.04381, V3 1905.02244, V4 2404.10518; the exact integers are
the parameter counts of the models that Keras, torchvision and timm build, which the papers print
rounded. The tables of `docs/architectures.md` are read and held to the same arithmetic.
"""

import ast
import math
import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnet_jax import architectures, models
from mnet_jax.analysis import cost
from mnet_jax.architectures import FACTORIES, walk
from mnet_jax.architectures.spec import ConvNorm, FusedInvertedResidual

V1, V2 = "mobilenet_v1", "mobilenet_v2"
V3L, V3S = "mobilenet_v3_large", "mobilenet_v3_small"
V4S, V4M, V4L = (f"mobilenet_v4_conv_{size}" for size in ("small", "medium", "large"))
DOCUMENT = (Path(__file__).parents[1] / "docs" / "architectures.md").read_text()

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
    (V3L, {}, 5_483_032, 5_507_432, {224: 216.6}),
    (V3L, {"minimalistic": True}, 3_924_288, 3_948_688, {224: 209.1}),
    (V3S, {}, 2_542_856, 2_554_968, {224: 56.5}),
    (V3S, {"minimalistic": True}, 2_044_736, 2_056_848, {224: 52.3}),
    (V4S, {}, 3_774_024, 3_799_112, {224: 186}),
    (V4M, {}, 9_715_512, 9_783_416, {256: 1080}),
    (V4L, {}, 32_590_864, 32_740_416, {384: 6376}),
]

# The same of what the libraries build under other width multipliers: network, dialect, width,
# trainable, with statistics.
BUILT = [
    (V1, "keras", 0.35, 765_881, 773_521),
    (V1, "timm", 0.35, 763_752, 771_384),
    (V1, "timm", 1.25, 6_270_840, 6_298_200),
    (V2, "torchvision", 0.35, 1_677_128, 1_691_208),
    (V2, "timm", 1.25, 5_050_376, 5_093_224),
    (V2, "keras", 1.5, 6_858_152, 6_909_528),
    (V3L, "torchvision", 0.35, 997_064, 1_005_640),
    (V3L, "torchvision", 0.5, 1_734_576, 1_746_928),
    (V3L, "torchvision", 0.75, 3_377_576, 3_395_992),
    (V3L, "torchvision", 1.25, 8_164_744, 8_195_336),
    (V3L, "timm", 0.35, 2_132_216, 2_141_208),
    (V3L, "timm", 0.5, 2_689_904, 2_702_512),
    (V3L, "timm", 0.75, 3_993_528, 4_012_616),
    (V3L, "timm", 1.25, 7_551_976, 7_582_984),
    (V3L, "timm", 1.5, 9_766_088, 9_803_064),
    (V3L, "keras", 0.35, 2_132_216, 2_141_208),
    (V3L, "keras", 0.75, 3_993_528, 4_012_616),
    (V3L, "keras", 1.25, 8_255_784, 8_286_760),
    (V3L, "keras", 1.5, 11_327_816, 11_364_760),
    (V3S, "torchvision", 0.35, 558_744, 562_984),
    (V3S, "torchvision", 0.75, 1_653_920, 1_663_120),
    (V3S, "torchvision", 1.25, 3_644_912, 3_660_144),
    (V3S, "timm", 0.35, 1_358_808, 1_363_160),
    (V3S, "timm", 0.5, 1_593_224, 1_599_720),
    (V3S, "timm", 0.75, 2_041_872, 2_051_552),
    (V3S, "timm", 1.25, 3_205_384, 3_220_744),
    (V3S, "keras", 0.35, 1_350_344, 1_354_680),
    (V3S, "keras", 0.5, 1_593_224, 1_599_720),
    (V3S, "keras", 1.25, 3_645_312, 3_660_640),
    (V3S, "keras", 1.5, 4_931_888, 4_950_432),
    (V4S, "timm", 0.35, 1_905_384, 1_916_072),
    (V4S, "timm", 0.5, 2_238_952, 2_252_808),
    (V4S, "timm", 1.25, 4_762_400, 4_793_120),
    (V4M, "timm", 0.5, 3_803_488, 3_838_880),
    (V4M, "timm", 0.75, 6_343_320, 6_395_208),
    (V4M, "timm", 1.5, 19_108_960, 19_209_536),
    (V4L, "timm", 0.35, 5_418_544, 5_471_328),
    (V4L, "timm", 0.75, 19_267_880, 19_380_824),
    (V4L, "timm", 1.25, 49_610_280, 49_796_680),
]


def named(network, options):
    return "-".join([network, *(f"{name}={value}" for name, value in options.items())])


counts = pytest.mark.parametrize(
    ("network", "options", "trainable", "with_statistics", "madds"),
    COUNTS,
    ids=[named(*row[:2]) for row in COUNTS],
)


def spec_of(network, options):
    return FACTORIES[network](**options)


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


@pytest.mark.parametrize(("network", "dialect", "width", "trainable", "with_statistics"), BUILT)
def test_width_multipliers_give_the_parameters_that_the_libraries_build(
    network, dialect, width, trainable, with_statistics
):
    spec = spec_of(network, {"dialect": dialect, "width": width})
    counted = cost.count(spec, 64)
    assert (counted.params, counted.params + counted.statistics) == (trainable, with_statistics)
    if network in (V1, V2, V3S, V4S):  # the deeper ones differ in nothing but their tables
        variables = initialized_shapes(spec)
        assert (elements(variables["params"]), elements(variables)) == (trainable, with_statistics)


def test_dialects_agree_at_width_1():
    """Whoever builds them, the full-size networks are the same."""
    for network in FACTORIES:
        paper = cost.count(spec_of(network, {}), 224)
        for dialect in ("slim", "keras", "torchvision", "timm"):
            try:
                spec = spec_of(network, {"dialect": dialect})
            except ValueError as error:
                assert str(error).startswith("dialect of ")
                continue
            counted = cost.count(spec, 224)
            assert (counted.params, counted.madds) == (paper.params, paper.madds)


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
    (V3L, {"width": 0.75}, 224, 4.0, 155),
    (V3L, {"minimalistic": True}, 224, 3.9, 209),
    (V4S, {}, 224, 3.8, 186),
]

# TF-slim's README (research/slim/nets/mobilenet): M MACs of V2 at 224, 192, 160, 128 and 96, and
# M parameters, which leave normalization out and count 1001 classes.
SLIM_V2 = {
    1.4: ([582], 6.06),
    1.3: ([509], 5.34),
    1.0: ([300, 221, 154, 99, 56], 3.47),
    0.75: ([209, 153, 107, 69, 39], 2.61),
    0.5: ([97, 71, 50, 32, 18], 1.95),
    0.35: ([59, 43, 30, 20, 11], 1.66),
}


@pytest.mark.parametrize("width", SLIM_V2)
def test_v2_is_slims_at_every_released_width_and_resolution(width):
    """The README cuts decimals off as often as it rounds."""
    madds, params = SLIM_V2[width]
    spec = spec_of(V2, {"width": width, "num_classes": 1001})
    for millions, resolution in zip(madds, (224, 192, 160, 128, 96), strict=False):
        assert abs(cost.count(spec, resolution).madds / 1e6 - millions) < 1.01
    assert round(without_normalization(spec) / 1e6, 2) == pytest.approx(params, abs=0.011)


@pytest.mark.parametrize(("network", "options", "resolution", "params", "madds"), PRINTED)
def test_counts_round_to_what_the_papers_print(network, options, resolution, params, madds):
    counted = cost.count(spec_of(network, options), resolution)
    assert round(counted.params / 1e6, 1) == params
    # The papers both round and truncate, and 4866 leaves the classifier out.
    assert abs(counted.madds / 1e6 - madds) < max(1, 0.0005 * madds)


def without_normalization(spec):
    """Trainable parameters but for the scales and biases of batch normalization."""
    rows = cost.count(spec, 64).rows
    return sum(row.params - row.statistics for row in rows)


# Published figures that are not what arithmetic gives; the document says why.
DISCREPANCIES = {
    "V2 Table 4, 1.4": (V2, {"width": 1.4}, "params", 6.9e6),
    "V2 Table 4, 1.0": (V2, {}, "params", 3.4e6),
    "V2 Table 4, 1.4 MAdds": (V2, {"width": 1.4}, "madds", 585e6),
    "TF-slim's README, V1 0.75": (V1, {"width": 0.75}, "madds", 317e6),
    "V3 Table 3, Large": (V3L, {}, "params", 5.4e6),
    "V3 Table 3, Large MAdds": (V3L, {}, "madds", 219e6),
    "TF-slim's README, V3-Small": (V3S, {}, "params", 2.9e6),
    "TF-slim's README, V3-Small MAdds": (V3S, {}, "madds", 66e6),
    "TF-slim's README, V3-Small 0.75": (V3S, {"width": 0.75}, "params", 2.4e6),
    "TF-slim's README, V3-Small 0.75 MAdds": (V3S, {"width": 0.75}, "madds", 44e6),
    "TF-slim's README, V3-Small minimalistic MAdds": (V3S, {"minimalistic": True}, "madds", 65e6),
    "V4 paper, Conv-M": (V4M, {}, "params", 9.2e6),
    "V4 paper, Conv-L": (V4L, {}, "params", 31e6),
}


@pytest.mark.parametrize(
    ("network", "options", "quantity", "published"), DISCREPANCIES.values(), ids=DISCREPANCIES
)
def test_known_discrepancies_are_not_what_arithmetic_gives(network, options, quantity, published):
    resolution = {V4M: 256, V4L: 384}.get(network, 224)
    counted = getattr(cost.count(spec_of(network, options), resolution), quantity)
    assert 0.004 < abs(counted - published) / published < 0.2


def with_hidden(spec, channels):
    head = architectures.Head(
        conv=spec.head.conv,
        hidden=architectures.Hidden(channels=channels, activation="hard_swish", normalized=False),
        dropout=spec.head.dropout,
        num_classes=spec.head.num_classes,
    )
    return architectures.NetworkSpec(
        name=spec.name, width=spec.width, dialect=spec.dialect, stem=spec.stem,
        blocks=spec.blocks, head=head,
    )  # fmt: skip


def test_v2s_3_4m_leaves_normalization_out_and_cuts_the_decimals_off():
    counted = without_normalization(spec_of(V2, {}))
    assert counted == 3_504_872 - 34_112 == 3_470_760
    assert math.floor(counted / 1e5) / 10 == 3.4


def test_v3_smalls_2_9m_and_2_4m_count_a_last_layer_of_1280():
    """Table 2 prints 1280; every released implementation has 1024."""
    full, thin = (cost.count(with_hidden(spec_of(V3S, {"width": w}), 1280), 224) for w in (1, 0.75))
    assert full.params == 2_946_568
    assert (round(full.params / 1e6, 1), round(thin.params / 1e6, 1)) == (2.9, 2.4)
    assert round(thin.madds / 1e6) == 44
    # 66 is not explained by it: the layer costs 256 x 1576 multiply-adds.
    assert full.madds - cost.count(spec_of(V3S, {}), 224).madds == 256 * (576 + 1000)
    assert full.madds < 57e6


def test_v3_small_has_no_squeeze_and_excitation_on_its_last_convolution():
    """Table 2 ticks SE on the 576 channels before the pool: 166,608 parameters nobody has."""
    spec = spec_of(V3S, {})
    layers = [layer.name for layer in walk(spec, 224)]
    assert sum("squeeze_excite" in name for name in layers) == 2 * 9
    assert not any(name.startswith("head") and "squeeze" in name for name in layers)
    extra = 576 * 144 + 144 + 144 * 576 + 576
    assert extra == 166_608
    assert cost.count(spec, 224).params + extra not in (2_542_856, 2_946_568)


def test_v3_large_5_4m_is_5_48m_cut_off():
    counted = cost.count(spec_of(V3L, {}), 224).params
    assert math.floor(counted / 1e5) / 10 == 5.4 and round(counted / 1e6, 1) == 5.5


def test_v4s_printed_parameters_are_5_percent_below_the_tables_and_the_released_models():
    """M and L alike, so no one layer is missing."""
    for network, published in ((V4M, 9.2e6), (V4L, 31e6)):
        counted = cost.count(spec_of(network, {}), 256).params
        assert 1.045 < counted / published < 1.06


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
@pytest.mark.parametrize("dialect", ["paper", "slim", "keras", "torchvision", "timm"])
def test_v2_last_convolution_grows_above_width_1_and_never_shrinks(width, channels, dialect):
    spec = architectures.mobilenet_v2(width=width, dialect=dialect)
    assert spec.head.conv.outputs == spec.features == channels


# V3, Tables 1 and 2 at 224: input size, channels in, kernel, exp size, #out, SE, NL, stride.
V3_LARGE_TABLE = [
    (112, 16, 3, 16, 16, "-", "RE", 1),
    (112, 16, 3, 64, 24, "-", "RE", 2),
    (56, 24, 3, 72, 24, "-", "RE", 1),
    (56, 24, 5, 72, 40, "SE", "RE", 2),
    (28, 40, 5, 120, 40, "SE", "RE", 1),
    (28, 40, 5, 120, 40, "SE", "RE", 1),
    (28, 40, 3, 240, 80, "-", "HS", 2),
    (14, 80, 3, 200, 80, "-", "HS", 1),
    (14, 80, 3, 184, 80, "-", "HS", 1),
    (14, 80, 3, 184, 80, "-", "HS", 1),
    (14, 80, 3, 480, 112, "SE", "HS", 1),
    (14, 112, 3, 672, 112, "SE", "HS", 1),
    (14, 112, 5, 672, 160, "SE", "HS", 2),
    (7, 160, 5, 960, 160, "SE", "HS", 1),
    (7, 160, 5, 960, 160, "SE", "HS", 1),
]
V3_SMALL_TABLE = [
    (112, 16, 3, 16, 16, "SE", "RE", 2),
    (56, 16, 3, 72, 24, "-", "RE", 2),
    (28, 24, 3, 88, 24, "-", "RE", 1),
    (28, 24, 5, 96, 40, "SE", "HS", 2),
    (14, 40, 5, 240, 40, "SE", "HS", 1),
    (14, 40, 5, 240, 40, "SE", "HS", 1),
    (14, 40, 5, 120, 48, "SE", "HS", 1),
    (14, 48, 5, 144, 48, "SE", "HS", 1),
    (14, 48, 5, 288, 96, "SE", "HS", 2),
    (7, 96, 5, 576, 96, "SE", "HS", 1),
    (7, 96, 5, 576, 96, "SE", "HS", 1),
]
# Squeezed channels by expanded ones: a quarter to a multiple of 8, as in the released models.
SQUEEZED = {16: 8, 72: 24, 96: 24, 120: 32, 144: 40, 240: 64, 288: 72, 480: 120, 576: 144}
SQUEEZED |= {672: 168, 960: 240}


@pytest.mark.parametrize(
    ("network", "table", "pooled", "hidden"),
    [(V3L, V3_LARGE_TABLE, 960, 1280), (V3S, V3_SMALL_TABLE, 576, 1024)],
)
def test_v3_is_its_table_row_by_row(network, table, pooled, hidden):
    spec = spec_of(network, {})
    layers = {layer.name: layer for layer in walk(spec, 224)}
    names = {"RE": "relu", "HS": "hard_swish"}
    assert len(spec.blocks) == len(table)
    for i, (size, inputs, kernel, expanded, outputs, se, nl, stride) in enumerate(table):
        block, prefix = spec.blocks[i], f"block_{i}"
        depthwise, project = layers[f"{prefix}/depthwise"], layers[f"{prefix}/project"]
        assert depthwise.input_size == (size, size)
        assert (depthwise.kernel, depthwise.stride) == (kernel, stride)
        assert depthwise.inputs == depthwise.outputs == project.inputs == expanded
        assert (block.inputs, project.outputs) == (inputs, outputs)
        assert (f"{prefix}/expand" in layers) == (expanded != inputs)
        assert (block.activation, block.bottleneck) == (names[nl], "linear")
        assert block.start_kernel == 0
        assert (block.shortcut == "bottleneck") == (stride == 1 and inputs == outputs)
        gates = [layers.get(f"{prefix}/squeeze_excite/{part}") for part in ("reduce", "expand")]
        if se == "-":
            assert gates == [None, None]
            continue
        squeezed = SQUEEZED[expanded]
        assert [(gate.inputs, gate.outputs) for gate in gates] == [
            (expanded, squeezed),
            (squeezed, expanded),
        ]
    stem, last = layers["stem"], layers["head/conv"]
    assert (stem.input_size, stem.outputs, stem.stride, stem.kernel) == ((224, 224), 16, 2, 3)
    assert (last.input_size, last.inputs, last.outputs) == ((7, 7), table[-1][4], pooled)
    assert (layers["head/hidden"].inputs, layers["head/hidden"].outputs) == (pooled, hidden)
    assert (layers["head/classifier"].inputs, layers["head/classifier"].outputs) == (hidden, 1000)
    assert not layers["head/hidden"].normalized and last.normalized  # "NBN" in the tables
    heads = {spec.stem.activation, spec.head.conv.activation, spec.head.hidden.activation}
    assert heads == {"hard_swish"}


def test_v3s_stem_of_16_saves_10_million_madds():
    """Section 5.1: with h-swish 16 filters do what 32 did, "2 ms and 10 million MAdds" less."""
    wide, narrow = (cost.count(spec_of(V3L, {"stem": stem}), 224) for stem in (32, 16))
    # The stem's 16 filters, and 16 channels less for the depthwise and pointwise layers behind.
    saved = 112 * 112 * (27 * 16 + 9 * 16 + 16 * 16)
    assert wide.madds - narrow.madds == saved == pytest.approx(10e6, abs=1e6)


def test_v3s_efficient_last_stage_saves_30_million_madds():
    """Section 5.1 and Fig. 5: pooling first drops a depthwise layer, a projection, a wide map."""
    original, efficient = (
        cost.count(spec_of(V3L, {"last_stage": stage}), 224) for stage in ("original", "efficient")
    )
    dropped = 49 * (9 * 960 + 960 * 320 + 320 * 1280)
    assert original.madds - efficient.madds == dropped - 960 * 1280
    assert original.madds - efficient.madds == pytest.approx(30e6, abs=5e6)


def test_v3s_original_last_stage_is_figure_5s():
    """1x1 to 960, 3x3 depthwise, 1x1 to 320, 1x1 to 1280, pool, classify: all on 7 x 7."""
    *_, expand, depthwise, project, conv, classifier = walk(
        spec_of(V3L, {"last_stage": "original"}), 224
    )
    shapes = [(layer.kind, layer.inputs, layer.outputs) for layer in (expand, depthwise, project)]
    assert shapes == [("pointwise", 160, 960), ("depthwise", 960, 960), ("pointwise", 960, 320)]
    assert (conv.inputs, conv.outputs, conv.output_size) == (320, 1280, (7, 7))
    assert (classifier.inputs, classifier.outputs) == (1280, 1000)


# V4, appendix D: input size, channels in, block, DW K1, DW K2, expanded, output, stride. A fused
# block has one full kernel; in Conv-S, whose expansion is the fused layer's own width, it is the
# plain pair of a 3x3 and a 1x1 convolution.
V4_SMALL_TABLE = [
    (112, 32, "FusedIB", 0, 3, 32, 32, 2),
    (56, 32, "FusedIB", 0, 3, 96, 64, 2),
    (28, 64, "ExtraDW", 5, 5, 192, 96, 2),
    *[(14, 96, "IB", 0, 3, 192, 96, 1)] * 4,
    (14, 96, "ConvNext", 3, 0, 384, 96, 1),
    (14, 96, "ExtraDW", 3, 3, 576, 128, 2),
    (7, 128, "ExtraDW", 5, 5, 512, 128, 1),
    (7, 128, "IB", 0, 5, 512, 128, 1),
    (7, 128, "IB", 0, 5, 384, 128, 1),
    *[(7, 128, "IB", 0, 3, 512, 128, 1)] * 2,
]
V4_MEDIUM_TABLE = [
    (128, 32, "FusedIB", 0, 3, 128, 48, 2),
    (64, 48, "ExtraDW", 3, 5, 192, 80, 2),
    (32, 80, "ExtraDW", 3, 3, 160, 80, 1),
    (32, 80, "ExtraDW", 3, 5, 480, 160, 2),
    *[(16, 160, "ExtraDW", 3, 3, 640, 160, 1)] * 2,
    (16, 160, "ExtraDW", 3, 5, 640, 160, 1),
    (16, 160, "ExtraDW", 3, 3, 640, 160, 1),
    (16, 160, "ConvNext", 3, 0, 640, 160, 1),
    (16, 160, "FFN", 0, 0, 320, 160, 1),
    (16, 160, "ConvNext", 3, 0, 640, 160, 1),
    (16, 160, "ExtraDW", 5, 5, 960, 256, 2),
    (8, 256, "ExtraDW", 5, 5, 1024, 256, 1),
    *[(8, 256, "ExtraDW", 3, 5, 1024, 256, 1)] * 2,
    (8, 256, "FFN", 0, 0, 1024, 256, 1),
    (8, 256, "ConvNext", 3, 0, 1024, 256, 1),
    (8, 256, "ExtraDW", 3, 5, 512, 256, 1),
    (8, 256, "ExtraDW", 5, 5, 1024, 256, 1),
    *[(8, 256, "FFN", 0, 0, 1024, 256, 1)] * 2,
    (8, 256, "ConvNext", 5, 0, 512, 256, 1),
]
V4_LARGE_TABLE = [
    (192, 24, "FusedIB", 0, 3, 96, 48, 2),
    (96, 48, "ExtraDW", 3, 5, 192, 96, 2),
    (48, 96, "ExtraDW", 3, 3, 384, 96, 1),
    (48, 96, "ExtraDW", 3, 5, 384, 192, 2),
    *[(24, 192, "ExtraDW", 3, 3, 768, 192, 1)] * 3,
    (24, 192, "ExtraDW", 3, 5, 768, 192, 1),
    *[(24, 192, "ExtraDW", 5, 3, 768, 192, 1)] * 5,
    (24, 192, "ConvNext", 3, 0, 768, 192, 1),
    (24, 192, "ExtraDW", 5, 5, 768, 512, 2),
    *[(12, 512, "ExtraDW", 5, 5, 2048, 512, 1)] * 3,
    (12, 512, "ConvNext", 5, 0, 2048, 512, 1),
    (12, 512, "ExtraDW", 5, 3, 2048, 512, 1),
    *[(12, 512, "ConvNext", 5, 0, 2048, 512, 1)] * 2,
    (12, 512, "ExtraDW", 5, 3, 2048, 512, 1),
    (12, 512, "ExtraDW", 5, 5, 2048, 512, 1),
    *[(12, 512, "ConvNext", 5, 0, 2048, 512, 1)] * 3,
]
V4_BLOCKS = {"ExtraDW": (True, True), "IB": (False, True), "ConvNext": (True, False)}
V4_BLOCKS["FFN"] = (False, False)  # whether the first and the second depthwise kernel are there


def v4_rows(spec, resolution):
    """Our network in the columns of the paper's tables."""
    layers = {layer.name: layer for layer in walk(spec, resolution)}
    blocks = list(enumerate(spec.blocks))
    while blocks:
        i, block = blocks.pop(0)
        name = f"block_{i}"
        assert block.activation == "relu"
        if isinstance(block, ConvNorm):
            _, narrow = blocks.pop(0)
            assert isinstance(narrow, ConvNorm) and (narrow.kernel, narrow.stride) == (1, 1)
            sizes = (block.outputs, narrow.outputs, block.stride)
            yield (layers[name].input_size[0], block.inputs, "FusedIB", 0, block.kernel, *sizes)
            continue
        sizes = (block.expanded, block.outputs, block.stride)
        if isinstance(block, FusedInvertedResidual):
            expand = layers[f"{name}/expand"]
            assert expand.kind == "conv" and block.bottleneck == "linear"
            yield (expand.input_size[0], block.inputs, "FusedIB", 0, expand.kernel, *sizes)
            continue
        start, inner = (layers.get(f"{name}/{part}") for part in ("start", "depthwise"))
        kind = next(k for k, there in V4_BLOCKS.items() if there == (bool(start), bool(inner)))
        first = start or layers[f"{name}/expand"]
        kernels = (start.kernel if start else 0, inner.kernel if inner else 0)
        # Where both are there the second one strides.
        assert not (start and inner) or start.stride == 1
        assert [layer.stride for layer in (inner, start) if layer][:1] in ([block.stride], [])
        yield (first.input_size[0], block.inputs, kind, *kernels, *sizes)


@pytest.mark.parametrize(
    ("network", "table", "resolution", "stem"),
    [
        (V4S, V4_SMALL_TABLE, 224, 32),
        (V4M, V4_MEDIUM_TABLE, 256, 32),
        (V4L, V4_LARGE_TABLE, 384, 24),
    ],
)
def test_v4_is_its_table_row_by_row(network, table, resolution, stem):
    spec = spec_of(network, {})
    assert list(v4_rows(spec, resolution)) == table
    layers = {layer.name: layer for layer in walk(spec, resolution)}
    first, last = layers["stem"], layers["head/conv"]
    assert (first.kernel, first.stride, first.outputs) == (3, 2, stem)
    assert (last.kernel, last.inputs, last.outputs) == (1, table[-1][6], 960)
    assert last.output_size == (resolution // 32,) * 2
    hidden, classifier = layers["head/hidden"], layers["head/classifier"]
    assert (hidden.inputs, hidden.outputs, hidden.normalized) == (960, 1280, True)
    assert (classifier.inputs, classifier.outputs) == (1280, 1000)
    assert {spec.stem.activation, spec.head.conv.activation} == {"relu"}


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


def test_bytes_and_madds_of_squeeze_and_excitation_by_hand():
    """Of V3-Small's first block: 16 channels to 8 and back, on one position."""
    rows = {row.layer.name: row for row in cost.count(spec_of(V3S, {}), 224).rows}
    reduce, expand = (rows[f"block_0/squeeze_excite/{part}"] for part in ("reduce", "expand"))
    assert (reduce.params, expand.params) == (16 * 8 + 8, 8 * 16 + 16)
    assert (reduce.madds, expand.madds) == (16 * 8, 8 * 16)
    assert reduce.statistics == expand.statistics == 0
    assert reduce.activation_bytes == 4 * (16 + 8)


# ---- the document


def tables():
    """The Markdown tables of the document: lists of {heading: cell}."""
    found = []
    for lines in re.findall(r"(?:^\|.*\n)+", DOCUMENT, flags=re.MULTILINE):
        heads, rule, *rows = (
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in lines.splitlines()
        )
        assert all(set(cell) <= set("-:") for cell in rule)
        found.append([dict(zip(heads, row, strict=True)) for row in rows])
    return found


def table_with(*headings):
    (table,) = (table for table in tables() if set(headings) <= table[0].keys())
    return table


def called(text):
    """The network and options of a cell such as `mobilenet_v2(width=1.4)`."""
    call = ast.parse(text.strip("`"), mode="eval").body
    return call.func.id, {k.arg: ast.literal_eval(k.value) for k in call.keywords}


def number(text):
    return int(text.replace(",", ""))


def test_the_documents_counts_are_those_of_arithmetic():
    rows = table_with("network", "trainable", "with statistics", "resolution", "MAdds, millions")
    seen = set()
    for row in rows:
        network, options = called(row["network"])
        counted = cost.count(spec_of(network, options), int(row["resolution"]))
        assert counted.params == number(row["trainable"]), row
        assert counted.params + counted.statistics == number(row["with statistics"]), row
        assert f"{counted.madds / 1e6:,.1f}" == row["MAdds, millions"], row
        seen.add((network, *options.items(), int(row["resolution"])))
    assert len(seen) == len(rows)
    for network, options, _, _, madds in COUNTS:
        for resolution in madds:
            assert (network, *options.items(), resolution) in seen


def test_the_documents_discrepancies_are_the_tested_ones():
    rows = table_with("published", "arithmetic", "reason")
    documented = {}
    for row in rows:
        network, options = called(row["network"])
        quantity = {"parameters": "params", "MAdds": "madds"}[row["quantity"]]
        documented[row["where"]] = (network, options, quantity, float(row["published"]) * 1e6)
        resolution = {V4M: 256, V4L: 384}.get(network, 224)
        counted = getattr(cost.count(spec_of(network, options), resolution), quantity) / 1e6
        digits = len(row["arithmetic"].partition(".")[2])
        assert f"{counted:.{digits}f}" == row["arithmetic"], row
        assert row["reason"]
    assert documented == {
        where: (network, options, quantity, pytest.approx(published))
        for where, (network, options, quantity, published) in DISCREPANCIES.items()
    }


def test_the_documents_dialects_are_those_of_the_code():
    rows = table_with("dialect", "epsilon", "kept momentum", "dropout", "initial kernels")
    networks = {"V1": V1, "V2": V2, "V3": V3L, "V4": V4M}
    pairs = []
    for row in rows:
        for dialect in row["dialect"].split(", "):
            spec = spec_of(networks[row["version"]], {"dialect": dialect.strip("`")})
            pairs.append((row["version"], spec.dialect.name))
            assert spec.dialect.norm_epsilon == float(row["epsilon"])
            assert spec.dialect.norm_momentum == float(row["kept momentum"])
            assert spec.head.dropout == float(row["dropout"])
            paddings = (spec.dialect.padding, spec.dialect.depthwise_padding)
            assert ", ".join(dict.fromkeys(paddings)) == row["padding"]
            assert f"`{spec.dialect.initializer}`" == row["initial kernels"]
    every = [(v, d) for v in networks for d in ("paper", "slim", "keras", "torchvision", "timm")]
    missing = {("V1", "torchvision"), *(("V4", d) for d in ("slim", "keras", "torchvision"))}
    assert sorted(pairs) == sorted(set(every) - missing)


@pytest.mark.slow
def test_the_documents_snippets_run():
    snippets = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert len(snippets) >= 2
    names = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/architectures.md", "exec"), names)
