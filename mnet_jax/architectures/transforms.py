"""Functions that transform a network: the variations that the papers study, for any spec.

Each function returns a new spec and leaves its argument unchanged. Factory options and ablation
axes both call these functions, so a variation is made by the same code everywhere. A function
raises ValueError if its variation does not apply to the network.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from mnet_jax.architectures.dialects import make_divisible
from mnet_jax.architectures.spec import (
    Activation,
    Attention,
    AttentionKind,
    Block,
    ConvNorm,
    FusedInvertedResidual,
    InvertedResidual,
    NetworkSpec,
    Separable,
    Shortcut,
    can_span,
)
from mnet_jax.validation import is_whole, require, require_choice, with_plain_arguments

Convolution = Literal["depthwise", "full"]
Bottleneck = Literal["linear", "relu6"]
InputStride = Literal[4, 2, 1]
Depth = Literal["full", "shallow"]
Rectifier = Literal["relu6", "relu"]  # in all layers of V1 or V2
PlainActivation = Literal["relu6", "relu", "hard_swish", "gelu"]
AttentionOption = Literal["none", "mqa", "mha"]
MOST_REPEATS = 100  # blocks in a stage; the longest stage of ResNet-152 has 36


def _map_blocks(spec: NetworkSpec, change: Callable[[Block], Block]) -> NetworkSpec:
    return dataclasses.replace(spec, blocks=tuple(change(block) for block in spec.blocks))


def _map_inverted(
    spec: NetworkSpec, option: str, change: Callable[[InvertedResidual], Block]
) -> NetworkSpec:
    """Applies `change` to every inverted residual; raises ValueError if there is none."""
    if not any(isinstance(block, InvertedResidual) for block in spec.blocks):
        raise ValueError(f"{option}: {spec.name} has no inverted residuals, legal: V2, V3, V4")
    return _map_blocks(spec, lambda b: change(b) if isinstance(b, InvertedResidual) else b)


def with_bottleneck(spec: NetworkSpec, bottleneck: Bottleneck) -> NetworkSpec:
    """Sets the activation after every projection: none, or ReLU6 (V2 paper, Fig. 6a)."""
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


def squeeze_channels(expanded: int) -> int:
    """Returns a quarter of the expanded channels: the width of V3's squeeze-and-excitation."""
    return make_divisible(expanded / 4)


@with_plain_arguments
def resized(block: InvertedResidual, expanded: int) -> InvertedResidual:
    """Returns the block with `expanded` expanded channels.

    The squeeze channels, if any, are computed from `expanded`.
    """
    squeeze = squeeze_channels(expanded) if block.squeeze else 0
    return dataclasses.replace(block, expanded=expanded, squeeze=squeeze)


@with_plain_arguments
def with_expansion(spec: NetworkSpec, expansion: int) -> NetworkSpec:
    """Sets the expanded channels to `expansion` times the input channels (V2 paper, Table 1's t).

    Blocks without an expansion layer, such as V2's first, stay without one.
    """
    legal = "a whole number, 1 or more"
    require(is_whole(expansion) and expansion >= 1, "expansion", expansion, legal)
    return _map_inverted(
        spec,
        "expansion",
        lambda block: resized(block, block.inputs * expansion) if block.expands else block,
    )


def with_shortcut(spec: NetworkSpec, shortcut: Shortcut) -> NetworkSpec:
    """Sets the tensors that shortcuts connect, in blocks that keep their shape (V2 paper, Fig. 6b).

    An `expansion` shortcut also needs a next block with as many expanded channels. V2's first block
    has no `expansion` shortcut, because with V2's expansion factor of 6 the second block has more
    expanded channels. V2's first block has a `bottleneck` shortcut only at widths up to 0.27, where
    the block's input and output have the same number of channels. Attention blocks have no
    expansion: with `expansion` their shortcut remains that from input to output.
    """
    require_choice("shortcut", shortcut, Shortcut)
    spec = _map_inverted(spec, "shortcut", lambda b: dataclasses.replace(b, shortcut="none"))

    def change(block: Block, following: Block | None) -> Block:
        if isinstance(block, Attention):  # there is no expansion for a shortcut to connect
            kept: Literal["bottleneck", "none"] = "none" if shortcut == "none" else "bottleneck"
            return dataclasses.replace(block, shortcut=kept)
        if not isinstance(block, InvertedResidual) or not block.keeps_shape:
            return block
        if shortcut == "expansion" and not can_span(block, following):
            return block
        return dataclasses.replace(block, shortcut=shortcut)

    pairs = zip(spec.blocks, [*spec.blocks[1:], None], strict=True)
    return dataclasses.replace(spec, blocks=tuple(change(*pair) for pair in pairs))


def with_activation(spec: NetworkSpec, activation: PlainActivation) -> NetworkSpec:
    """Sets the activation of every layer except projections; for these see `with_bottleneck`."""
    require_choice("activation", activation, PlainActivation)
    stem = dataclasses.replace(spec.stem, activation=activation)
    spec = with_block_activation(dataclasses.replace(spec, stem=stem), activation)
    return with_head_activation(spec, activation) if head_layers(spec) else spec


def with_block_activation(spec: NetworkSpec, activation: Activation) -> NetworkSpec:
    """Sets the field `activation` of every block. (Projections have `bottleneck` instead.)

    Attention blocks have no activation.
    """
    require_choice("block_activation", activation, Activation)
    return _map_blocks(
        spec,
        lambda block: (
            block
            if isinstance(block, Attention)
            else dataclasses.replace(block, activation=activation)
        ),
    )


def with_head_activation(spec: NetworkSpec, activation: Activation) -> NetworkSpec:
    """Sets the activation of the layers between the blocks and the classifier.

    Raises:
      ValueError: the network has no such layers; V1 has none.
    """
    require_choice("head_activation", activation, Activation)
    if not head_layers(spec):
        raise ValueError(
            f"head_activation: {spec.name} has no layer before its classifier, legal: V2, V3, V4"
        )
    layers = {name: dataclasses.replace(layer, activation=activation)
              for name, layer in head_layers(spec).items()}  # fmt: skip
    return dataclasses.replace(spec, head=dataclasses.replace(spec.head, **layers))


def head_layers(spec: NetworkSpec) -> dict[str, Any]:
    """Returns the layers between the blocks and the classifier, by their field names in `Head`."""
    layers = {"conv": spec.head.conv, "hidden": spec.head.hidden}
    return {name: layer for name, layer in layers.items() if layer}


def depthwise_kernels(block: Block) -> dict[str, Any]:
    """Returns the sides of a block's depthwise kernels, by their field names in the block."""
    if isinstance(block, Attention):
        return {"kernel": block.kernel} if block.downsampling > 1 else {}
    names = {Separable: ("kernel",), InvertedResidual: ("kernel", "start_kernel")}
    sizes = {name: getattr(block, name) for name in names.get(type(block), ())}
    return {name: size for name, size in sizes.items() if size}


@with_plain_arguments
def with_kernel(spec: NetworkSpec, kernel: int) -> NetworkSpec:
    """Sets the side of every depthwise kernel; blocks without a depthwise kernel do not change."""
    odd = is_whole(kernel) and kernel >= 1 and kernel % 2 == 1
    require(odd, "kernel", kernel, "odd sizes")
    if not any(depthwise_kernels(block) for block in spec.blocks):
        raise ValueError(f"kernel: {spec.name} has no depthwise convolutions to resize to {kernel}")

    def change(block: Block) -> Block:
        sizes: dict[str, Any] = dict.fromkeys(depthwise_kernels(block), kernel)
        return dataclasses.replace(block, **sizes)

    return _map_blocks(spec, change)


@with_plain_arguments
def with_repeats(
    spec: NetworkSpec, stages: Sequence[int], repeats: int | Sequence[int]
) -> NetworkSpec:
    """Sets the number of blocks in every stage (V2 paper, Table 2's n).

    Longer stages lose their last blocks. Shorter stages repeat their last block at stride 1, with
    the same expansion ratio, kernels and other options.

    Args:
      spec: a network of V1, V2 or V3.
      stages: the current number of blocks in each stage, in order.
      repeats: the new number of blocks, 1 to 100: one for all stages, or one for each.
    """
    wanted = repeats if isinstance(repeats, Sequence) else [repeats] * len(stages)
    for count in wanted:
        legal = is_whole(count) and 1 <= count <= MOST_REPEATS
        require(legal, "repeats", count, f"a whole number, 1 to {MOST_REPEATS}")
    assert sum(stages) == len(spec.blocks)
    shortcut = _shortcut_of(spec)
    blocks: list[Block] = []
    rest = list(spec.blocks)
    for length, count in zip(stages, wanted, strict=True):
        stage, rest = rest[:length], rest[length:]
        while len(stage) < count:
            stage.append(_repeated(stage[-1]))
        blocks += stage[:count]
    alone = [dataclasses.replace(b, shortcut="none") if isinstance(b, InvertedResidual) else b
             for b in blocks]  # fmt: skip
    spec = dataclasses.replace(spec, blocks=tuple(alone))
    return with_shortcut(spec, shortcut) if shortcut else spec


def _repeated(block: Block) -> Block:
    """Returns the next block of a stage: `block` at stride 1, with `block`'s outputs as inputs."""
    if isinstance(block, Attention):
        return block
    same = dataclasses.replace(block, inputs=block.outputs, stride=1)
    if isinstance(same, InvertedResidual) and isinstance(block, InvertedResidual):
        expanded = make_divisible(block.outputs * block.expanded / block.inputs)
        return resized(same, expanded if block.expands else block.outputs)
    return same


def _shortcut_of(spec: NetworkSpec) -> Shortcut | None:
    """Returns the kind of a network's shortcuts; None if it has no inverted residuals."""
    found = {b.shortcut for b in spec.blocks if isinstance(b, InvertedResidual)}
    kinds: tuple[Shortcut, ...] = ("expansion", "bottleneck", "none")
    return next((kind for kind in kinds if kind in found), None)


def with_convolution(spec: NetworkSpec, convolution: Convolution) -> NetworkSpec:
    """Replaces depthwise separable blocks by full convolutions if `convolution` is `full`.

    The full convolutions have the same channels, kernel size and stride (V1 paper, Table 4).
    """
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


def with_depth(spec: NetworkSpec, depth: Depth) -> NetworkSpec:
    """Removes V1's five 14x14x512 layers if `depth` is `shallow` (V1 paper, Table 5)."""
    require_choice("depth", depth, Depth)
    if depth == "full":
        return spec
    if spec.name != "mobilenet_v1":
        raise ValueError(f"depth: {spec.name} has no shallow variant, legal: mobilenet_v1")
    require(len(spec.blocks) == 13, "depth", depth, "a network of Table 1's 13 blocks")
    kept = (*spec.blocks[:6], *spec.blocks[11:])  # blocks 6 to 10 repeat 512 channels at stride 1
    return dataclasses.replace(spec, blocks=kept)


@with_plain_arguments
def with_input_stride(spec: NetworkSpec, input_stride: InputStride) -> NetworkSpec:
    """Sets the product of two strides, the stem's and the first strided block's: 4, 2 or 1.

    The published networks have 4, and reduce each side of an image by a factor of 32: 32x32 pixels
    become a single pixel. A product of 2 sets the stem's stride to 1. A product of 1 also sets the
    stride of the first strided block to 1, as is usual for images of 32x32 pixels.
    """
    require_choice("input_stride", input_stride, InputStride)
    strided = next((i for i, block in enumerate(spec.blocks) if block.stride == 2), None)
    if strided is None or spec.stem.stride != 2:
        raise ValueError(f"input_stride: got {input_stride}, legal: 4, 2, 1 of published strides")
    steps = {4: (2, 2), 2: (1, 2), 1: (1, 1)}[input_stride]
    blocks = list(spec.blocks)
    first = blocks[strided]
    assert not isinstance(first, Attention)
    blocks[strided] = dataclasses.replace(first, stride=steps[1])
    stem = dataclasses.replace(spec.stem, stride=steps[0])
    return dataclasses.replace(spec, stem=stem, blocks=tuple(blocks))


@with_plain_arguments
def with_squeeze_excite(spec: NetworkSpec, squeeze_excite: bool) -> NetworkSpec:
    """Adds squeeze-and-excitation to all inverted residuals, or removes it (V3 paper, section 5.3).

    To change only the rows that V3's tables mark, use the factory's option `squeeze_excite`.
    """
    require(isinstance(squeeze_excite, bool), "squeeze_excite", squeeze_excite, "True, False")
    return _map_inverted(
        spec,
        "squeeze_excite",
        lambda block: dataclasses.replace(
            block, squeeze=squeeze_channels(block.expanded) if squeeze_excite else 0
        ),
    )


def with_layer_scale(spec: NetworkSpec, layer_scale: bool) -> NetworkSpec:
    """Adds a layer scale to all inverted residuals and attention blocks, or removes it.

    Raises:
      ValueError: the network has no inverted residuals, or activations follow its projections.
    """
    require(isinstance(layer_scale, bool), "layer_scale", layer_scale, "True, False")
    spec = _map_inverted(
        spec, "layer_scale", lambda b: dataclasses.replace(b, layer_scale=layer_scale)
    )
    return _map_attention(spec, lambda b: dataclasses.replace(b, layer_scale=layer_scale))


def with_attention(spec: NetworkSpec, attention: AttentionOption) -> NetworkSpec:
    """Sets the kind of all attention blocks; `none` removes them.

    Raises:
      ValueError: the network has no attention blocks.
    """
    require_choice("attention", attention, AttentionOption)
    require_attention(spec, "attention")
    if attention == "none":
        rest = tuple(block for block in spec.blocks if not isinstance(block, Attention))
        return dataclasses.replace(spec, blocks=rest)
    kind: AttentionKind = attention
    return _map_attention(spec, lambda block: dataclasses.replace(block, kind=kind))


@with_plain_arguments
def with_attention_downsampling(spec: NetworkSpec, downsampling: int) -> NetworkSpec:
    """Sets the stride of the keys and values of all attention blocks: 1 or 2.

    Raises:
      ValueError: the network has no attention blocks, or the stride is not 1 or 2.
    """
    require_attention(spec, "attention_downsampling")
    require(downsampling in (1, 2), "attention_downsampling", downsampling, "1, 2")
    return _map_attention(spec, lambda b: dataclasses.replace(b, downsampling=downsampling))


def require_attention(spec: NetworkSpec, option: str) -> None:
    """Raises ValueError if the network has no attention blocks."""
    if not any(isinstance(block, Attention) for block in spec.blocks):
        raise ValueError(f"{option}: this {spec.name} has no attention, legal: V4's hybrids")


def _map_attention(spec: NetworkSpec, change: Callable[[Attention], Block]) -> NetworkSpec:
    return _map_blocks(spec, lambda b: change(b) if isinstance(b, Attention) else b)
