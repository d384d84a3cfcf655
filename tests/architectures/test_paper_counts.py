"""The papers' and the released models' counts, against our arithmetic and real parameters.

Oracles: V1 is arXiv 1704.04861, V2 1801.04381, V3 1905.02244, V4 2404.10518; the exact integers are
the parameter counts of the models that Keras, torchvision and timm build, which the papers print
rounded.
"""

import math
from functools import cache

import jax
import jax.numpy as jnp
import pytest
from published import (
    COUNTS,
    DIALECTS,
    DISCREPANCIES,
    V1,
    V2,
    V3L,
    V3S,
    V4L,
    V4M,
    V4S,
    discrepant,
    spec_of,
)

from mnet_jax import models
from mnet_jax.analysis import cost

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


def counts(*marked):
    """Every row of `COUNTS`; rows of a network with options have these marks."""
    return pytest.mark.parametrize(
        ("network", "options", "trainable", "with_statistics", "madds"),
        [pytest.param(*row, id=named(*row[:2]), marks=marked if row[1] else ()) for row in COUNTS],
    )


@cache
def initialized_shapes(spec):
    model = models.MobileNet(spec=spec, lowering="grouped")
    images = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@counts()
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


@counts(pytest.mark.exhaustive)
def test_initialized_network_has_the_published_parameters(
    network, options, trainable, with_statistics, madds
):
    variables = initialized_shapes(spec_of(network, options))
    assert elements(variables["params"]) == trainable
    assert with_statistics in (None, elements(variables))


@pytest.mark.parametrize(("network", "dialect", "width", "trainable", "with_statistics"), BUILT)
def test_width_multipliers_give_the_parameters_that_the_libraries_build(
    network, dialect, width, trainable, with_statistics, exhaustive
):
    spec = spec_of(network, {"dialect": dialect, "width": width})
    counted = cost.count(spec, 64)
    assert (counted.params, counted.params + counted.statistics) == (trainable, with_statistics)
    # The deeper networks differ in nothing but their tables.
    if network in (V1, V2, V3S, V4S) and (width == 0.35 or exhaustive):
        variables = initialized_shapes(spec)
        assert (elements(variables["params"]), elements(variables)) == (trainable, with_statistics)


@pytest.mark.parametrize("network", DIALECTS)
def test_dialects_agree_at_width_1(network):
    """Whoever builds them, the full-size networks are the same."""
    counted = {
        (count.params, count.madds)
        for dialect in DIALECTS[network]
        for count in [cost.count(spec_of(network, {"dialect": dialect}), 224)]
    }
    assert len(counted) == 1


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


@pytest.mark.parametrize(("network", "options", "resolution", "params", "madds"), PRINTED)
def test_counts_round_to_what_the_papers_print(network, options, resolution, params, madds):
    counted = cost.count(spec_of(network, options), resolution)
    assert round(counted.params / 1e6, 1) == params
    # The papers both round and truncate, and 4866 leaves the classifier out.
    assert abs(counted.madds / 1e6 - madds) < max(1, 0.0005 * madds)


@pytest.mark.parametrize(
    ("network", "options", "quantity", "published"), DISCREPANCIES.values(), ids=DISCREPANCIES
)
def test_known_discrepancies_are_not_what_arithmetic_gives(network, options, quantity, published):
    counted = discrepant(network, options, quantity)
    assert 0.004 < abs(counted - published) / published < 0.2
