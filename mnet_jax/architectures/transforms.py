"""One network to another: the variations that the papers study, on any spec.

Each function returns a new spec and leaves its argument alone. The factories build their options
from these, and an ablation axis is one of them, so a claim is toggled by the same code everywhere.
A variation that a network has no place for is a ValueError.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from mnet_jax.architectures.dialects import make_divisible
from mnet_jax.architectures.spec import (
    Block,
    ConvNorm,
    FusedInvertedResidual,
    InvertedResidual,
    NetworkSpec,
    Separable,
    Shortcut,
    can_span,
)
from mnet_jax.validation import is_whole, require, require_choice

Convolution = Literal["depthwise", "full"]
Bottleneck = Literal["linear", "relu6"]
InputStride = Literal[4, 2, 1]
OutputStride = Literal[8, 16, 32]
PlainActivation = Literal["relu6", "relu", "hard_swish"]


def _map_blocks(spec: NetworkSpec, change: Callable[[Block], Block]) -> NetworkSpec:
    return dataclasses.replace(spec, blocks=tuple(change(block) for block in spec.blocks))


def _map_inverted(
    spec: NetworkSpec, option: str, change: Callable[[InvertedResidual], Block]
) -> NetworkSpec:
    """Changes every inverted residual; ValueError if there is none."""
    if not any(isinstance(block, InvertedResidual) for block in spec.blocks):
        raise ValueError(f"{option}: {spec.name} has no inverted residuals, legal: V2, V3, V4")
    return _map_blocks(spec, lambda b: change(b) if isinstance(b, InvertedResidual) else b)


def with_bottleneck(spec: NetworkSpec, bottleneck: Bottleneck) -> NetworkSpec:
    """What follows every projection: nothing, or a ReLU6 (V2 paper, Fig. 6a)."""
    require_choice("bottleneck", bottleneck, Bottleneck)
    spec = _map_inverted(
        spec, "bottleneck", lambda block: dataclasses.replace(block, bottleneck=bottleneck)
    )
    return _map_blocks(
        spec,
        lambda block: (
            dataclasses.replace(block, bottleneck=bottleneck)
            if isinstance(block, FusedInvertedResidual)
            else block
        ),
    )


def squeezed(expanded: int) -> int:
    """Channels between the dense layers of V3's squeeze-and-excitation: a quarter, rounded."""
    return make_divisible(expanded / 4)


def _resized(block: InvertedResidual, expanded: int) -> InvertedResidual:
    """The block with another expanded width, and the squeeze that goes with it."""
    squeeze = squeezed(expanded) if block.squeeze else 0
    return dataclasses.replace(block, expanded=expanded, squeeze=squeeze)


def with_expansion(spec: NetworkSpec, expansion: int) -> NetworkSpec:
    """Every expansion layer `expansion` times as wide as its input (V2 paper, Table 1's t).

    A block without an expansion layer, as V2's first, stays without.
    """
    legal = "a whole number, 1 or more"
    require(is_whole(expansion) and expansion >= 1, "expansion", expansion, legal)
    return _map_inverted(
        spec,
        "expansion",
        lambda block: _resized(block, block.inputs * expansion) if block.expands else block,
    )


def with_shortcut(spec: NetworkSpec, shortcut: Shortcut) -> NetworkSpec:
    """Where identities run in the blocks that keep their shape (V2 paper, Fig. 6b).

    `expansion` also needs a next block expanded as widely, which narrow networks lack behind V2's
    first block: it keeps its shape at widths up to 0.27, and has no expansion layer.
    """
    require_choice("shortcut", shortcut, Shortcut)
    spec = _map_inverted(spec, "shortcut", lambda b: dataclasses.replace(b, shortcut="none"))

    def change(block: Block, following: Block | None) -> Block:
        if not isinstance(block, InvertedResidual) or not block.keeps_shape:
            return block
        if shortcut == "expansion" and not can_span(block, following):
            return block
        return dataclasses.replace(block, shortcut=shortcut)

    pairs = zip(spec.blocks, [*spec.blocks[1:], None], strict=True)
    return dataclasses.replace(spec, blocks=tuple(change(*pair) for pair in pairs))


def with_activation(spec: NetworkSpec, activation: PlainActivation) -> NetworkSpec:
    """The non-linearity of every layer; what follows a projection is `with_bottleneck`'s."""
    require_choice("activation", activation, PlainActivation)
    head = spec.head
    if head.conv:
        head = dataclasses.replace(head, conv=dataclasses.replace(head.conv, activation=activation))
    if head.hidden:
        hidden = dataclasses.replace(head.hidden, activation=activation)
        head = dataclasses.replace(head, hidden=hidden)
    stem = dataclasses.replace(spec.stem, activation=activation)
    spec = dataclasses.replace(spec, stem=stem, head=head)
    return _map_blocks(spec, lambda block: dataclasses.replace(block, activation=activation))


def with_convolution(spec: NetworkSpec, convolution: Convolution) -> NetworkSpec:
    """Depthwise separable blocks, or full convolutions of the same shape (V1 paper, Table 4)."""
    require_choice("convolution", convolution, Convolution)
    if not any(isinstance(block, Separable) for block in spec.blocks):
        raise ValueError(
            f"convolution: {spec.name} has no depthwise separable blocks, legal: mobilenet_v1"
        )
    if convolution == "depthwise":
        return spec

    def change(block: Block) -> Block:
        if not isinstance(block, Separable):
            return block
        return ConvNorm(**{f.name: getattr(block, f.name) for f in dataclasses.fields(block)})

    return _map_blocks(spec, change)


def with_depth(spec: NetworkSpec, depth: Literal["full", "shallow"]) -> NetworkSpec:
    """All blocks, or V1 without its five 14x14x512 layers (V1 paper, Table 5)."""
    require_choice("depth", depth, Literal["full", "shallow"])
    if depth == "full":
        return spec
    if spec.name != "mobilenet_v1":
        raise ValueError(f"depth: {spec.name} has no shallow variant, legal: mobilenet_v1")
    widest = spec.blocks[6].outputs  # blocks 6 to 10 repeat 512 channels at stride 1
    kept = (*spec.blocks[:6], *spec.blocks[11:])
    require(spec.blocks[5].outputs == widest, "depth", depth, "a network not yet shallow")
    return dataclasses.replace(spec, blocks=kept)


def with_input_stride(spec: NetworkSpec, input_stride: InputStride) -> NetworkSpec:
    """The product of the first two strides: 4 as published, 2 or 1 for small images.

    The published networks reduce an image 32 times, which leaves nothing of a small one. 2 takes
    the stem's stride away, 1 also that of the first strided block: the usual change at 32x32.
    """
    require_choice("input_stride", input_stride, InputStride)
    strided = next((i for i, block in enumerate(spec.blocks) if block.stride == 2), None)
    if strided is None or spec.stem.stride != 2:
        raise ValueError(f"input_stride: got {input_stride}, legal: 4, 2, 1 of published strides")
    steps = {4: (2, 2), 2: (1, 2), 1: (1, 1)}[input_stride]
    blocks = list(spec.blocks)
    blocks[strided] = dataclasses.replace(blocks[strided], stride=steps[1])
    stem = dataclasses.replace(spec.stem, stride=steps[0])
    return dataclasses.replace(spec, stem=stem, blocks=tuple(blocks))


def with_squeeze_excite(spec: NetworkSpec, squeeze_excite: bool) -> NetworkSpec:
    """Squeeze-and-excitation in every block that filters, or in none (V3 paper, section 5.3).

    Which rows of V3's tables have it is an option of the factory.
    """
    require(isinstance(squeeze_excite, bool), "squeeze_excite", squeeze_excite, "True, False")
    return _map_inverted(
        spec,
        "squeeze_excite",
        lambda block: dataclasses.replace(
            block, squeeze=squeezed(block.expanded) if squeeze_excite else 0
        ),
    )


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
            block = _resized(block, _half(block.expanded))
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
