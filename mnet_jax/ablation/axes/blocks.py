"""Axes that change a network's spec with `architectures.transforms`."""

import dataclasses
from typing import Any, Literal

from mnet_jax import architectures
from mnet_jax.ablation.axes.axis import Axis, only, spec_axis
from mnet_jax.ablation.axes.factory import V3, made
from mnet_jax.architectures import InvertedResidual, NetworkSpec, Separable, transforms
from mnet_jax.architectures.spec import Activation, Shortcut
from mnet_jax.changes import ABSENT
from mnet_jax.validation import require

SqueezeExcite = Literal["none", "published", "all"]


def _inverted(spec: NetworkSpec) -> list[InvertedResidual]:
    return [block for block in spec.blocks if isinstance(block, InvertedResidual)]


def _read_depth(spec: NetworkSpec) -> Any:
    if spec.name != "mobilenet_v1":
        return ABSENT
    return "shallow" if len(spec.blocks) == 8 else "full"


def _stages(spec: NetworkSpec) -> list[int]:
    """Returns the number of blocks in each stage of V1, V2 or V3.

    Returns an empty list if the blocks do not divide evenly into the stages (as after --depth), or
    if no factory made the network.

    The stages are found in the network at width 1: in a narrow network, the channel counts of two
    stages may round to the same number, which hides the border between them.
    """
    if spec.name not in architectures.FACTORIES:
        return []
    blocks = made(spec.name).blocks
    starts = [i for i, b in enumerate(blocks) if i == 0 or b.stride == 2 or b.inputs != b.outputs]
    lengths = [b - a for a, b in zip(starts, [*starts[1:], len(blocks)], strict=True)]
    found = len(spec.blocks) - (_read_extra_block(spec))
    if found == len(blocks):
        return lengths
    return [] if found % len(starts) else [found // len(starts)] * len(starts)


def _read_extra_block(spec: NetworkSpec) -> bool:
    """Returns whether V3's original last stage added a block to those of the paper's table."""
    return spec.name in V3 and spec.head.hidden is None


def _with_repeats(spec: NetworkSpec, repeats: int) -> NetworkSpec:
    versions = "legal: V1, V2, V3"
    if spec.name.startswith("mobilenet_v4"):
        raise ValueError(f"repeats: each row of {spec.name} is another block, {versions}")
    whole = bool(_stages(spec)) and not _read_extra_block(spec)
    require(whole, "repeats", repeats, "with all stages, and V3's efficient last stage")
    return transforms.with_repeats(spec, _stages(spec), repeats)


def _read_repeats(spec: NetworkSpec) -> Any:
    return ABSENT if spec.name.startswith("mobilenet_v4") else only({*_stages(spec)}, ABSENT)


def _read_kernel(spec: NetworkSpec) -> Any:
    sizes = (transforms.depthwise_kernels(block).values() for block in spec.blocks)
    return only({size for block in sizes for size in block}, ABSENT)


def _with_squeeze_excite(spec: NetworkSpec, where: SqueezeExcite) -> NetworkSpec:
    if where != "published":
        return transforms.with_squeeze_excite(spec, where == "all")
    published = [getattr(block, "squeeze", 0) > 0 for block in made(spec.name).blocks]
    if not any(published):
        raise ValueError(f"squeeze_excite: {spec.name} is published without, legal: none, all")
    same = len(spec.blocks) - _read_extra_block(spec) == len(published)
    require(same, "squeeze_excite", where, "with as many blocks as were published")
    everywhere = transforms.with_squeeze_excite(spec, True)
    nowhere = transforms.with_squeeze_excite(spec, False)
    pairs = zip(everywhere.blocks, nowhere.blocks, [*published, False], strict=False)
    return dataclasses.replace(spec, blocks=tuple(a if has else b for a, b, has in pairs))


def _read_squeeze_excite(spec: NetworkSpec) -> Any:
    having = {block.squeeze > 0 for block in _inverted(spec)}
    return {0: ABSENT, 1: "all" if True in having else "none", 2: "published"}[len(having)]


def _read_convolution(spec: NetworkSpec) -> Any:
    if _inverted(spec):
        return ABSENT
    return "depthwise" if any(isinstance(b, Separable) for b in spec.blocks) else "full"


def _read_expansion(spec: NetworkSpec) -> Any:
    ratios = {block.expanded / block.inputs for block in _inverted(spec) if block.expands}
    ratio = only(ratios, 1 if _inverted(spec) else ABSENT)
    return int(ratio) if isinstance(ratio, float) and ratio.is_integer() else ratio


def _read_bottleneck(spec: NetworkSpec) -> Any:
    return only({block.bottleneck for block in _inverted(spec)}, ABSENT)


def _read_shortcut(spec: NetworkSpec) -> Any:
    return only(
        {block.shortcut for block in _inverted(spec) if block.keeps_shape},
        "none" if _inverted(spec) else ABSENT,
    )


def _block_activations(spec: NetworkSpec) -> set[str]:
    return {block.activation for block in spec.blocks}


def _head_activations(spec: NetworkSpec) -> set[str]:
    return {layer.activation for layer in transforms.head_layers(spec).values()}


def _read_activation(spec: NetworkSpec) -> Any:
    everywhere = {spec.stem.activation} | _block_activations(spec) | _head_activations(spec)
    return only(everywhere, ABSENT)


# In the order in which they are applied: changes of blocks come before replacements of blocks.
BLOCK_AXES: tuple[Axis, ...] = (
    spec_axis(
        "squeeze_excite",
        SqueezeExcite,
        "squeeze-and-excitation: nowhere, where published, everywhere (V3, section 5.3)",
        _with_squeeze_excite,
        _read_squeeze_excite,
    ),
    spec_axis(
        "repeats",
        int,
        "number of blocks in every stage (n in V2's Table 2)",
        _with_repeats,
        _read_repeats,
        settles=("depth", "hard_swish_from"),
    ),
    spec_axis(
        "depth",
        transforms.Depth,
        "all blocks, or without the five 14x14x512 ones (V1, Table 5)",
        transforms.with_depth,
        _read_depth,
        settles=("repeats",),
    ),
    spec_axis(
        "kernel",
        int,
        "side of the depthwise kernels (V3's and V4's searches choose 3 or 5)",
        transforms.with_kernel,
        _read_kernel,
    ),
    spec_axis(
        "convolution",
        transforms.Convolution,
        "depthwise separable or full convolutions (V1, Table 4)",
        transforms.with_convolution,
        _read_convolution,
        settles=("kernel",),
    ),
    spec_axis(
        "expansion",
        int,
        "expansion factor t of the inverted residuals (V2, section 3.3)",
        transforms.with_expansion,
        _read_expansion,
    ),
    spec_axis(
        "bottleneck",
        transforms.Bottleneck,
        "activation after projections: none or ReLU6 (V2, Fig. 6a)",
        transforms.with_bottleneck,
        _read_bottleneck,
    ),
    spec_axis(
        "shortcut",
        Shortcut,
        "shortcuts between bottlenecks, between expansions, or none (V2, Fig. 6b)",
        transforms.with_shortcut,
        _read_shortcut,
    ),
    spec_axis(
        "activation",
        transforms.PlainActivation,
        "the non-linearity of the layers that have one",
        transforms.with_activation,
        _read_activation,
        settles=("hard_swish_from", "stem_activation", "block_activation", "head_activation"),
    ),
    spec_axis(
        "block_activation",
        Activation,
        "activation after expansions and depthwise convolutions; overrides --activation",
        transforms.with_block_activation,
        lambda spec: only(_block_activations(spec), ABSENT),
        settles=("hard_swish_from", "activation"),
    ),
    spec_axis(
        "head_activation",
        Activation,
        "activation of the layers between the blocks and the classifier; overrides --activation",
        transforms.with_head_activation,
        lambda spec: only(_head_activations(spec), ABSENT),
        settles=("activation",),
    ),
)
