"""Variations for segmentation and detection: finer feature maps, and fewer channels at the end."""

import dataclasses
from typing import Literal

from mnet_jax.architectures.dialects import make_divisible
from mnet_jax.architectures.spec import (
    Attention,
    Block,
    ConvNorm,
    FusedInvertedResidual,
    InvertedResidual,
    NetworkSpec,
    Separable,
)
from mnet_jax.architectures.transforms import resized
from mnet_jax.validation import require, require_choice, with_plain_arguments

OutputStride = Literal[8, 16, 32]
Convolutional = ConvNorm | Separable | FusedInvertedResidual | InvertedResidual  # not attention


@with_plain_arguments
def with_output_stride(
    spec: NetworkSpec, output_stride: OutputStride, *, dilates_strided: bool = False
) -> NetworkSpec:
    """Limits the output stride of a network by dilation (arXiv 1706.05587, section 3.1).

    The sides of the coarsest feature map are then 1/`output_stride` of the image's sides. A stride
    that would make a map coarser than this becomes 1. All later convolutions are dilated by the
    removed stride, which preserves their receptive fields. The weights keep their shapes. With
    symmetric padding, a subsampling of the new coarsest map equals the original coarsest map,
    except in networks with squeeze-and-excitation or attention, which read the whole map. Attention
    blocks do not change: they attend to more positions in a finer map.

    Args:
      spec: the network.
      output_stride: the largest allowed product of strides: 8, 16 or 32.
      dilates_strided: whether the convolution whose stride is removed is dilated by it too, as in
        torchvision. The maps then differ from those described above.

    Raises:
      ValueError: `output_stride` is not 8, 16 or 32.
    """
    require_choice("output_stride", output_stride, OutputStride)
    stride, dilation = spec.stem.stride, 1
    blocks: list[Block] = []
    for block in spec.blocks:
        if isinstance(block, Attention):
            blocks.append(block)
            continue
        beyond = stride * block.stride > output_stride
        step = 1 if beyond else block.stride
        removed = block.stride // step
        gap = dilation * block.dilation * (removed if dilates_strided else 1)
        blocks.append(dataclasses.replace(block, stride=step, dilation=gap))
        stride *= step
        dilation *= removed
    return dataclasses.replace(spec, blocks=tuple(blocks))


def with_reduced_tail(spec: NetworkSpec, *, strided_expansion: bool = False) -> NetworkSpec:
    """Halves the channels of a network's last layers (V3 paper, sections 6.3 and 6.4).

    The halved channels are the output channels of the last strided block, the expanded and output
    channels of all later blocks, and the channels of the head's layers. Attention blocks keep their
    heads. Channels that were designed for 1000 classes are redundant for the few classes of
    segmentation and detection.

    Args:
      spec: the network.
      strided_expansion: whether the expanded channels of the last strided block are halved too. The
        parameter counts of the paper's V3 need this (Table 7); torchvision does not do it.

    Raises:
      ValueError: a block is dilated already, or no block after the first has stride 2.
    """
    legal = "reduce the tail before strides become dilation"
    require(all(b.dilation == 1 for b in spec.blocks), "reduced_tail", "dilated blocks", legal)
    strided = [i for i, block in enumerate(spec.blocks) if block.stride == 2]
    if not strided or strided[-1] == 0:
        raise ValueError(f"reduced_tail: {spec.name} has no strided block after another block")
    first = strided[-1]
    blocks = list(spec.blocks)
    last = blocks[first]
    assert not isinstance(last, Attention)  # which has no stride
    if strided_expansion:
        last = _half_expanded(last)
    blocks[first] = dataclasses.replace(last, outputs=_half(last.outputs))
    for i in range(first + 1, len(blocks)):
        block = blocks[i]
        if isinstance(block, Attention):
            blocks[i] = dataclasses.replace(block, inputs=blocks[i - 1].outputs)
            continue
        block = _half_expanded(block)
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


def _half_expanded(block: Convolutional) -> Convolutional:
    if isinstance(block, InvertedResidual):
        return resized(block, _half(block.expanded))
    if isinstance(block, FusedInvertedResidual):
        return dataclasses.replace(block, expanded=_half(block.expanded))
    return block


def _half(channels: int) -> int:
    return make_divisible(channels / 2)
