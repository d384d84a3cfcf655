"""MobileNet V2 is its paper's (arXiv 1801.04381): Table 2, its widths and its printed counts."""

import math

import pytest
from published import V2, spec_of

from mnet_jax import architectures
from mnet_jax.analysis import cost
from mnet_jax.architectures import walk

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


def without_normalization(spec):
    """Trainable parameters but for the scales and biases of batch normalization."""
    rows = cost.count(spec, 64).rows
    return sum(row.params - row.statistics for row in rows)


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


def test_v2s_3_4m_leaves_normalization_out_and_cuts_the_decimals_off():
    counted = without_normalization(spec_of(V2, {}))
    assert counted == 3_504_872 - 34_112 == 3_470_760
    assert math.floor(counted / 1e5) / 10 == 3.4
