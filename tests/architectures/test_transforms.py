"""Variations of a network: what each changes, and that it changes nothing else."""

import dataclasses

import pytest
from messages import one_line

from mnet_jax.analysis import cost
from mnet_jax.architectures import (
    FACTORIES,
    dense_tasks,
    mobilenet_v1,
    mobilenet_v2,
    transforms,
    walk,
)
from mnet_jax.architectures.dialects import make_divisible
from mnet_jax.architectures.spec import (
    Attention,
    ConvNorm,
    FusedInvertedResidual,
    InvertedResidual,
)

V3_LARGE, V3_SMALL = FACTORIES["mobilenet_v3_large"], FACTORIES["mobilenet_v3_small"]
V4_SMALL, V4_MEDIUM, V4_LARGE = (
    FACTORIES[f"mobilenet_v4_conv_{size}"] for size in ("small", "medium", "large")
)
networks = pytest.mark.parametrize("network", FACTORIES)


def transformed(spec, options):
    for name, value in options.items():
        spec = getattr(transforms, f"with_{name}")(spec, value)
    return spec


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (mobilenet_v1, {"convolution": "full"}),
        (mobilenet_v1, {"depth": "shallow"}),
        (mobilenet_v1, {"activation": "relu"}),
        (mobilenet_v1, {"input_stride": 1}),
        (mobilenet_v1, {"depth": "shallow", "input_stride": 2, "activation": "relu"}),
        (mobilenet_v1, {"convolution": "full", "depth": "shallow", "activation": "relu"}),
        (mobilenet_v2, {"expansion": 1}),
        (mobilenet_v2, {"expansion": 3}),
        (mobilenet_v2, {"bottleneck": "relu6"}),
        (mobilenet_v2, {"shortcut": "none"}),
        (mobilenet_v2, {"shortcut": "expansion"}),
        (mobilenet_v2, {"shortcut": "expansion", "expansion": 3}),
        (mobilenet_v2, {"activation": "relu", "bottleneck": "relu6"}),
        (mobilenet_v2, {"input_stride": 2, "expansion": 4, "bottleneck": "relu6"}),
        (V3_LARGE, {"bottleneck": "relu6"}),
        (V3_SMALL, {"shortcut": "none"}),
        (V3_LARGE, {"shortcut": "expansion", "bottleneck": "relu6"}),
        (V3_SMALL, {"input_stride": 1, "shortcut": "none"}),
        (V3_LARGE, {"squeeze_excite": False}),
        (V4_SMALL, {"bottleneck": "relu6"}),
        (V4_MEDIUM, {"bottleneck": "relu6", "shortcut": "none"}),
        (V4_MEDIUM, {"shortcut": "expansion"}),
        (V4_LARGE, {"input_stride": 2, "bottleneck": "relu6"}),
    ],
    ids=lambda value: value.__class__.__name__ if callable(value) else str(value),
)
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_a_transform_of_the_default_is_the_factory_with_the_option(factory, options, width):
    plain, built = factory(width=width), factory(width=width, **options)
    assert transformed(plain, options) == built != plain
    backwards = dict(reversed(options.items())) if "bottleneck" not in options else options
    assert transformed(plain, backwards) == built


def test_expansion_widens_the_depthwise_layers_alone():
    narrow, wide = mobilenet_v2(expansion=2), mobilenet_v2(expansion=8)
    for before, after in zip(narrow.blocks[1:], wide.blocks[1:], strict=True):
        assert (before.expanded, after.expanded) == (2 * before.inputs, 8 * after.inputs)
        assert dataclasses.replace(after, expanded=before.expanded) == before
    assert narrow.blocks[0] == wide.blocks[0] and not narrow.blocks[0].expands


def test_expansion_1_leaves_no_expansion_layer():
    assert not any("expand" in layer.name for layer in walk(mobilenet_v2(expansion=1), 64))


@pytest.mark.parametrize(("stride", "size"), [(4, 1), (2, 2), (1, 4)])
@networks
def test_input_stride_is_the_product_of_the_first_two_strides(network, stride, size):
    factory = FACTORIES[network]
    spec = factory(input_stride=stride)
    first = next(i for i, b in enumerate(factory().blocks) if b.stride == 2)
    assert spec.stem.stride * spec.blocks[first].stride == stride
    *_, last = [layer for layer in walk(spec, 32) if layer.kind != "dense"]
    assert last.output_size == (size, size)


@pytest.mark.parametrize("shortcut", ["bottleneck", "expansion", "none"])
@pytest.mark.parametrize("width", [0.0625, 0.25, 0.28, 1.0])
def test_shortcuts_run_where_shapes_allow_and_nowhere_else(shortcut, width):
    spec = mobilenet_v2(width=width, shortcut=shortcut)
    for block, following in zip(spec.blocks, [*spec.blocks[1:], None], strict=True):
        possible = block.stride == 1 and block.inputs == block.outputs
        if shortcut == "expansion":
            possible = possible and following and following.expanded == block.expanded
        assert block.shortcut == (shortcut if possible else "none")
    if shortcut != "none":
        assert sum(block.shortcut != "none" for block in spec.blocks) >= 10  # Table 2 at width 1


@networks
def test_shortcuts_of_the_papers_run_where_inputs_and_outputs_agree(network):
    """Each version's: stride 1 and equal channels, whatever the block filters (V4's FFN too)."""
    for width in (0.35, 1.0):
        for block in FACTORIES[network](width=width).blocks:
            if isinstance(block, InvertedResidual):
                possible = block.stride == 1 and block.inputs == block.outputs
                assert block.shortcut == ("bottleneck" if possible else "none")


def test_bottleneck_follows_every_projection_that_of_fused_blocks_too():
    for factory in (V3_LARGE, V3_SMALL, V4_SMALL, V4_MEDIUM, V4_LARGE):
        plain, clipped = factory(), factory(bottleneck="relu6")
        for before, after in zip(plain.blocks, clipped.blocks, strict=True):
            if isinstance(before, ConvNorm):
                assert after == before
            else:
                assert (before.bottleneck, after.bottleneck) == ("linear", "relu6")
                assert dataclasses.replace(after, bottleneck="linear") == before
    assert isinstance(V4_LARGE().blocks[0], FusedInvertedResidual)


@pytest.mark.parametrize("factory", [V3_LARGE, V3_SMALL, V4_SMALL, V4_MEDIUM, V4_LARGE])
def test_expansion_resizes_v3_and_v4_and_the_squeeze_with_them(factory):
    plain, wide = factory(), transforms.with_expansion(factory(), 3)
    for before, after in zip(plain.blocks, wide.blocks, strict=True):
        if not isinstance(before, InvertedResidual) or not before.expands:
            assert after == before
            continue
        assert after.expanded == 3 * before.inputs
        assert after.squeeze == (make_divisible(3 * before.inputs / 4) if before.squeeze else 0)
        same = {"expanded": before.expanded, "squeeze": before.squeeze}
        assert dataclasses.replace(after, **same) == before


@pytest.mark.parametrize("activation", ["relu6", "relu", "hard_swish", "gelu"])
@networks
def test_activation_reaches_every_layer_but_projections(network, activation):
    plain = FACTORIES[network]()
    spec = transforms.with_activation(plain, activation)
    parts = [spec.stem, *spec.blocks, spec.head.conv, spec.head.hidden]
    assert {part.activation for part in parts if hasattr(part, "activation")} == {activation}
    assert [getattr(b, "bottleneck", None) for b in spec.blocks] == [
        getattr(b, "bottleneck", None) for b in plain.blocks
    ]
    assert cost.count(spec, 64).params == cost.count(plain, 64).params


def test_squeeze_excite_everywhere_or_nowhere():
    for factory in (mobilenet_v2, V3_LARGE, V3_SMALL, V4_SMALL):
        with_, without = (transforms.with_squeeze_excite(factory(), on) for on in (True, False))
        for block, plain in zip(with_.blocks, without.blocks, strict=True):
            if isinstance(block, InvertedResidual):
                assert block.squeeze == make_divisible(block.expanded / 4) and not plain.squeeze
                assert dataclasses.replace(block, squeeze=0) == plain
    assert transforms.with_squeeze_excite(V3_LARGE(), False) == V3_LARGE(squeeze_excite=False)


@networks
def test_positions_of_an_activation_are_each_other_layers(network):
    plain = FACTORIES[network]()
    blocks = transforms.with_block_activation(plain, "linear")
    own = {b.activation for b in blocks.blocks if not isinstance(b, Attention)}
    assert own == {"linear"}
    assert (blocks.stem, blocks.head) == (plain.stem, plain.head)
    if network != "mobilenet_v1":
        head = transforms.with_head_activation(plain, "linear").head
        assert {layer.activation for layer in (head.conv, head.hidden) if layer} == {"linear"}
        assert transforms.with_head_activation(plain, "linear").blocks == plain.blocks


@networks
def test_kernel_resizes_every_depthwise_layer_and_no_other(network):
    plain, wide = FACTORIES[network](), transforms.with_kernel(FACTORIES[network](), 7)
    for before, after in zip(walk(plain, 64), walk(wide, 64), strict=True):
        assert after.kernel == (7 if before.kind == "depthwise" else before.kernel)
        assert (after.kind, after.outputs, after.output_size) == (
            before.kind, before.outputs, before.output_size,
        )  # fmt: skip


@pytest.mark.parametrize("shortcut", ["bottleneck", "expansion", "none"])
def test_repeats_keep_the_networks_shortcuts(shortcut):
    """Table 2's n, each 2: one more block in stages of one, fewer in those of three and four."""
    plain = mobilenet_v2(shortcut=shortcut)
    spec = transforms.with_repeats(plain, [1, 2, 3, 4, 3, 3, 1], 2)
    assert [block.outputs for block in spec.blocks[::2]] == [16, 24, 32, 64, 96, 160, 320]
    for first, second in zip(spec.blocks[::2], spec.blocks[1::2], strict=True):
        assert (second.inputs, second.outputs, second.stride) == (first.outputs, first.outputs, 1)
        assert second.expanded == (6 if first.expands else 1) * second.inputs
        assert first.shortcut == "none"
    for second, following in zip(spec.blocks[1::2], [*spec.blocks[2::2], None], strict=True):
        spans = following is not None and following.expanded == second.expanded
        assert second.shortcut == ("none" if shortcut == "expansion" and not spans else shortcut)
    assert sum(block.shortcut == shortcut for block in spec.blocks) >= 5


def test_each_stage_may_have_its_own_repeats():
    spec = transforms.with_repeats(mobilenet_v2(), [1, 2, 3, 4, 3, 3, 1], [1, 3, 2, 4, 3, 5, 1])
    expected = [16, *[24] * 3, *[32] * 2, *[64] * 4, *[96] * 3, *[160] * 5, 320]
    assert [block.outputs for block in spec.blocks] == expected
    strided = [i for i, block in enumerate(spec.blocks) if block.stride == 2]
    assert strided == [1, 4, 6, 13]
    same = transforms.with_repeats(mobilenet_v2(), [1, 2, 3, 4, 3, 3, 1], [1, 2, 3, 4, 3, 3, 1])
    assert same == mobilenet_v2()


ILLEGAL = [
    (transforms.with_bottleneck, (mobilenet_v1(), "linear"), ["bottleneck", "V2, V3, V4"]),
    (transforms.with_shortcut, (mobilenet_v1(), "none"), ["shortcut", "V2, V3, V4"]),
    (transforms.with_expansion, (mobilenet_v1(), 6), ["expansion", "V2, V3, V4"]),
    (transforms.with_squeeze_excite, (mobilenet_v1(), True), ["squeeze_excite", "V2, V3, V4"]),
    (transforms.with_squeeze_excite, (V3_LARGE(), 1), ["squeeze_excite", "1", "True, False"]),
    (transforms.with_activation, (V3_LARGE(), "swish"), ["activation", "swish", "hard_swish"]),
    (dense_tasks.with_output_stride, (V3_LARGE(), 4), ["output_stride", "4", "8, 16, 32"]),
    (transforms.with_convolution, (V4_SMALL(), "full"), ["convolution", "mobilenet_v1"]),
    (transforms.with_convolution, (mobilenet_v2(), "full"), ["convolution", "mobilenet_v1"]),
    (transforms.with_kernel, (mobilenet_v1(), 2), ["kernel", "2", "odd sizes"]),
    (transforms.with_kernel, (mobilenet_v1(), 0), ["kernel", "0", "odd sizes"]),
    (transforms.with_repeats, (mobilenet_v2(), [17], 0), ["repeats", "0", "1 to 100"]),
    (transforms.with_repeats, (mobilenet_v2(), [9, 8], [9, 0]), ["repeats", "0", "1 to 100"]),
    (transforms.with_head_activation, (mobilenet_v1(), "relu"), ["head_activation", "V2, V3, V4"]),
    (transforms.with_block_activation, (mobilenet_v1(), "elu"), ["block_activation", "elu"]),
    (transforms.with_depth, (mobilenet_v2(), "shallow"), ["depth", "mobilenet_v1"]),
    (transforms.with_depth, (mobilenet_v1(depth="shallow"), "shallow"), ["depth", "shallow"]),
    (
        transforms.with_input_stride,
        (mobilenet_v2(input_stride=1), 1),
        ["input_stride", "published"],
    ),
]


@pytest.mark.parametrize(
    ("call", "arguments", "words"),
    ILLEGAL,
    ids=[f"{'-'.join(words[:2])}-{i}" for i, (_, _, words) in enumerate(ILLEGAL)],
)
def test_impossible_variations_are_one_line_that_says_what_is_legal(call, arguments, words):
    one_line(ValueError, lambda: call(*arguments), "legal: ", *words)
