"""Output stride and reduced tail: finer maps of the same weights, and half a tail."""

import dataclasses

import pytest

from mnet_jax.analysis import cost
from mnet_jax.architectures import (
    FACTORIES,
    dense_tasks,
    mobilenet_v2,
    mobilenet_v3,
    mobilenet_v4,
    walk,
)
from mnet_jax.architectures.spec import Attention, FusedInvertedResidual

networks = pytest.mark.parametrize("network", FACTORIES)

# Blocks after which the strides of 16 and of 8 end: where dilation has to begin.
LAST_STRIDED = {  # network: (index of the block that brings stride 16, that brings 32)
    "mobilenet_v1": (5, 11),
    "mobilenet_v2": (6, 13),
    "mobilenet_v3_large": (6, 12),
    "mobilenet_v3_small": (3, 8),
    "mobilenet_v4_conv_small": (4, 10),
    "mobilenet_v4_conv_medium": (3, 11),
    "mobilenet_v4_conv_large": (3, 14),
    "mobilenet_v4_hybrid_medium": (3, 15),
    "mobilenet_v4_hybrid_large": (3, 18),
}


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@networks
def test_output_stride_turns_strides_into_dilation(network, output_stride):
    plain = FACTORIES[network]()
    spec = dense_tasks.with_output_stride(plain, output_stride)
    to_16, to_32 = LAST_STRIDED[network]
    for i, (block, before) in enumerate(zip(spec.blocks, plain.blocks, strict=True)):
        if isinstance(before, Attention):  # which attends to all positions of a finer map
            assert block == before
            continue
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
    assert dense_tasks.with_output_stride(plain, 32) == plain


@networks
def test_output_strides_compose(network):
    plain = FACTORIES[network]()
    at_16, at_8 = (dense_tasks.with_output_stride(plain, stride) for stride in (16, 8))
    assert dense_tasks.with_output_stride(at_16, 16) == at_16
    assert dense_tasks.with_output_stride(at_16, 8) == at_8
    assert dense_tasks.with_output_stride(at_8, 16) == at_8  # what is finer stays


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
    spec = dense_tasks.with_reduced_tail(plain)
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
    spec = dense_tasks.with_reduced_tail(plain)
    assert spec.pooled == plain.pooled / 2
    assert cost.count(spec, 64).params < cost.count(plain, 64).params
    assert spec.blocks[: LAST_STRIDED[network][1]] == plain.blocks[: LAST_STRIDED[network][1]]


def test_reduced_tail_halves_a_fused_block_behind_the_last_stride():
    plain = mobilenet_v4("conv_medium")
    fused = FusedInvertedResidual(inputs=256, expanded=1024, outputs=256)
    spec = dense_tasks.with_reduced_tail(dataclasses.replace(plain, blocks=(*plain.blocks, fused)))
    assert spec.blocks[-1] == FusedInvertedResidual(inputs=128, expanded=512, outputs=128)


def test_the_tail_of_a_dilated_network_is_not_reduced():
    dilated = dense_tasks.with_output_stride(mobilenet_v2(), 16)
    with pytest.raises(ValueError, match="reduced_tail: got 'dilated blocks', legal: reduce"):
        dense_tasks.with_reduced_tail(dilated)
