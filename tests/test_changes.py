"""Two configs are told apart field by field, and nothing that differs is left out."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnet_jax.architectures import FACTORIES, mobilenet_v1, mobilenet_v2
from mnet_jax.changes import Change, changes, format_value, outline
from mnet_jax.config import AdamW, DataConfig, RunConfig, Sgd, TrainingConfig

V2 = RunConfig(spec=mobilenet_v2(num_classes=10))


def test_equal_configs_have_no_changes():
    assert changes(V2, RunConfig(spec=mobilenet_v2(num_classes=10))) == []


def test_a_block_list_is_compact():
    relu6 = RunConfig(spec=mobilenet_v2(num_classes=10, bottleneck="relu6"))
    path = "spec.blocks[0..16].bottleneck"
    assert changes(V2, relu6) == [Change(path=path, before="linear", after="relu6")]


def test_blocks_that_are_not_neighbours():
    blocks = list(V2.spec.blocks)
    for index in (2, 4, 5):
        blocks[index] = dataclasses.replace(blocks[index], shortcut="none")
    other = dataclasses.replace(V2, spec=dataclasses.replace(V2.spec, blocks=tuple(blocks)))
    expected = Change(path="spec.blocks[2, 4..5].shortcut", before="bottleneck", after="none")
    assert changes(V2, other) == [expected]


def test_members_of_a_union_are_told_whole():
    before, after = (
        dataclasses.replace(V2, training=TrainingConfig(optimizer=optimizer))
        for optimizer in (Sgd(momentum=0.5), AdamW())
    )
    expected = Change(path="training.optimizer", before="Sgd(momentum=0.5)", after="AdamW()")
    assert changes(before, after) == [expected]


def test_a_block_that_only_one_has():
    v1 = RunConfig(spec=mobilenet_v1(num_classes=10))
    gone = [change for change in changes(V2, v1) if change.after == "-"]
    assert [c.path for c in gone] == [
        "spec.blocks[13]", "spec.blocks[14..15]", "spec.blocks[16]", "spec.head.conv",
    ]  # fmt: skip


rates = st.floats(1e-6, 1.0, exclude_min=True)


@given(rates, rates)
def test_floats_that_differ_read_differently(one, two):
    before, after = (
        dataclasses.replace(V2, training=TrainingConfig(learning_rate=rate)) for rate in (one, two)
    )
    found = changes(before, after)
    assert len(found) == (one != two)
    for change in found:
        assert change.path == "training.learning_rate"
        assert (float(change.before), float(change.after)) == (one, two)


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES.keys())
def test_the_outline_has_every_block_once(make):
    config = RunConfig(spec=make(num_classes=10), data=DataConfig(name="cifar10"))
    lines = dict(outline(config))
    assert lines["data.name"] == "cifar10" and lines["spec.name"] == config.spec.name
    places = []
    for path, value in lines.items():
        if path.startswith("spec.blocks["):
            first, _, last = path.removeprefix("spec.blocks[").removesuffix("]").partition("..")
            run = range(int(first), int(last or first) + 1)
            assert all(format_value(config.spec.blocks[place]) == value for place in run)
            places += run
    assert places == list(range(len(config.spec.blocks)))
