"""Axes that change a network: its factory's options, and transformations of its blocks.

An option of the factory is changed by rebuilding the network. The options that it was made with are
read back from its spec. If rebuilding with these options does not give the same spec, the network
was changed in another way. Rebuilding would lose that change, so such a network is refused. Blocks
are changed with `architectures.transforms`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

from mnet_jax import architectures
from mnet_jax.architectures import Attention, InvertedResidual, NetworkSpec, Separable, transforms
from mnet_jax.architectures.dialects import DialectName
from mnet_jax.architectures.mobilenet_v3 import LastStage
from mnet_jax.architectures.spec import Activation, Shortcut
from mnet_jax.changes import ABSENT
from mnet_jax.options.axis import Axis, only, spec_axis
from mnet_jax.validation import require

SqueezeExcite = Literal["none", "published", "all"]  # the blocks that have squeeze-and-excite
AttentionDownsampling = Literal["none", "published", "all"]  # the blocks with such keys and values

V3 = ("mobilenet_v3_large", "mobilenet_v3_small")
OF_V3_ALONE = ("hard_swish_from", "last_stage")
OF_A_DIALECT = ("norm_epsilon", "norm_momentum", "padding", "depthwise_padding", "initializer",
                "dropout")  # fmt: skip
MODEL_AXES = (  # the axes in which the published networks differ
    *OF_V3_ALONE, "squeeze_excite", "repeats", "depth", "kernel", "convolution", "expansion",
    "attention", "attention_downsampling", "layer_scale", "bottleneck", "shortcut", "activation",
    "stem_activation", "block_activation", "head_activation", *OF_A_DIALECT,
)  # fmt: skip


@cache
def published_network(name: str, **options: Any) -> NetworkSpec:
    """Returns the network that a factory makes with these options.

    Raises:
      ValueError: there is no factory of this name, or it rejects the options.
    """
    require(name in architectures.FACTORIES, "model", name, ", ".join(architectures.FACTORIES))
    return architectures.FACTORIES[name](**options)


def _rebuilt(spec: NetworkSpec, changed: str, value: Any) -> NetworkSpec:
    """Rebuilds the network with its factory, with one option changed.

    Raises:
      ValueError: the factory does not make this spec, because single blocks were changed, and
        rebuilding would lose that change; or the factory has no such option.
    """
    options = _options(spec)
    if published_network(**options) != spec:
        raise ValueError(f"{changed}: vary it before what changes single blocks")
    options["name" if changed == "model" else changed] = value
    for option in OF_V3_ALONE:
        if option in options and options["name"] not in V3:
            raise ValueError(f"{option}: {options['name']} has no such option, legal: "
                             f"{', '.join(V3)}")  # fmt: skip
    return published_network(**options)


def _options(spec: NetworkSpec) -> dict[str, Any]:
    """Returns the options that the network's factory was called with.

    `hard_swish_from` and `last_stage` are included only if they differ from the published network.
    """
    options: dict[str, Any] = {
        "name": spec.name,
        "width": spec.width,
        "num_classes": spec.head.num_classes,
        "in_channels": spec.stem.inputs,
        "dialect": spec.dialect.name,
        "norm_momentum": _own_momentum(spec),
        "input_stride": _read_input_stride(spec),
    }
    published = published_network(spec.name)
    for option, read in (("hard_swish_from", _read_hard_swish), ("last_stage", _read_last_stage)):
        if read(spec) != read(published):
            options[option] = read(spec)
    return options


def _own_momentum(spec: NetworkSpec) -> float | None:
    """Returns the BatchNorm momentum if it differs from the dialect's default, else None.

    If the result is None, a rebuilt network gets the default of its own dialect.
    """
    momentum = spec.dialect.norm_momentum
    usual = published_network(spec.name, dialect=spec.dialect.name).dialect.norm_momentum
    return None if momentum == usual else momentum


def _read_input_stride(spec: NetworkSpec) -> Any:
    """Returns the product of a network's first two strides.

    Assumes that all other strides are as published. The result is `ABSENT` if no factory made the
    network.
    """
    if spec.name not in architectures.FACTORIES:
        return ABSENT
    own, published = (math.prod(block.stride for block in (s.stem, *s.blocks))
                      for s in (spec, published_network(spec.name)))  # fmt: skip
    return 4 * own // published


def _read_last_stage(spec: NetworkSpec) -> str:
    if spec.name not in V3:
        return ABSENT
    return "efficient" if spec.head.hidden else "original"


def _published_channels(spec: NetworkSpec) -> list[int]:
    """Returns each block's channels in the V3 paper's table, which is for width 1."""
    return [block.outputs for block in published_network(spec.name).blocks]


def _read_hard_swish(spec: NetworkSpec) -> Any:
    if spec.name not in V3:
        return ABSENT
    channels = _published_channels(spec)
    if len(spec.blocks) not in (len(channels), len(channels) + 1):  # 1 more: original last stage
        return ABSENT
    rows = zip(spec.blocks, channels, strict=False)
    swish = {
        channels for block, channels in rows if getattr(block, "activation", None) == "hard_swish"
    }
    return min(swish, default=0)


def _with_hard_swish(spec: NetworkSpec, channels: int) -> NetworkSpec:
    if spec.name in V3:
        legal = [0, *sorted({*_published_channels(spec)})]
        require(channels in legal, "hard_swish_from", channels, ", ".join(map(str, legal)))
    return _rebuilt(spec, "hard_swish_from", channels)


def _option(
    name: str,
    values: Any,
    help: str,
    read: Callable[[NetworkSpec], Any],
    *,
    determines: Sequence[str] = (),
) -> Axis:
    """Makes an axis for an option of the network's factory."""
    return spec_axis(
        name, values, help, lambda spec, v: _rebuilt(spec, name, v), read, determines=determines
    )


# In the order in which the axes are applied.
FACTORY_AXES: tuple[Axis, ...] = (
    _option(
        "model",
        Literal[*architectures.FACTORIES],
        "the network",
        lambda spec: spec.name,
        determines=MODEL_AXES,
    ),
    _option(
        "dialect",
        DialectName,
        "whose padding, rounding, normalization and initialization: the papers' or a library's",
        lambda spec: spec.dialect.name,
        determines=OF_A_DIALECT,
    ),
    _option("width", float, "width multiplier (V1, Table 6)", lambda spec: spec.width),
    _option(
        "input_stride",
        int,
        "product of the first two strides: 4 as published, 2 or 1 for small images",
        _read_input_stride,
    ),
    _option(
        "last_stage",
        LastStage,
        "V3's last stage: efficient (pools earlier) or original (as searched) (V3, Fig. 5)",
        _read_last_stage,
    ),
    spec_axis(
        "hard_swish_from",
        int,
        "blocks with this many channels or more at width 1 use h-swish; 0: none (V3, Table 5)",
        _with_hard_swish,
        _read_hard_swish,
        determines=("activation", "stem_activation", "block_activation", "head_activation"),
    ),
)


def _inverted(spec: NetworkSpec) -> list[InvertedResidual]:
    return [block for block in spec.blocks if isinstance(block, InvertedResidual)]


def _read_depth(spec: NetworkSpec) -> Any:
    if spec.name != "mobilenet_v1":
        return ABSENT
    return "shallow" if len(spec.blocks) == 8 else "full"


def _stages(spec: NetworkSpec) -> list[int]:
    """Returns the number of blocks in each stage of V1, V2 or V3.

    Returns an empty list if the blocks do not divide evenly into the stages (as in shallow V1), or
    if no factory made the network.

    The stages are found in the network at width 1: in a narrow network, the channel counts of two
    stages may round to the same number, which hides the border between them.
    """
    if spec.name not in architectures.FACTORIES:
        return []
    blocks = published_network(spec.name).blocks
    starts = [i for i, b in enumerate(blocks) if i == 0 or b.stride == 2 or b.inputs != b.outputs]
    lengths = [b - a for a, b in zip(starts, [*starts[1:], len(blocks)], strict=True)]
    count = len(spec.blocks) - _has_extra_block(spec)
    if count == len(blocks):
        return lengths
    return [] if count % len(starts) else [count // len(starts)] * len(starts)


def _has_extra_block(spec: NetworkSpec) -> bool:
    """Returns whether the network has V3's original last stage, which has an extra block."""
    return _read_last_stage(spec) == "original"


def _with_repeats(spec: NetworkSpec, repeats: int) -> NetworkSpec:
    versions = "legal: V1, V2, V3"
    if spec.name.startswith("mobilenet_v4"):
        raise ValueError(f"repeats: each row of {spec.name} is another block, {versions}")
    whole = bool(_stages(spec)) and not _has_extra_block(spec)
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
    published = [getattr(block, "squeeze", 0) > 0 for block in published_network(spec.name).blocks]
    if not any(published):
        raise ValueError(f"squeeze_excite: {spec.name} is published without, legal: none, all")
    same = len(spec.blocks) - _has_extra_block(spec) == len(published)
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


def _attention(spec: NetworkSpec) -> list[Attention]:
    return [block for block in spec.blocks if isinstance(block, Attention)]


def _read_attention(spec: NetworkSpec) -> Any:
    published = spec.name in architectures.FACTORIES and published_network(spec.name)
    absent = "none" if published and _attention(published) else ABSENT
    return only({block.kind for block in _attention(spec)}, absent)


def _with_attention_downsampling(spec: NetworkSpec, where: AttentionDownsampling) -> NetworkSpec:
    if where != "published":
        return transforms.with_attention_downsampling(spec, 2 if where == "all" else 1)
    transforms.require_attention(spec, "attention_downsampling")
    strides = [block.downsampling for block in _attention(published_network(spec.name))]
    same = len(strides) == len(_attention(spec))
    require(same, "attention_downsampling", where, "with as many blocks as were published")
    blocks, rest = [], iter(strides)
    for block in spec.blocks:
        if isinstance(block, Attention):
            block = dataclasses.replace(block, downsampling=next(rest))
        blocks.append(block)
    return dataclasses.replace(spec, blocks=tuple(blocks))


def _read_attention_downsampling(spec: NetworkSpec) -> Any:
    having = {block.downsampling > 1 for block in _attention(spec)}
    return {0: ABSENT, 1: "all" if True in having else "none", 2: "published"}[len(having)]


def _read_layer_scale(spec: NetworkSpec) -> Any:
    scaled = {block.layer_scale for block in _inverted(spec)}
    return only(scaled | {block.layer_scale for block in _attention(spec)}, ABSENT)


def _block_activations(spec: NetworkSpec) -> set[str]:
    return {block.activation for block in spec.blocks if not isinstance(block, Attention)}


def _head_activations(spec: NetworkSpec) -> set[str]:
    return {layer.activation for layer in transforms.head_layers(spec).values()}


def _read_activation(spec: NetworkSpec) -> Any:
    everywhere = {spec.stem.activation} | _block_activations(spec) | _head_activations(spec)
    return only(everywhere, ABSENT)


# In the order in which the axes are applied: changes of blocks come before replacements of blocks.
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
        determines=("depth", "hard_swish_from"),
    ),
    spec_axis(
        "depth",
        transforms.Depth,
        "all blocks, or without the five 14x14x512 ones (V1, Table 5)",
        transforms.with_depth,
        _read_depth,
        determines=("repeats",),
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
        determines=("kernel",),
    ),
    spec_axis(
        "expansion",
        int,
        "expansion factor t of the inverted residuals (V2, section 3.3)",
        transforms.with_expansion,
        _read_expansion,
    ),
    spec_axis(
        "attention",
        transforms.AttentionOption,
        "attention of V4's hybrids: none, multi-query or multi-head (V4, section 4)",
        transforms.with_attention,
        _read_attention,
        determines=("attention_downsampling",),
    ),
    spec_axis(
        "attention_downsampling",
        AttentionDownsampling,
        "attention blocks with keys and values at half the resolution: none, published, all",
        _with_attention_downsampling,
        _read_attention_downsampling,
    ),
    spec_axis(
        "layer_scale",
        bool,
        "a learned scale per channel after projections (V4's hybrids; arXiv 2103.17239)",
        transforms.with_layer_scale,
        _read_layer_scale,
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
        "activation of all layers that have one",
        transforms.with_activation,
        _read_activation,
        determines=("hard_swish_from", "stem_activation", "block_activation", "head_activation"),
    ),
    spec_axis(
        "block_activation",
        Activation,
        "activation after expansions and depthwise convolutions; overrides --activation",
        transforms.with_block_activation,
        lambda spec: only(_block_activations(spec), ABSENT),
        determines=("hard_swish_from", "activation"),
    ),
    spec_axis(
        "head_activation",
        Activation,
        "activation of the layers between the blocks and the classifier; overrides --activation",
        transforms.with_head_activation,
        lambda spec: only(_head_activations(spec), ABSENT),
        determines=("activation",),
    ),
)
