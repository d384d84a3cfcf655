"""A spec is data: equal specs have equal text, and neither text nor fields may be illegal."""

import dataclasses
import json
import math

import pytest
from messages import one_line

from mnet_jax.architectures import (
    FACTORIES,
    ConvNorm,
    FusedInvertedResidual,
    Head,
    Hidden,
    InvertedResidual,
    NetworkSpec,
    Separable,
    mobilenet_v2,
)

networks = pytest.mark.parametrize("network", FACTORIES)


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
    one_line(ValueError, lambda: NetworkSpec.from_json(text), "NetworkSpec")


NARROW = {"inputs": 8, "expanded": 48, "outputs": 16}
ILLEGAL = [
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
    (InvertedResidual, NARROW | {"activation": "swish"}, ["activation", "swish", "hard_swish"]),
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
]


@pytest.mark.parametrize(
    ("call", "arguments", "words"),
    ILLEGAL,
    ids=[f"{'-'.join(words[:2])}-{i}" for i, (_, _, words) in enumerate(ILLEGAL)],
)
def test_illegal_blocks_are_one_line_with_name_value_and_what_is_legal(call, arguments, words):
    one_line(ValueError, lambda: call(**arguments), "legal: ", *words)


def test_blocks_that_do_not_follow_from_each_other_are_one_line():
    spec = FACTORIES["mobilenet_v3_large"]()
    words = ("inputs of layer 1", "24", "legal: the 16 outputs")
    one_line(ValueError, lambda: dataclasses.replace(spec, blocks=spec.blocks[2:]), *words)


def test_no_shortcut_spans_a_map_that_shrinks_before_it_is_expanded():
    def two_blocks(following):
        block = InvertedResidual(inputs=16, expanded=64, outputs=16, shortcut="expansion")
        head = Head(conv=None, dropout=0.0, num_classes=2)
        stem = ConvNorm(inputs=3, outputs=16, kernel=3)
        plain = mobilenet_v2()
        return dataclasses.replace(plain, stem=stem, blocks=(block, following), head=head)

    wide = {"inputs": 16, "expanded": 64, "outputs": 24, "stride": 2, "start_kernel": 3}
    two_blocks(InvertedResidual(**wide, kernel=3))  # the stride comes after the expansion
    with pytest.raises(ValueError, match="a next block with as many expanded channels"):
        two_blocks(InvertedResidual(**wide, kernel=0))
