"""Networks for segmentation as data: published counts, shapes, legal values, JSON."""

import dataclasses

import numpy as np
import pytest
from messages import one_line

from mnet_jax.analysis import cost
from mnet_jax.architectures import (
    FACTORIES,
    SegmentationSpec,
    deeplabv3,
    dense_tasks,
    lraspp,
    mobilenet_v2,
    mobilenet_v3,
    segmentation,
)
from mnet_jax.architectures.cityscapes import FULL, SEGMENTERS

TORCHVISIONS = mobilenet_v3("large", dialect="torchvision")
networks = pytest.mark.parametrize("network", FACTORIES)
heads = pytest.mark.parametrize("head", [lraspp, deeplabv3])


def layers_of(spec, resolution):
    return {layer.name: layer for layer in segmentation.walk(spec, resolution)}


def test_parameters_are_torchvisions():
    """The counts that torchvision 0.29 states; DeepLabV3's without the auxiliary head."""
    auxiliary = 40 * 10 * 9 + 2 * 10 + 10 * 21 + 21
    assert cost.count(lraspp(TORCHVISIONS), 520).params == 3_221_538
    assert cost.count(deeplabv3(TORCHVISIONS), 520).params == 11_029_328 - auxiliary == 11_025_477


@pytest.mark.parametrize("published", SEGMENTERS, ids=lambda p: f"{p.table}.{p.row}")
def test_costs_are_near_the_v3_papers(published):
    """The parameters to the two digits given; the multiply-adds are a few per cent fewer."""
    counted = cost.count(published.spec(), FULL)
    if published.params is not None:
        assert counted.params / 1e6 == pytest.approx(published.params, abs=0.01)
    ratio = counted.madds / (1e9 * published.madds)
    assert 0.91 < ratio < 0.98


def test_multiply_adds_of_lraspp_by_hand():
    """Of the head on maps of 64 x 128 at stride 16 and 128 x 256 at stride 8, with 4 pooled."""
    (published,) = [p for p in SEGMENTERS if (p.table, p.row) == (7, 8)]
    rows = {row.layer.name: row for row in cost.count(published.spec(), FULL).rows}
    head = {name: row.madds for name, row in rows.items() if name.startswith("head/")}
    assert head == {
        "head/project": 64 * 128 * 480 * 128,
        "head/gate": 1 * 4 * 480 * 128,
        "head/low_classifier": 128 * 256 * 40 * 19,
        "head/classifier": 128 * 256 * 128 * 19,
    }
    assert rows["head/gate"].params == 480 * 128  # without bias
    assert rows["head/classifier"].params == 128 * 19 + 19


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@heads
@networks
def test_any_network_can_be_a_backbone(network, head, output_stride):
    plain = FACTORIES[network](num_classes=7)
    spec = head(plain, num_classes=5, output_stride=output_stride)
    layers = layers_of(spec, (256, 384))
    assert layers["head/classifier"].outputs == 5
    assert layers["head/project"].output_size == (256 // output_stride, 384 // output_stride)
    if head is lraspp:
        low = layers["head/low_classifier"]
        assert (low.input_size, layers["head/classifier"].input_size) == ((32, 48), (32, 48))
        assert low.inputs == spec.backbone.blocks[spec.head.low_block].outputs
    assert SegmentationSpec.from_json(spec.to_json()) == spec
    shapes = segmentation.variable_shapes(spec)
    params = [np.prod(shape) for path, shape in shapes.items() if path.startswith("params/")]
    assert cost.count(spec, (256, 384)).params == sum(params)
    assert not any("hidden" in path for path in shapes)


def test_torchvision_reads_the_first_map_of_stride_8_and_others_the_last():
    assert lraspp(TORCHVISIONS).head.low_block == 3
    assert lraspp(mobilenet_v3("large")).head.low_block == 5


def test_torchvision_dilates_the_layer_that_loses_its_stride():
    """mobilenet_v3_large(dilated=True): the last three blocks have dilation 2."""
    for network, dilated in ((TORCHVISIONS, 12), (mobilenet_v3("large"), 13)):
        backbone = lraspp(network).backbone
        assert [b.dilation for b in backbone.blocks] == [1] * dilated + [2] * (15 - dilated)
        assert backbone.blocks[12].stride == 1


def test_heads_have_torchvisions_normalization():
    """Of `nn.BatchNorm2d` by default, unlike its backbone's; elsewhere it is the backbone's."""
    spec = lraspp(TORCHVISIONS)
    assert (spec.dialect.norm_epsilon, spec.dialect.norm_momentum) == (1e-5, 0.9)
    assert (spec.backbone.dialect.norm_epsilon, spec.backbone.dialect.norm_momentum) == (1e-3, 0.99)
    assert lraspp(mobilenet_v2()).dialect == mobilenet_v2().dialect


def test_numbers_of_numpy_become_pythons():
    one, two = (np.int64(n) for n in (1, 2))
    spec = deeplabv3(mobilenet_v2(), channels=two, rates=[one, two], num_classes=two)
    assert spec == deeplabv3(mobilenet_v2(), channels=2, rates=(1, 2), num_classes=2)
    assert SegmentationSpec.from_json(spec.to_json()) == spec


def test_pools_that_do_not_fit_cover_the_map():
    pool = segmentation.PAPER_POOL
    assert pool.output_size((64, 128)) == (1, 4)
    assert pool.output_size((65, 129)) == (2, 5)
    assert pool.output_size((32, 64)) == (1, 1)
    assert pool.output_size((4, 5)) == (1, 1)


def test_half_the_expansion_of_the_strided_block():
    spec = dense_tasks.with_reduced_tail(mobilenet_v3("large"), strided_expansion=True)
    other = dense_tasks.with_reduced_tail(mobilenet_v3("large"))
    assert (spec.blocks[12].expanded, spec.blocks[12].squeeze) == (336, 88)
    assert spec.blocks[:12] + spec.blocks[13:] == other.blocks[:12] + other.blocks[13:]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lraspp(mobilenet_v2(), channels=0), "channels: got 0, legal: 1 or more"),
        (lambda: lraspp(mobilenet_v2(), num_classes=0), "num_classes: got 0, legal: 1 or more"),
        (lambda: lraspp(mobilenet_v2(), output_stride=4), "output_stride: got 4, legal: 8, 16, 32"),
        (lambda: deeplabv3(mobilenet_v2(), rates=(0,)), "rates: got (0,), legal: whole numbers"),
        (lambda: deeplabv3(mobilenet_v2(), dropout=1.0), "dropout: got 1.0, legal: 0 to below 1"),
        (lambda: segmentation.Pool(window=0, strides=(1, 1)), "window: got 0, legal: 1 or more"),
        (
            lambda: dataclasses.replace(lraspp(mobilenet_v2()), backbone=mobilenet_v2()),
            "backbone: got 'mobilenet_v2', legal: a network without classifier",
        ),
        (
            lambda: segmentation.LRASPP(channels=8, low_block=-1),
            "low_block: got -1, legal: 0 or more",
        ),
    ],
)
def test_what_is_not_legal_is_one_line(call, words):
    one_line(ValueError, call, words)
