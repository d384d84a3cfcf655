"""Every named activation and the logits are those of the same network in NumPy."""

import dataclasses

import by_hand
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import (
    evaluate,
    images_of,
    model_and_variables,
    selected,
    small_hybrid,
    small_v1,
    small_v2,
    small_v3,
    small_v4,
)

from mnet_jax import architectures
from mnet_jax.architectures import transforms


def assert_computed_by_hand(spec, size):
    model, variables = model_and_variables(spec)
    images = images_of(2, *size, 3)
    logits, named = evaluate(model, variables, images)
    expected_logits, expected = by_hand.network(spec, variables, images)
    chex.assert_trees_all_equal_structs(named, expected)
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(named), jax.tree.leaves(expected), strict=True
    ):
        message = jax.tree_util.keystr(path)
        atol = 1e-5 * max(10, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol, err_msg=message)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("dialect", "activation"), [("paper", "relu"), ("keras", "relu6"), ("timm", "relu6")]
)
def test_v1_is_its_layers_composed_by_hand(dialect, activation):
    assert_computed_by_hand(small_v1(dialect=dialect, activation=activation), (33, 32))


@pytest.mark.parametrize(
    ("shortcut", "bottleneck", "where"),
    [
        ("bottleneck", "linear", [2, 4, 5]),
        ("none", "linear", []),
        ("expansion", "linear", [2, 4]),
        ("expansion", "relu6", [2, 4]),
    ],
)
def test_v2_is_its_layers_composed_by_hand(shortcut, bottleneck, where):
    """`expansion` adds one block's filtered tensor to the next one's expanded tensor (Fig. 6b)."""
    spec = small_v2(shortcut=shortcut, bottleneck=bottleneck)
    assert [i for i, block in enumerate(spec.blocks) if block.shortcut != "none"] == where
    assert_computed_by_hand(spec, (33, 32))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (33, 32)),
        ({"dialect": "torchvision", "bottleneck": "relu6"}, (32, 33)),
        ({"dialect": "keras", "minimalistic": True, "shortcut": "none"}, (32, 32)),
    ],
)
def test_v3_is_its_layers_composed_by_hand(options, size):
    assert_computed_by_hand(small_v3(**options), size)


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, (33, 32)), ({"dialect": "timm", "bottleneck": "relu6"}, (32, 33))],
)
def test_v4_is_its_layers_composed_by_hand(options, size):
    assert_computed_by_hand(small_v4(**options), size)


@pytest.mark.parametrize(
    ("options", "changes", "size"),
    [
        ({}, {}, (97, 64)),
        ({"dialect": "timm"}, {"attention": "mha", "activation": "gelu"}, (64, 97)),
        ({"shortcut": "none"}, {"attention_downsampling": 1}, (64, 64)),
        ({"dialect": "timm"}, {"layer_scale": False}, (64, 64)),
        ({"dialect": "timm"}, {"attention_downsampling": 2, "kernel": 5}, (65, 97)),
    ],
)
def test_hybrids_are_their_layers_composed_by_hand(options, changes, size):
    spec = small_hybrid(**options)
    for name, value in changes.items():
        spec = getattr(transforms, f"with_{name}")(spec, value)
    assert_computed_by_hand(spec, size)


def test_v4s_pairs_of_convolutions_and_dilation_composed_by_hand():
    plain = architectures.mobilenet_v4("conv_small", width=0.25, num_classes=7)
    spec = selected(plain, (0, 1, 2, 3, 4, 5, 9))
    blocks = [
        dataclasses.replace(block, stride=1, dilation=2 if i > 4 else 1) if i > 3 else block
        for i, block in enumerate(spec.blocks)
    ]
    assert_computed_by_hand(dataclasses.replace(spec, blocks=tuple(blocks)), (40, 49))


def test_relu6_bottleneck_is_within_0_and_6_before_the_addition_and_a_linear_one_is_not():
    images = images_of(2, 33, 32, 3)
    ranges = {}
    for bottleneck in ("relu6", "linear"):
        _, named = evaluate(*model_and_variables(small_v2(bottleneck=bottleneck)), images)
        projected = [named[f"block_{i}"]["projected"] for i in range(6)]
        ranges[bottleneck] = min(map(jnp.min, projected)), max(map(jnp.max, projected))
        block, before = named["block_2"]["projected"], named["block_1_output"]
        chex.assert_trees_all_close(named["block_2_output"], before + block, atol=1e-5)
    assert ranges["relu6"][0] >= 0 and ranges["relu6"][1] <= 6
    assert ranges["linear"][0] < 0
