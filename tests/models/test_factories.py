"""Options of the factories: what they mean, what is legal, and that the models' relay them."""

import dataclasses
import math
import re

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from messages import one_line
from random_networks import options_of

from mnet_jax import models
from mnet_jax.architectures import FACTORIES, mobilenet_v1, mobilenet_v2, mobilenet_v3, mobilenet_v4
from mnet_jax.architectures.spec import Hidden

V3_LARGE, V3_SMALL = FACTORIES["mobilenet_v3_large"], FACTORIES["mobilenet_v3_small"]
V4_SMALL, V4_MEDIUM, V4_LARGE = (
    FACTORIES[f"mobilenet_v4_conv_{size}"] for size in ("small", "medium", "large")
)
networks = pytest.mark.parametrize("network", FACTORIES)


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


def test_heads_of_the_versions():
    """V1 classifies the pooled map; V2 a wide map; V3 a biased and V4 a normalized hidden layer."""
    heads = {network: factory().head for network, factory in FACTORIES.items()}
    assert heads["mobilenet_v1"].conv is heads["mobilenet_v1"].hidden is None
    assert heads["mobilenet_v2"].hidden is None
    for network, head in heads.items():
        if network.startswith("mobilenet_v3"):
            assert (head.hidden.normalized, head.hidden.activation) == (False, "hard_swish")
        if network.startswith("mobilenet_v4"):
            activation = "gelu" if network.endswith("hybrid_large") else "relu"
            assert (head.hidden.normalized, head.hidden.activation) == (True, activation)


ILLEGAL = [
    (mobilenet_v2, {"width": 0}, ["width", "0", "above 0"]),
    (mobilenet_v2, {"width": -1.0}, ["width", "-1.0", "above 0"]),
    (mobilenet_v1, {"width": math.nan}, ["width", "nan"]),
    (mobilenet_v1, {"width": math.inf}, ["width", "inf"]),
    (mobilenet_v1, {"width": 0.001}, ["width", "0.001", "0.03125"]),
    (mobilenet_v2, {"num_classes": -1}, ["num_classes", "-1", "1 or more"]),
    (mobilenet_v2, {"num_classes": 1.5}, ["num_classes", "1.5", "whole"]),
    (mobilenet_v2, {"expansion": 0}, ["expansion", "0", "1 or more"]),
    (mobilenet_v2, {"expansion": 1.5}, ["expansion", "1.5", "whole"]),
    (mobilenet_v2, {"bottleneck": "relu"}, ["bottleneck", "relu", "linear, relu6"]),
    (mobilenet_v2, {"shortcut": "all"}, ["shortcut", "all", "bottleneck, expansion, none"]),
    (mobilenet_v2, {"activation": "gelu"}, ["activation", "gelu", "relu6, relu"]),
    (mobilenet_v1, {"dropout": 1.0}, ["dropout", "1.0", "0 to below 1"]),
    (mobilenet_v1, {"norm_momentum": 1.0}, ["norm_momentum", "1.0", "0 to below 1"]),
    (V3_LARGE, {"width": 0}, ["width", "0", "above 0"]),
    (V3_SMALL, {"width": -0.5}, ["width", "-0.5", "above 0"]),
    (V3_LARGE, {"width": math.nan}, ["width", "nan"]),
    (V3_LARGE, {"width": 0.001}, ["width", "0.001", "0.0625"]),  # of the stem's 16 channels
    (V4_MEDIUM, {"width": math.inf}, ["width", "inf"]),
    (V4_LARGE, {"width": 0.01}, ["width", "0.01", "0.0416667"]),  # of the stem's 24
    (V3_LARGE, {"num_classes": -1}, ["num_classes", "-1", "1 or more"]),
    (V4_SMALL, {"num_classes": -1}, ["num_classes", "-1", "1 or more"]),
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
]


@pytest.mark.parametrize(
    ("call", "arguments", "words"),
    ILLEGAL,
    ids=[f"{'-'.join(words[:2])}-{i}" for i, (_, _, words) in enumerate(ILLEGAL)],
)
def test_illegal_options_are_one_line_with_name_value_and_what_is_legal(call, arguments, words):
    one_line(ValueError, lambda: call(**arguments), "legal: ", *words)


@networks
def test_model_factories_relay_every_option(network):
    @given(options_of(network))
    @settings(max_examples=20, deadline=None)
    def check(chosen):
        model = getattr(models, network)(**chosen, dtype=jnp.bfloat16, lowering="grouped")
        assert model.spec == FACTORIES[network](**chosen)
        assert (model.dtype, model.lowering) == (jnp.bfloat16, "grouped")
        if version := re.match(r"(mobilenet_v[34])_(.*)", network):
            build, variant = getattr(models, version[1]), version[2]
            assert build(variant, **chosen, dtype=jnp.bfloat16, lowering="grouped") == model

    check()
