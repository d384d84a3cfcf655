"""Architectures as data: their text, their transforms, their dialects and their errors.

Oracles: the rules of TF-slim, Keras, torchvision and timm written out by hand or taken from JAX,
channels that those libraries build, and the parameter trees that Flax really makes.
"""

import dataclasses
import inspect
import json
import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax

from mnet_jax import models
from mnet_jax.analysis import cost
from mnet_jax.architectures import (
    FACTORIES,
    NetworkSpec,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    mobilenet_v4,
    transforms,
    walk,
)
from mnet_jax.architectures.dialects import Dialect, make_divisible, round_channels
from mnet_jax.architectures.shapes import pad_amounts
from mnet_jax.architectures.spec import (
    ConvNorm,
    FusedInvertedResidual,
    Head,
    Hidden,
    InvertedResidual,
    Separable,
)

V3_LARGE, V3_SMALL = FACTORIES["mobilenet_v3_large"], FACTORIES["mobilenet_v3_small"]
V4_SMALL, V4_MEDIUM, V4_LARGE = (
    FACTORIES[f"mobilenet_v4_conv_{size}"] for size in ("small", "medium", "large")
)
networks = pytest.mark.parametrize("network", FACTORIES)

SHARED_OPTIONS = {
    "width": st.sampled_from([0.0625, 0.1, 0.25, 0.28, 0.35, 0.5, 0.75, 1, 1.0, 1.4])
    | st.floats(0.0625, 1.5),
    "num_classes": st.integers(1, 1001),
    "dropout": st.none() | st.floats(0, 0.9) | st.just(0),
    "norm_momentum": st.none() | st.floats(0, 0.9999),
    "input_stride": st.sampled_from([4, 2, 1]),
}


RELUS = st.sampled_from(["relu6", "relu"])
BLOCK_OPTIONS = {
    "bottleneck": st.sampled_from(["linear", "relu6"]),
    "shortcut": st.sampled_from(["bottleneck", "expansion", "none"]),
}
V3_OPTIONS = BLOCK_OPTIONS | {
    "dialect": st.sampled_from(["paper", "slim", "keras", "torchvision", "timm"]),
    "minimalistic": st.booleans(),
    "squeeze_excite": st.none() | st.booleans(),
    "hard_swish_from": st.none() | st.sampled_from([0, 16, 80, 112, 1000]),
    "stem": st.sampled_from([16, 32]),
    "last_stage": st.sampled_from(["efficient", "original"]),
}
V4_OPTIONS = BLOCK_OPTIONS | {"dialect": st.sampled_from(["paper", "timm"])}
OWN_OPTIONS = {
    "mobilenet_v1": {
        "dialect": st.sampled_from(["paper", "slim", "keras", "timm"]),
        "activation": RELUS,
        "convolution": st.sampled_from(["depthwise", "full"]),
        "depth": st.sampled_from(["full", "shallow"]),
    },
    "mobilenet_v2": BLOCK_OPTIONS
    | {
        "dialect": st.sampled_from(["paper", "slim", "keras", "torchvision", "timm"]),
        "activation": RELUS,
        "expansion": st.integers(1, 10),
    },
    "mobilenet_v3_large": V3_OPTIONS,
    "mobilenet_v3_small": V3_OPTIONS,
    "mobilenet_v4_conv_small": V4_OPTIONS,
    "mobilenet_v4_conv_medium": V4_OPTIONS,
    "mobilenet_v4_conv_large": V4_OPTIONS,
}


def options_of(network):
    """Every option of a network's factory, drawn at random."""
    return st.fixed_dictionaries(SHARED_OPTIONS | OWN_OPTIONS[network])


def specs_of(network):
    return options_of(network).map(lambda options: FACTORIES[network](**options))


def specs():
    return st.sampled_from(list(FACTORIES)).flatmap(specs_of)


def one_line(caught):
    (message,) = str(caught.value).splitlines()
    return message


# ---- text


@given(specs())
@settings(max_examples=100, deadline=None)
def test_json_round_trip_is_the_identity(spec):
    text = spec.to_json()
    assert "\n" not in text
    again = NetworkSpec.from_json(text)
    assert again == spec and hash(again) == hash(spec)
    assert again.to_json() == text


@networks
def test_options_are_drawn_from_all_that_the_factory_has(network):
    drawn = SHARED_OPTIONS | OWN_OPTIONS[network]
    assert drawn.keys() == inspect.signature(FACTORIES[network]).parameters.keys()


@networks
def test_equal_specs_have_equal_text_whatever_the_type_of_number(network):
    factory = FACTORIES[network]
    assert factory(width=1).to_json() == factory(width=1.0).to_json()
    assert factory(dropout=0).to_json() == factory(dropout=0.0).to_json()
    assert factory(width=1).to_json() != factory(width=0.5).to_json()


def edited(change):
    plain = json.loads(mobilenet_v2().to_json())
    change(plain)
    return json.dumps(plain)


BROKEN = {
    "unknown field": edited(lambda p: p.update(colour="red")),
    "unknown field of a block": edited(lambda p: p["blocks"][3].update(colour="red")),
    "missing field": edited(lambda p: p.pop("stem")),
    "text for a number": edited(lambda p: p["head"].update(num_classes="10")),
    "fraction for a whole number": edited(lambda p: p["stem"].update(outputs=32.5)),
    "float for a whole number": edited(lambda p: p["stem"].update(outputs=32.0)),
    "truth value for a number": edited(lambda p: p["stem"].update(stride=True)),
    "number for text": edited(lambda p: p.update(name=3)),
    "null for a block": edited(lambda p: p["blocks"].__setitem__(0, None)),
    "unknown type tag": edited(lambda p: p["blocks"][0].update(type="Sandglass")),
    "missing type tag": edited(lambda p: p["blocks"][0].pop("type")),
    "unknown choice": edited(lambda p: p["blocks"][0].update(activation="swish")),
    "illegal value": edited(lambda p: p["dialect"].update(norm_epsilon=-1.0)),
    "NaN": edited(lambda p: p["head"].update(dropout=math.nan)),
    "layers that do not fit": edited(lambda p: p["blocks"].pop(3)),
    "no blocks": edited(lambda p: p.update(blocks=[], head=dict(p["head"], conv=None))),
    "text for blocks": edited(lambda p: p.update(blocks="", head=dict(p["head"], conv=None))),
    "list": "[]",
    "number": "3",
    "torn": mobilenet_v2().to_json()[:500],
    "empty": "",
    "not JSON": "mobilenet_v2",
    "fraction in a block": edited(lambda p: p["blocks"][0].update(squeeze=0.5)),
    "float in a block": edited(lambda p: p["blocks"][0].update(outputs=16.0)),
    "text in a block": edited(lambda p: p["blocks"][0].update(kernel="3")),
    "truth value in a block": edited(lambda p: p["blocks"][0].update(stride=True)),
    "field of another block": edited(lambda p: p["blocks"][0].update(type="FusedInvertedResidual")),
    "stride without a window": edited(lambda p: p["blocks"][1].update(kernel=0)),
    "dilation with a stride": edited(lambda p: p["blocks"][1].update(dilation=2)),
    "hidden layer without channels": edited(
        lambda p: p["head"].update(hidden={"channels": 0, "activation": "relu", "normalized": True})
    ),
    "incomplete hidden layer": edited(lambda p: p["head"].update(hidden={"channels": 8})),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_from_json_refuses_in_one_line(text):
    with pytest.raises(ValueError, match="NetworkSpec") as caught:
        NetworkSpec.from_json(text)
    assert one_line(caught)


# ---- rounding and padding


@given(st.floats(0.01, 5000))
def test_make_divisible_is_the_nearest_multiple_of_8_and_never_below_90_percent(value):
    rounded = make_divisible(value)
    assert rounded % 8 == 0 and rounded >= 8
    assert rounded >= 0.9 * value
    nearest = max(8, 8 * math.floor(value / 8 + 0.5))
    assert rounded == (nearest if nearest >= 0.9 * value else nearest + 8)


def test_make_divisible_by_hand():
    """11.2 goes to 16 since 8 would lose 29 %, 18 to 24 since 16 would lose 11 %."""
    cases = {1: 8, 8: 8, 11.2: 16, 11.9: 16, 12: 16, 18: 24, 20: 24, 22.4: 24, 67.2: 64, 84: 88}
    assert {value: make_divisible(value) for value in cases} == cases


@pytest.mark.parametrize(
    ("rounding", "channels"),
    [
        ("truncate", [8, 5, 22, 44, 358]),
        ("truncate_at_least_8", [8, 8, 22, 44, 358]),
        ("divisible", [8, 8, 24, 48, 360]),
        ("truncate_divisible", [8, 8, 24, 48, 360]),
    ],
)
def test_rounding_rules_by_hand(rounding, channels):
    cases = [(32, 0.25), (16, 0.35), (64, 0.35), (128, 0.35), (1024, 0.35)]
    assert [round_channels(c, width, rounding) for c, width in cases] == channels


def test_dialects_round_v1_differently():
    """At 0.35 slim and Keras truncate 22.4 to 22, timm makes it 24; at 0.2 slim stops at 8."""
    stems_and_first = {
        dialect: [
            (spec.stem.outputs, spec.blocks[0].outputs)
            for spec in (mobilenet_v1(width=width, dialect=dialect) for width in (0.35, 0.2))
        ]
        for dialect in ("paper", "slim", "keras", "timm")
    }
    assert stems_and_first == {
        "paper": [(11, 22), (8, 12)],
        "slim": [(11, 22), (8, 12)],
        "keras": [(11, 22), (6, 12)],
        "timm": [(16, 24), (8, 16)],
    }


def test_keras_truncates_before_it_rounds_in_v2_blocks_alone():
    """32 * 0.28 = 8.96 makes 16, since 8 is below 90 % of it; truncated first it makes 8."""
    keras, paper = (mobilenet_v2(width=0.28, dialect=name) for name in ("keras", "paper"))
    assert (keras.stem.outputs, paper.stem.outputs) == (16, 16)
    assert (keras.blocks[3].outputs, paper.blocks[3].outputs) == (8, 16)  # table's 32 channels


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
class TestPadAmounts:
    sizes = range(1, 41)

    def test_same_is_laxs(self, kernel, stride):
        for size in self.sizes:
            expected = lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")
            assert [pad_amounts("same", kernel, stride, size)] == list(map(tuple, expected)), size

    def test_symmetric_is_torchs(self, kernel, stride):
        """(kernel - 1) // 2 on both sides, in torchvision's ConvNormActivation."""
        for size in self.sizes:
            pads = pad_amounts("symmetric", kernel, stride, size)
            assert pads == ((kernel - 1) // 2,) * 2

    def test_end_is_keras_v1s_extended_to_every_kernel(self, kernel, stride):
        """ZeroPadding2D(((0, 1), (0, 1))) and "valid" where strided, "same" elsewhere."""
        for size in self.sizes:
            pads = pad_amounts("end", kernel, stride, size)
            if stride == 1:
                assert pads == (kernel // 2, kernel // 2)
            elif kernel == 3:
                assert pads == (0, 1)
            else:
                assert pads == (0, (kernel - 1) // 2)


def test_same_is_keras_v2s_correct_pad_before_strided_depthwise():
    """`imagenet_utils.correct_pad`: half the kernel, one less in front at even sizes."""
    for size in range(3, 41):
        for kernel in (3, 5):
            half = kernel // 2
            expected = (half - (1 - size % 2), half)
            if size >= kernel:
                assert pad_amounts("same", kernel, 2, size) == expected


def test_same_and_symmetric_give_the_same_shapes_and_differ_at_even_sizes_only():
    for size in range(3, 41):
        same, symmetric = (pad_amounts(rule, 3, 2, size) for rule in ("same", "symmetric"))
        outputs = {(size + sum(pads) - 3) // 2 + 1 for pads in (same, symmetric)}
        assert len(outputs) == 1
        assert (same == symmetric) == (size % 2 == 1)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_dilated_windows_are_padded_as_lax_and_torch_pad_them(kernel, dilation):
    """lax pads for the length that the kernel reaches; torch (kernel - 1) // 2 * dilation."""
    reach = dilation * (kernel - 1) + 1
    for size in range(1, 20):
        expected = lax.padtype_to_pads((size,), (reach,), (1,), "SAME")
        assert pad_amounts("same", kernel, 1, size, dilation) == tuple(expected[0])
        assert pad_amounts("end", kernel, 1, size, dilation) == tuple(expected[0])
        symmetric = (kernel - 1) // 2 * dilation
        assert pad_amounts("symmetric", kernel, 1, size, dilation) == (symmetric, symmetric)


# ---- dialects

# version, dialect, then what the implementations' sources say: epsilon, kept momentum, dropout,
# padding, padding of depthwise layers, initializer
SLIM, GLOROT, FAN_OUT = "truncated_normal_0.09", "glorot_uniform", "normal_fan_out"
PER_GROUP, SCALING = "normal_group_fan_out", "variance_scaling"
CONVENTIONS = [
    ("mobilenet_v1", "paper", 1e-3, 0.9997, 0.001, "same", "same", SLIM),
    ("mobilenet_v1", "slim", 1e-3, 0.9997, 0.001, "same", "same", SLIM),
    ("mobilenet_v1", "keras", 1e-3, 0.99, 0.001, "same", "end", GLOROT),
    ("mobilenet_v1", "timm", 1e-5, 0.9, 0.0, "symmetric", "symmetric", PER_GROUP),
    ("mobilenet_v2", "paper", 1e-3, 0.997, 0.2, "same", "same", SLIM),
    ("mobilenet_v2", "slim", 1e-3, 0.997, 0.2, "same", "same", SLIM),
    ("mobilenet_v2", "keras", 1e-3, 0.999, 0.0, "same", "same", GLOROT),
    ("mobilenet_v2", "torchvision", 1e-5, 0.9, 0.2, "symmetric", "symmetric", FAN_OUT),
    ("mobilenet_v2", "timm", 1e-5, 0.9, 0.0, "symmetric", "symmetric", PER_GROUP),
    ("mobilenet_v3", "paper", 1e-3, 0.99, 0.2, "same", "same", SLIM),  # section 6.1.1: 0.99
    ("mobilenet_v3", "slim", 1e-3, 0.997, 0.2, "same", "same", SLIM),
    ("mobilenet_v3", "keras", 1e-3, 0.999, 0.2, "same", "same", GLOROT),
    ("mobilenet_v3", "torchvision", 1e-3, 0.99, 0.2, "symmetric", "symmetric", FAN_OUT),
    ("mobilenet_v3", "timm", 1e-5, 0.9, 0.0, "symmetric", "symmetric", PER_GROUP),
    ("mobilenet_v4", "paper", 1e-3, 0.99, 0.2, "same", "same", SCALING),
    ("mobilenet_v4", "timm", 1e-5, 0.9, 0.0, "symmetric", "symmetric", PER_GROUP),
]


@pytest.mark.parametrize("row", CONVENTIONS, ids=[f"{row[0]}-{row[1]}" for row in CONVENTIONS])
def test_dialects_keep_the_implementations_conventions(row):
    version, name, epsilon, momentum, dropout, padding, depthwise_padding, initializer = row
    factories = [f for network, f in FACTORIES.items() if network.startswith(version)]
    assert len(factories) == {"v1": 1, "v2": 1, "v3": 2, "v4": 3}[version[-2:]]
    for factory in factories:
        spec = factory(dialect=name)
        assert spec.head.dropout == dropout
        assert spec.dialect == Dialect(
            name=name,
            norm_epsilon=epsilon,
            norm_momentum=momentum,
            padding=padding,
            depthwise_padding=depthwise_padding,
            initializer=initializer,
        )
        assert factory(dialect=name, norm_momentum=0.5).dialect.norm_momentum == 0.5
        assert factory(dialect=name, dropout=0.5).head.dropout == 0.5


@networks
def test_a_network_has_the_dialects_of_the_table_and_no_others(network):
    legal = [name for version, name, *_ in CONVENTIONS if network.startswith(version)]
    for name in {"paper", "slim", "keras", "torchvision", "timm", "pytorch"} - set(legal):
        with pytest.raises(ValueError) as caught:
            FACTORIES[network](dialect=name)
        assert one_line(caught).endswith(f"got {name!r}, legal: {', '.join(legal)}")


@pytest.mark.parametrize("width", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("factory", [mobilenet_v1, mobilenet_v2, V3_LARGE, V4_SMALL])
def test_paddings_of_the_dialects_give_equal_shapes_at_stride_2_and_unequal_zeros(factory, width):
    """At 224 SAME pads (0, 1) where torch pads (1, 1): the classic fault of weight converters."""
    sizes = {}
    for dialect in ("paper", "timm"):
        spec = factory(width=1.0, dialect=dialect)
        strided = [layer for layer in walk(spec, int(224 * width)) if layer.stride == 2]
        assert len(strided) >= 5
        sizes[dialect] = [(layer.input_size, layer.output_size) for layer in strided]
        for layer in strided:
            rule = spec.dialect.depthwise_padding
            pads = pad_amounts(rule, layer.kernel, 2, layer.input_size[0])
            half = layer.kernel // 2
            even = layer.input_size[0] % 2 == 0
            assert pads == ((half - 1, half) if dialect == "paper" and even else (half, half))
    assert sizes["paper"] == sizes["timm"]


# V3's expanded widths, as timm, Keras and torchvision build them: the first two take the ratio to
# the real channels of the layer before, rounded; torchvision scales the table's number.
V3_EXPANDED = {
    ("large", 0.75, "ratio"): [16, 64, 72, 72, 96, 96, 192, 160, 144, 144, 384, 528, 528, 720, 720],
    ("large", 0.75, "scaled"): (
        [16, 48, 56, 56, 88, 88, 184, 152, 136, 136, 360, 504, 504, 720, 720]
    ),
    ("small", 0.75, "ratio"): [16, 72, 88, 96, 192, 192, 96, 120, 240, 432, 432],
    ("small", 0.75, "scaled"): [16, 56, 64, 72, 184, 184, 88, 112, 216, 432, 432],
    ("large", 1.25, "scaled"): (
        [24, 80, 88, 88, 152, 152, 304, 248, 232, 232, 600, 840, 840, 1200, 1200]
    ),
}


@pytest.mark.parametrize("case", V3_EXPANDED, ids=lambda case: "-".join(map(str, case)))
def test_v3s_first_075_rule_expansions_follow_real_channels_or_the_table(case):
    variant, width, rule = case
    dialects = ["torchvision"] if rule == "scaled" else ["paper", "slim", "keras", "timm"]
    for dialect in dialects:
        spec = mobilenet_v3(variant, width=width, dialect=dialect)
        assert [block.expanded for block in spec.blocks] == V3_EXPANDED[case], dialect


# V3's tail as the implementations build it: variant, width, dialects, (pooled, hidden)
V3_TAILS = [
    ("large", 0.75, ("paper", "slim", "keras", "timm"), (720, 1280)),
    ("large", 0.75, ("torchvision",), (720, 960)),
    ("small", 0.75, ("paper", "slim", "keras", "timm"), (432, 1024)),
    ("small", 0.75, ("torchvision",), (432, 768)),
    ("large", 0.5, ("paper", "slim", "keras", "timm"), (480, 1280)),
    ("large", 0.5, ("torchvision",), (480, 640)),
    ("large", 1.25, ("paper", "slim", "keras", "torchvision"), (1200, 1600)),
    ("large", 1.25, ("timm",), (1200, 1280)),
    ("small", 1.25, ("paper", "slim", "keras", "torchvision"), (720, 1280)),
    ("small", 1.25, ("timm",), (720, 1024)),
    # 96 * 0.35 = 33.6 makes 32 and six times it 192; 576 * 0.35 = 201.6 makes 200
    ("small", 0.35, ("keras",), (192, 1024)),
    ("small", 0.35, ("torchvision",), (192, 360)),
    ("small", 0.35, ("paper", "slim", "timm"), (200, 1024)),
]


@pytest.mark.parametrize(("variant", "width", "dialects", "tail"), V3_TAILS)
def test_v3s_second_075_rule_the_last_layer_keeps_its_width_or_does_not(
    variant, width, dialects, tail
):
    for dialect in dialects:
        head = mobilenet_v3(variant, width=width, dialect=dialect).head
        assert (head.conv.outputs, head.hidden.channels) == tail, dialect


@pytest.mark.parametrize(
    ("dialect", "stems"),  # at widths 0.35, 0.5, 0.75, 1 and 1.25; 12 rounds to 16, 20 to 24
    [
        ("paper", [8, 8, 16, 16, 24]),
        ("slim", [8, 8, 16, 16, 24]),
        ("keras", [16, 16, 16, 16, 16]),  # keras.applications never scales it
        ("torchvision", [8, 8, 16, 16, 24]),
        ("timm", [16, 16, 16, 16, 24]),  # fixed below 0.75
    ],
)
@pytest.mark.parametrize("variant", ["large", "small"])
def test_v3s_stem_is_fixed_in_some_dialects(variant, dialect, stems):
    built = [mobilenet_v3(variant, width=w, dialect=dialect) for w in (0.35, 0.5, 0.75, 1, 1.25)]
    assert [spec.stem.outputs for spec in built] == stems
    assert [spec.blocks[0].expands for spec in built] == [False] * 5


@pytest.mark.parametrize(
    ("variant", "dialect", "stems"),  # at widths 0.35, 0.5, 1 and 1.25
    [
        ("conv_small", "paper", [16, 16, 32, 40]),
        ("conv_small", "timm", [32, 32, 32, 40]),  # fixed below 1
        ("conv_medium", "timm", [32, 32, 32, 40]),
        ("conv_large", "paper", [8, 16, 24, 32]),
        ("conv_large", "timm", [24, 24, 24, 32]),
    ],
)
def test_v4s_stem_is_fixed_in_timm_and_its_last_layer_everywhere(variant, dialect, stems):
    widths = (0.35, 0.5, 1, 1.25)
    built = [mobilenet_v4(variant, width=width, dialect=dialect) for width in widths]
    assert [spec.stem.outputs for spec in built] == stems
    assert [spec.head.hidden.channels for spec in built] == [1280] * 4
    assert [spec.head.conv.outputs for spec in built] == [336, 480, 960, 1200]


def test_heads_of_the_versions():
    """V1 classifies the pooled map; V2 a wide map; V3 a biased and V4 a normalized hidden layer."""
    heads = {network: factory().head for network, factory in FACTORIES.items()}
    assert heads["mobilenet_v1"].conv is heads["mobilenet_v1"].hidden is None
    assert heads["mobilenet_v2"].hidden is None
    for network, head in heads.items():
        if network.startswith("mobilenet_v3"):
            assert (head.hidden.normalized, head.hidden.activation) == (False, "hard_swish")
        if network.startswith("mobilenet_v4"):
            assert (head.hidden.normalized, head.hidden.activation) == (True, "relu")


# ---- transforms


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
    assert plain == factory(width=width)  # the argument is left alone


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


@pytest.mark.parametrize("activation", ["relu6", "relu", "hard_swish"])
@networks
def test_activation_reaches_every_layer_but_projections(network, activation):
    plain = FACTORIES[network]()
    spec = transforms.with_activation(plain, activation)
    parts = [spec.stem, *spec.blocks, spec.head.conv, spec.head.hidden]
    assert {part.activation for part in parts if part} == {activation}
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


@pytest.mark.parametrize("factory", [V3_LARGE, V3_SMALL])
def test_minimalistic_has_3x3_kernels_relu_and_no_squeeze_unless_asked(factory):
    plain, bare = factory(), factory(minimalistic=True)
    for block, before in zip(bare.blocks, plain.blocks, strict=True):
        same = {"kernel": 3, "activation": "relu", "squeeze": 0}
        assert block == dataclasses.replace(before, **same)
    assert {bare.stem.activation, bare.head.conv.activation} == {"relu"}
    assert bare.head.hidden == Hidden(
        channels=plain.head.hidden.channels, activation="relu", normalized=False
    )
    again = factory(minimalistic=True, squeeze_excite=True, hard_swish_from=80)
    assert [b.squeeze for b in again.blocks] == [b.squeeze for b in plain.blocks]
    assert {b.activation for b in again.blocks if b.outputs >= 80} == {"hard_swish"}
    assert {b.kernel for b in again.blocks} == {3}


# Rows of Table 1 with h-swish when it starts at a number of channels (V3 paper, Table 5).
@pytest.mark.parametrize(("start", "rows"), [(16, 15), (24, 14), (80, 9), (112, 5), (0, 0)])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_hard_swish_starts_at_a_number_of_channels_of_the_table(start, rows, width):
    spec = V3_LARGE(hard_swish_from=start, width=width)
    swish = ["hard_swish" if i >= 15 - rows else "relu" for i in range(15)]
    assert [block.activation for block in spec.blocks] == swish
    ends = "hard_swish" if start else "relu"
    assert spec.stem.activation == spec.head.conv.activation == ends
    assert spec.head.hidden.activation == ends
    if start == 80:
        assert spec == V3_LARGE(width=width)  # as the table has it


# ---- output stride and reduced tail

# Blocks behind which the strides of 16 and of 8 end: where dilation has to begin.
LAST_STRIDED = {  # network: (index of the block that brings stride 16, that brings 32)
    "mobilenet_v1": (5, 11),
    "mobilenet_v2": (6, 13),
    "mobilenet_v3_large": (6, 12),
    "mobilenet_v3_small": (3, 8),
    "mobilenet_v4_conv_small": (4, 10),
    "mobilenet_v4_conv_medium": (3, 11),
    "mobilenet_v4_conv_large": (3, 14),
}


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@networks
def test_output_stride_turns_strides_into_dilation(network, output_stride):
    plain = FACTORIES[network]()
    spec = transforms.with_output_stride(plain, output_stride)
    to_16, to_32 = LAST_STRIDED[network]
    for i, (block, before) in enumerate(zip(spec.blocks, plain.blocks, strict=True)):
        undone = (i == to_32 and output_stride < 32) or (i == to_16 and output_stride < 16)
        assert block.stride == (1 if undone else before.stride)
        dilation = (2 if i > to_32 and output_stride < 32 else 1) * (
            2 if i > to_16 and output_stride < 16 else 1
        )
        assert block.dilation == dilation
        # A shortcut that was not there does not appear, or the weights would mean something else.
        assert dataclasses.replace(block, stride=before.stride, dilation=1) == before
    *_, last = [layer for layer in walk(spec, 224) if layer.kind != "dense"]
    assert last.output_size == (224 // output_stride,) * 2
    assert cost.count(spec, 224).params == cost.count(plain, 224).params
    assert transforms.with_output_stride(plain, 32) == plain


@networks
def test_output_strides_compose(network):
    plain = FACTORIES[network]()
    at_16, at_8 = (transforms.with_output_stride(plain, stride) for stride in (16, 8))
    assert transforms.with_output_stride(at_16, 16) == at_16
    assert transforms.with_output_stride(at_16, 8) == at_8
    assert transforms.with_output_stride(at_8, 16) == at_8  # what is finer stays


# torchvision 0.29, mobilenet_v3_*(reduced_tail=True): (in, expanded, out, squeeze) of the blocks
# from the last strided one on, the last convolution, the hidden layer; trainable parameters.
REDUCED_TAILS = {
    "large": ([(112, 672, 80, 168), (80, 480, 80, 120), (80, 480, 80, 120)], 480, 640, 2_569_352),
    "small": ([(48, 288, 48, 72), (48, 288, 48, 72), (48, 288, 48, 72)], 288, 512, 1_099_672),
}


@pytest.mark.parametrize("variant", REDUCED_TAILS)
def test_reduced_tail_halves_what_torchvisions_halves(variant):
    blocks, conv, hidden, params = REDUCED_TAILS[variant]
    plain = mobilenet_v3(variant, dialect="torchvision")
    spec = transforms.with_reduced_tail(plain)
    head = len(plain.blocks) - len(blocks)
    assert spec.blocks[:head] == plain.blocks[:head] and spec.stem == plain.stem
    found = [(b.inputs, b.expanded, b.outputs, b.squeeze) for b in spec.blocks[head:]]
    assert found == blocks
    assert (spec.head.conv.outputs, spec.head.hidden.channels) == (conv, hidden)
    assert cost.count(spec, 224).params == params
    for block, before in zip(spec.blocks, plain.blocks, strict=True):
        for name in ("kernel", "stride", "activation", "shortcut", "bottleneck"):
            assert getattr(block, name) == getattr(before, name)


@networks
def test_reduced_tail_of_any_network_is_a_network_with_half_the_last_map(network):
    plain = FACTORIES[network]()
    spec = transforms.with_reduced_tail(plain)
    assert spec.pooled == plain.pooled / 2
    assert cost.count(spec, 64).params < cost.count(plain, 64).params
    assert spec.blocks[: LAST_STRIDED[network][1]] == plain.blocks[: LAST_STRIDED[network][1]]


# ---- errors


NARROW = {"inputs": 8, "expanded": 48, "outputs": 16}
ILLEGAL = [
    (mobilenet_v2, {"width": 0}, ["width", "0", "above 0"]),
    (mobilenet_v2, {"width": -1.0}, ["width", "-1.0", "above 0"]),
    (mobilenet_v1, {"width": math.nan}, ["width", "nan"]),
    (mobilenet_v1, {"width": math.inf}, ["width", "inf"]),
    (mobilenet_v1, {"width": 0.001}, ["width", "0.001", "0.03125"]),
    (mobilenet_v2, {"num_classes": 0}, ["num_classes", "0", "1 or more"]),
    (mobilenet_v2, {"num_classes": 1.5}, ["num_classes", "1.5", "whole"]),
    (mobilenet_v2, {"expansion": 0}, ["expansion", "0", "1 or more"]),
    (mobilenet_v2, {"expansion": 1.5}, ["expansion", "1.5", "whole"]),
    (mobilenet_v2, {"bottleneck": "relu"}, ["bottleneck", "relu", "linear, relu6"]),
    (mobilenet_v2, {"shortcut": "all"}, ["shortcut", "all", "bottleneck, expansion, none"]),
    (mobilenet_v2, {"activation": "gelu"}, ["activation", "gelu", "relu6, relu"]),
    (mobilenet_v1, {"dropout": 1.0}, ["dropout", "1.0", "0 to below 1"]),
    (mobilenet_v1, {"norm_momentum": 1.0}, ["norm_momentum", "1.0", "0 to below 1"]),
    (
        mobilenet_v1,
        {"dialect": "torchvision"},
        ["dialect", "torchvision", "paper, slim, keras, timm"],
    ),
    (
        mobilenet_v2,
        {"dialect": "pytorch"},
        ["dialect", "pytorch", "paper, slim, keras, torchvision, timm"],
    ),
    (V4_SMALL, {"dialect": "keras"}, ["dialect", "keras", "legal: paper, timm"]),
    (V3_LARGE, {"width": 0}, ["width", "0", "above 0"]),
    (V3_SMALL, {"width": -0.5}, ["width", "-0.5", "above 0"]),
    (V3_LARGE, {"width": math.nan}, ["width", "nan"]),
    (V3_LARGE, {"width": 0.001}, ["width", "0.001", "0.0625"]),  # of the stem's 16 channels
    (V4_MEDIUM, {"width": math.inf}, ["width", "inf"]),
    (V4_LARGE, {"width": 0.01}, ["width", "0.01", "0.0416667"]),  # of the stem's 24
    (V3_LARGE, {"num_classes": 0}, ["num_classes", "0", "1 or more"]),
    (V4_SMALL, {"num_classes": 0}, ["num_classes", "0", "1 or more"]),
    (V4_SMALL, {"num_classes": 2.0}, ["num_classes", "2.0", "whole"]),
    (mobilenet_v3, {"variant": "medium"}, ["variant", "medium", "large, small"]),
    (mobilenet_v4, {"variant": "small"}, ["variant", "small", "conv_small, conv_medium"]),
    (V3_LARGE, {"stem": 24}, ["stem", "24", "16, 32"]),
    (V3_LARGE, {"last_stage": "wide"}, ["last_stage", "wide", "efficient, original"]),
    (V3_LARGE, {"hard_swish_from": -1}, ["hard_swish_from", "-1", "0 for nowhere"]),
    (V3_LARGE, {"hard_swish_from": 16.0}, ["hard_swish_from", "16.0", "channels"]),
    (V3_LARGE, {"dropout": 1.0}, ["dropout", "1.0", "0 to below 1"]),
    (V3_LARGE, {"bottleneck": "hard_swish"}, ["bottleneck", "hard_swish", "linear, relu6"]),
    (V4_SMALL, {"shortcut": "all"}, ["shortcut", "all", "bottleneck, expansion, none"]),
    (V4_SMALL, {"norm_momentum": 1.0}, ["norm_momentum", "1.0", "0 to below 1"]),
    (V4_LARGE, {"input_stride": 3}, ["input_stride", "3", "4, 2, 1"]),
    (mobilenet_v1, {"input_stride": 3}, ["input_stride", "3", "4, 2, 1"]),
    (mobilenet_v1, {"convolution": "grouped"}, ["convolution", "grouped", "depthwise, full"]),
    (mobilenet_v1, {"depth": "deep"}, ["depth", "deep", "full, shallow"]),
    (transforms.with_bottleneck, (mobilenet_v1(), "linear"), ["bottleneck", "V2, V3, V4"]),
    (transforms.with_shortcut, (mobilenet_v1(), "none"), ["shortcut", "V2, V3, V4"]),
    (transforms.with_expansion, (mobilenet_v1(), 6), ["expansion", "V2, V3, V4"]),
    (transforms.with_squeeze_excite, (mobilenet_v1(), True), ["squeeze_excite", "V2, V3, V4"]),
    (transforms.with_squeeze_excite, (V3_LARGE(), 1), ["squeeze_excite", "1", "True, False"]),
    (transforms.with_activation, (V3_LARGE(), "swish"), ["activation", "swish", "hard_swish"]),
    (transforms.with_output_stride, (V3_LARGE(), 4), ["output_stride", "4", "8, 16, 32"]),
    (transforms.with_convolution, (V4_SMALL(), "full"), ["convolution", "mobilenet_v1"]),
    (transforms.with_convolution, (mobilenet_v2(), "full"), ["convolution", "mobilenet_v1"]),
    (transforms.with_depth, (mobilenet_v2(), "shallow"), ["depth", "mobilenet_v1"]),
    (transforms.with_depth, (mobilenet_v1(depth="shallow"), "shallow"), ["depth", "shallow"]),
    (
        transforms.with_input_stride,
        (mobilenet_v2(input_stride=1), 1),
        ["input_stride", "published"],
    ),
    (ConvNorm, {"inputs": 0, "outputs": 8, "kernel": 3}, ["inputs", "0", "1 channel"]),
    (ConvNorm, {"inputs": 3, "outputs": 8, "kernel": 2}, ["kernel", "2", "odd"]),
    (ConvNorm, {"inputs": 3, "outputs": 8, "kernel": 3, "stride": 3}, ["stride", "3", "1, 2"]),
    (
        InvertedResidual,
        {"inputs": 8, "expanded": 48, "outputs": 8, "stride": 2, "shortcut": "bottleneck"},
        ["shortcut", "bottleneck", "none"],
    ),
    (
        InvertedResidual,
        {"inputs": 8, "expanded": 48, "outputs": 16, "kernel": 0, "stride": 2},
        ["stride", "2", "1 without a depthwise kernel"],
    ),
    (InvertedResidual, NARROW | {"kernel": 4}, ["kernel", "4", "0 for none"]),
    (InvertedResidual, NARROW | {"start_kernel": 2}, ["start_kernel", "2", "0 for none"]),
    (InvertedResidual, NARROW | {"start_kernel": -1}, ["start_kernel", "-1", "odd"]),
    (InvertedResidual, NARROW | {"squeeze": -8}, ["squeeze", "-8", "0 for none"]),
    (InvertedResidual, NARROW | {"dilation": 0}, ["dilation", "0", "1 or more"]),
    (InvertedResidual, NARROW | {"activation": "gelu"}, ["activation", "gelu", "hard_swish"]),
    (
        InvertedResidual,
        NARROW | {"dilation": 2, "stride": 2},
        ["dilation", "2", "1 where the stride is 2"],
    ),
    (FusedInvertedResidual, NARROW | {"kernel": 0}, ["kernel", "0", "odd"]),
    (FusedInvertedResidual, NARROW | {"expanded": 0}, ["expanded", "0", "1 channel"]),
    (FusedInvertedResidual, NARROW | {"bottleneck": "swish"}, ["bottleneck", "swish", "linear"]),
    (Separable, {"inputs": 8, "outputs": 8, "kernel": 0}, ["kernel", "0", "odd"]),
    (Separable, {"inputs": 8, "outputs": 8, "dilation": -1}, ["dilation", "-1", "1 or more"]),
    (Hidden, {"channels": 0, "activation": "relu", "normalized": True}, ["channels", "0"]),
    (Hidden, {"channels": 8, "activation": "tanh", "normalized": True}, ["activation", "tanh"]),
    (Head, {"conv": None, "dropout": -0.1, "num_classes": 10}, ["dropout", "-0.1"]),
    (
        dataclasses.replace,
        {"obj": V3_LARGE(), "blocks": V3_LARGE().blocks[2:]},
        ["inputs of layer 1", "24", "the 16 outputs"],
    ),
    (walk_all := lambda *a: list(walk(*a)), (mobilenet_v2(), 0), ["resolution", "0", "1 pixel"]),
    (walk_all, (mobilenet_v1(dialect="keras"), 8), ["resolution", "large enough"]),
    (walk_all, (V3_LARGE(), 0), ["resolution", "0", "1 pixel"]),
    (walk_all, (V4_SMALL(), (32, -1)), ["resolution", "(32, -1)", "1 pixel"]),
]


def test_no_shortcut_spans_a_map_that_shrinks_before_it_is_expanded():
    def two_blocks(following):
        block = InvertedResidual(inputs=16, expanded=64, outputs=16, shortcut="expansion")
        head = Head(conv=None, dropout=0.0, num_classes=2)
        stem = ConvNorm(inputs=3, outputs=16, kernel=3)
        plain = mobilenet_v2()
        return dataclasses.replace(plain, stem=stem, blocks=(block, following), head=head)

    wide = {"inputs": 16, "expanded": 64, "outputs": 24, "stride": 2, "start_kernel": 3}
    two_blocks(InvertedResidual(**wide, kernel=3))  # the stride lies behind the expansion
    with pytest.raises(ValueError, match="a next block expanded as widely as this, and at this"):
        two_blocks(InvertedResidual(**wide, kernel=0))


def test_reduced_tail_halves_a_fused_block_behind_the_last_stride():
    plain = mobilenet_v4("conv_medium")
    fused = FusedInvertedResidual(inputs=256, expanded=1024, outputs=256)
    spec = transforms.with_reduced_tail(dataclasses.replace(plain, blocks=(*plain.blocks, fused)))
    assert spec.blocks[-1] == FusedInvertedResidual(inputs=128, expanded=512, outputs=128)


def test_the_tail_of_a_dilated_network_is_not_reduced():
    dilated = transforms.with_output_stride(mobilenet_v2(), 16)
    with pytest.raises(ValueError, match="reduced_tail: got 'dilated blocks', legal: reduce"):
        transforms.with_reduced_tail(dilated)


@pytest.mark.parametrize(
    ("call", "arguments", "words"),
    ILLEGAL,
    ids=[f"{'-'.join(row[2][:2])}-{i}" for i, row in enumerate(ILLEGAL)],
)
def test_errors_are_one_line_with_name_value_and_what_is_legal(call, arguments, words):
    with pytest.raises(ValueError) as caught:
        if call is dataclasses.replace:
            call(arguments["obj"], blocks=arguments["blocks"])
        else:
            call(**arguments) if isinstance(arguments, dict) else call(*arguments)
    message = one_line(caught)
    assert "legal: " in message
    for word in words:
        assert word in message


# ---- interpreters agree


@networks
def test_model_factories_take_the_architectures_options_and_how_to_compute(network):
    options = inspect.signature(FACTORIES[network]).parameters
    built = dict(inspect.signature(getattr(models, network)).parameters)
    assert built.pop("dtype").default == jnp.float32
    assert built.pop("lowering").default == "auto"
    assert list(built) == list(options)
    for name, parameter in built.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default == options[name].default, name
        assert parameter.annotation == options[name].annotation, name


@networks
def test_model_factories_relay_every_option(network):
    @given(options_of(network))
    @settings(max_examples=20, deadline=None)
    def check(chosen):
        model = getattr(models, network)(**chosen, dtype=jnp.bfloat16, lowering="grouped")
        assert model.spec == FACTORIES[network](**chosen)
        assert (model.dtype, model.lowering) == (jnp.bfloat16, "grouped")

    check()


def test_model_docstrings_tell_of_every_option():
    for network, factory in FACTORIES.items():
        told = inspect.getdoc(getattr(models, network))
        for name in [*inspect.signature(factory).parameters, "dtype", "lowering"]:
            assert f"\n  {name}: " in told, (network, name)


def flat(tree):
    """{"block_0/depthwise/conv/kernel": shape} of a tree of arrays."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(entry.key for entry in path): leaf.shape for path, leaf in leaves}


def expected_variables(layer):
    """Names and shapes of a layer's parameters and statistics, from what the layer is."""
    kernels = {
        "conv": (layer.kernel, layer.kernel, layer.inputs, layer.outputs),
        "depthwise": (layer.kernel, layer.kernel, layer.outputs),
        "pointwise": (layer.inputs, layer.outputs),
        "dense": (layer.inputs, layer.outputs),
    }
    vector = (layer.outputs,)
    if not layer.normalized:
        return {f"{layer.name}/kernel": kernels[layer.kind], f"{layer.name}/bias": vector}, {}
    params = {f"{layer.name}/conv/kernel": kernels[layer.kind]}
    params |= {f"{layer.name}/norm/{name}": vector for name in ("scale", "bias")}
    return params, {f"{layer.name}/norm/{name}": vector for name in ("mean", "var")}


# Only shapes are computed, so every option is cheap.
# A failure is reported as found: to shrink one would trace the network for minutes.
@pytest.mark.slow
@given(specs(), st.tuples(st.integers(24, 80), st.integers(24, 80)))
@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_walk_and_cost_agree_with_the_network_that_flax_builds(spec, resolution):
    try:
        layers = list(walk(spec, resolution))
    except ValueError as error:
        assert "resolution" in str(error)
        return
    model = models.MobileNet(spec=spec, lowering="grouped")
    images = jax.ShapeDtypeStruct((1, *resolution, 3), jnp.float32)
    logits, variables = jax.eval_shape(
        lambda key, x: model.init_with_output(
            key, x, train=False, mutable=["params", "batch_stats", "intermediates"]
        ),
        jax.random.key(0),
        images,
    )
    params, statistics = {}, {}
    for layer in layers:
        own_params, own_statistics = expected_variables(layer)
        params |= own_params
        statistics |= own_statistics
    assert flat(variables["params"]) == params
    assert flat(variables["batch_stats"]) == statistics

    counted = cost.count(spec, resolution)
    assert counted.params == sum(map(math.prod, params.values()))
    assert counted.statistics == sum(map(math.prod, statistics.values()))

    names = {"stem": "stem_output", "start": "started", "expand": "expanded"}
    names |= {"depthwise": "filtered", "project": "projected", "conv": "conv_output"}
    names |= {"hidden": "hidden_output"}
    sown = variables["intermediates"]
    for layer in layers[:-1]:
        path, _, last = layer.name.rpartition("/")
        if path.endswith("squeeze_excite"):
            continue
        group = sown[path] if path else sown
        if last == "pointwise":
            found = sown[f"{path}_output"]
        else:
            found = group[names.get(last, f"{last}_output")]
        size = layer.output_size if layer.kind != "dense" else ()
        assert found[0].shape == (1, *size, layer.outputs), layer.name
    assert logits.shape == (1, spec.head.num_classes)
