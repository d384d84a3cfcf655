"""What the implementations do differently, as they do it.

Oracles: constants and rules in the sources of TF-slim, Keras, torchvision and timm; channels of the
networks that they build.
"""

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import one_line

from mnet_jax.architectures import FACTORIES, mobilenet_v1, mobilenet_v2, mobilenet_v3, mobilenet_v4
from mnet_jax.architectures.dialects import Dialect, make_divisible, round_channels

networks = pytest.mark.parametrize("network", FACTORIES)


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
    assert len(factories) == {"v1": 1, "v2": 1, "v3": 2, "v4": 5}[version[-2:]]
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
        message = one_line(ValueError, partial(FACTORIES[network], dialect=name))
        assert message.startswith("dialect of ")
        assert message.endswith(f"got {name!r}, legal: {', '.join(legal)}")


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
