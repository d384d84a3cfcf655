"""MobileNet V1 is its paper's (arXiv 1704.04861): Table 1, the shallow variant, the equations."""

import pytest

from mnet_jax import architectures
from mnet_jax.analysis import cost
from mnet_jax.architectures import walk

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
    ("depthwise", 1, 1024, 1024, 7),  # printed as 2, which would leave the next row and the pool 4
    ("pointwise", 1, 1024, 1024, 7),
    ("dense", 1, 1024, 1000, 1),
]


def test_v1_is_table_1_row_by_row():
    rows = list(walk(architectures.mobilenet_v1(), 224))
    for layer, (kind, stride, inputs, outputs, size) in zip(rows, V1_TABLE, strict=True):
        assert (layer.kind, layer.stride, layer.inputs) == (kind, stride, inputs), layer
        assert (layer.outputs, layer.input_size) == (outputs, (size, size)), layer
        assert layer.kernel == (3 if kind in ("conv", "depthwise") else 1), layer
    assert rows[-2].output_size == (7, 7)  # what the pool sees


def test_shallow_v1_leaves_out_the_five_14x14x512_layers():
    full, shallow = (
        [(layer.inputs, layer.outputs, layer.output_size) for layer in walk(spec, 224)]
        for spec in (architectures.mobilenet_v1(depth=depth) for depth in ("full", "shallow"))
    )
    assert full.count((512, 512, (14, 14))) == 10  # five depthwise, five pointwise
    assert shallow == [row for row in full if row != (512, 512, (14, 14))]


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
