"""Networks for dense tasks: finer feature maps by dilation, and a lighter tail."""

import dataclasses
from typing import Literal

from mnet_jax.architectures.dialects import make_divisible
from mnet_jax.architectures.spec import FusedInvertedResidual, InvertedResidual, NetworkSpec
from mnet_jax.architectures.transforms import resized
from mnet_jax.validation import require, require_choice, with_plain_arguments

OutputStride = Literal[8, 16, 32]


@with_plain_arguments
def with_output_stride(spec: NetworkSpec, output_stride: OutputStride) -> NetworkSpec:
    """Feature maps no coarser than 1/`output_stride` of the image, by dilation.

    Strides beyond it become 1, and every window behind such a layer is dilated in their place, so
    that it sees what it saw (arXiv 1706.05587, section 3.1). The weights keep their shapes: where
    the padding is symmetric, the coarse map is the fine one at every other position, up to what a
    squeeze-and-excitation averages over the map.
    """
    require_choice("output_stride", output_stride, OutputStride)
    stride, dilation, blocks = spec.stem.stride, 1, []
    for block in spec.blocks:
        beyond = stride * block.stride > output_stride
        step = 1 if beyond else block.stride
        gap = dilation * block.dilation
        blocks.append(dataclasses.replace(block, stride=step, dilation=gap))
        stride *= step
        dilation *= block.stride // step
    return dataclasses.replace(spec, blocks=tuple(blocks))


def with_reduced_tail(spec: NetworkSpec) -> NetworkSpec:
    """Half the channels from the last strided block on (V3 paper, sections 6.3 and 6.4).

    What comes out of that block, what later blocks have inside and out, and the head's layers; for
    dense tasks, whose few classes leave a tail made for 1000 of them idle.
    """
    legal = "reduce the tail before strides become dilation"
    require(all(b.dilation == 1 for b in spec.blocks), "reduced_tail", "dilated blocks", legal)
    strided = [i for i, block in enumerate(spec.blocks) if block.stride == 2]
    if not strided or strided[-1] == 0:
        raise ValueError(f"reduced_tail: {spec.name} has no strided block behind another block")
    first = strided[-1]
    blocks = list(spec.blocks)
    blocks[first] = dataclasses.replace(blocks[first], outputs=_half(blocks[first].outputs))
    for i in range(first + 1, len(blocks)):
        block = blocks[i]
        if isinstance(block, InvertedResidual):
            block = resized(block, _half(block.expanded))
        elif isinstance(block, FusedInvertedResidual):
            block = dataclasses.replace(block, expanded=_half(block.expanded))
        blocks[i] = dataclasses.replace(
            block, inputs=blocks[i - 1].outputs, outputs=_half(block.outputs)
        )
    head, inputs = spec.head, blocks[-1].outputs
    if head.conv:
        conv = dataclasses.replace(head.conv, inputs=inputs, outputs=_half(head.conv.outputs))
        head = dataclasses.replace(head, conv=conv)
    if head.hidden:
        hidden = dataclasses.replace(head.hidden, channels=_half(head.hidden.channels))
        head = dataclasses.replace(head, hidden=hidden)
    return dataclasses.replace(spec, blocks=tuple(blocks), head=head)


def _half(channels: int) -> int:
    return make_divisible(channels / 2)
