"""MobileNet V3 is its paper's (arXiv 1905.02244): Tables 1 and 2, section 5, the printed counts."""

import math
from dataclasses import replace

import pytest
from published import V3L, V3S, spec_of

from mnet_jax.analysis import cost
from mnet_jax.architectures import walk

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
    ("network", "table"), [(V3L, V3_LARGE_TABLE), (V3S, V3_SMALL_TABLE)], ids=[V3L, V3S]
)
def test_v3_is_its_table_row_by_row(network, table):
    spec = spec_of(network, {})
    layers = {layer.name: layer for layer in walk(spec, 224)}
    names = {"RE": "relu", "HS": "hard_swish"}
    for i, (block, row) in enumerate(zip(spec.blocks, table, strict=True)):
        size, inputs, kernel, expanded, outputs, se, nl, stride = row
        prefix = f"block_{i}"
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


@pytest.mark.parametrize(
    ("network", "inputs", "pooled", "hidden"), [(V3L, 160, 960, 1280), (V3S, 96, 576, 1024)]
)
def test_v3s_stem_and_head_are_those_of_its_table(network, inputs, pooled, hidden):
    spec = spec_of(network, {})
    layers = {layer.name: layer for layer in walk(spec, 224)}
    stem, last = layers["stem"], layers["head/conv"]
    assert (stem.input_size, stem.outputs, stem.stride, stem.kernel) == ((224, 224), 16, 2, 3)
    assert (last.input_size, last.inputs, last.outputs) == ((7, 7), inputs, pooled)
    assert (layers["head/hidden"].inputs, layers["head/hidden"].outputs) == (pooled, hidden)
    assert (layers["head/classifier"].inputs, layers["head/classifier"].outputs) == (hidden, 1000)
    assert not layers["head/hidden"].normalized and last.normalized  # "NBN" in the tables
    heads = {spec.stem.activation, spec.head.conv.activation, spec.head.hidden.activation}
    assert heads == {"hard_swish"}


def test_v3s_stem_of_16_saves_10_million_madds():
    """Section 5.1: with h-swish 16 filters do what 32 did, "2 ms and 10 million MAdds" less."""
    wide, narrow = (cost.count(spec_of(V3L, {"stem": stem}), 224) for stem in (32, 16))
    # The stem's 16 filters, and 16 channels less for the depthwise and pointwise layers after it.
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


def with_hidden(spec, channels):
    hidden = replace(spec.head.hidden, channels=channels)
    return replace(spec, head=replace(spec.head, hidden=hidden))


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
    """Table 2 ticks SE on the 576 channels before the pool: no released model has it."""
    layers = [layer.name for layer in walk(spec_of(V3S, {}), 224)]
    assert sum("squeeze_excite" in name for name in layers) == 2 * 9
    assert not any(name.startswith("head") and "squeeze" in name for name in layers)


def test_v3_large_5_4m_is_5_48m_cut_off():
    counted = cost.count(spec_of(V3L, {}), 224).params
    assert math.floor(counted / 1e5) / 10 == 5.4 and round(counted / 1e6, 1) == 5.5
