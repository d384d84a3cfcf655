"""Networks drawn at random: mixtures of the blocks of all versions, and the factories' options."""

import itertools
from dataclasses import replace

from hypothesis import assume
from hypothesis import strategies as st
from published import DIALECTS

from mnet_jax.architectures import (
    FACTORIES,
    Attention,
    ConvNorm,
    FusedInvertedResidual,
    Head,
    Hidden,
    InvertedResidual,
    NetworkSpec,
    Separable,
    dense_tasks,
    walk,
)
from mnet_jax.architectures.dialects import dialect_of

CONVENTIONS = [
    dialect_of(f"mobilenet_v{version}", name)
    for version, names in (
        (1, ("paper", "keras", "timm")),
        (2, ("slim", "keras", "torchvision")),
        (3, ("torchvision", "timm")),
        (4, ("paper", "timm")),
    )
    for name in names
]
CHANNELS, EXPANDED = st.integers(1, 12), st.integers(1, 24)
FEW = (st.sampled_from([1, 6]), st.sampled_from([1, 9]))  # to run, operations are compiled
NONLINEAR = st.sampled_from(["linear", "relu", "relu6", "hard_swish", "gelu"])
KERNELS = st.sampled_from([1, 3, 5])
OPTIONAL_KERNELS = st.sampled_from([0, 0, 1, 3, 5, 7])


@st.composite
def strides(draw):
    """A stride and a dilation, of which one is 1."""
    return draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2), (1, 3)]))


@st.composite
def blocks(draw, inputs, channels, expanded):
    """A block of any kind with so many channels in."""
    stride, dilation = draw(strides())
    window = {"stride": stride, "dilation": dilation, "activation": draw(NONLINEAR)}
    shape = {"inputs": inputs, "outputs": draw(st.just(inputs) | channels)}
    kind = draw(st.sampled_from(["conv", "separable", "fused", "attention", *["inverted"] * 3]))
    if kind == "attention":
        return draw(attention(inputs))
    if kind == "conv":
        return ConvNorm(**shape, **window, kernel=draw(KERNELS))
    if kind == "separable":
        return Separable(**shape, **window, kernel=draw(KERNELS))
    shape |= {
        "expanded": draw(st.just(inputs) | expanded),
        "bottleneck": draw(NONLINEAR),
    }
    if kind == "fused":
        return FusedInvertedResidual(**shape, **window, kernel=draw(KERNELS))
    kernel, start = draw(OPTIONAL_KERNELS), draw(OPTIONAL_KERNELS)
    if not kernel and not start:
        window["stride"] = 1
    scales = shape["bottleneck"] == "linear" and draw(st.booleans())
    keeps = window["stride"] == 1 and shape["inputs"] == shape["outputs"]
    return InvertedResidual(
        **shape,
        **window,
        kernel=kernel,
        start_kernel=start,
        squeeze=draw(st.sampled_from([0, 0, 1, 5])),
        layer_scale=scales,
        shortcut=draw(st.sampled_from(["bottleneck", "bottleneck", "none"])) if keeps else "none",
    )


@st.composite
def attention(draw, inputs):
    return Attention(
        inputs=inputs,
        heads=draw(st.integers(1, 3)),
        head_channels=draw(st.integers(1, 4)),
        kind=draw(st.sampled_from(["mqa", "mha"])),
        downsampling=draw(st.sampled_from([1, 2])),
        kernel=draw(KERNELS),
        shortcut=draw(st.sampled_from(["bottleneck", "none"])),
        layer_scale=draw(st.booleans()),
    )


@st.composite
def bodies(draw, inputs, count, channels, expanded):
    """So many blocks in a row; some pairs are joined by a shortcut between their expansions."""
    row = []
    for _ in range(count):
        row.append(draw(blocks(row[-1].outputs if row else inputs, channels, expanded)))
    if draw(st.booleans()):
        for i, (block, following) in enumerate(itertools.pairwise(row)):
            fits = isinstance(block, InvertedResidual) and block.keeps_shape
            fits = fits and isinstance(following, InvertedResidual)
            if fits and following.start_kernel and not following.kernel:
                fits = following.stride == 1  # else it shrinks the map before it expands it
            if fits and following.expanded == block.expanded:
                row[i] = replace(block, shortcut="expansion")
    return tuple(row)


@st.composite
def heads(draw, inputs, channels):
    conv = None
    if draw(st.booleans()):
        conv = ConvNorm(inputs=inputs, outputs=draw(channels), kernel=1, activation=draw(NONLINEAR))
    hidden = None
    if draw(st.booleans()):
        hidden = Hidden(
            channels=draw(channels), activation=draw(NONLINEAR), normalized=draw(st.booleans())
        )
    dropout = draw(st.sampled_from([0.0, 0.2]) | st.floats(0, 0.9))
    return Head(
        conv=conv, hidden=hidden, dropout=dropout, num_classes=draw(st.sampled_from([1, 2, 7]))
    )


@st.composite
def hand_made(draw, most_blocks=7, channels=CHANNELS, expanded=EXPANDED):
    stem = ConvNorm(
        inputs=3,
        outputs=draw(channels),
        kernel=draw(KERNELS),
        stride=draw(st.sampled_from([1, 2])),
        activation=draw(NONLINEAR),
    )
    body = draw(bodies(stem.outputs, draw(st.integers(1, most_blocks)), channels, expanded))
    return NetworkSpec(
        name="random",
        width=draw(st.floats(0.1, 2)),
        dialect=draw(st.sampled_from(CONVENTIONS)),
        stem=stem,
        blocks=body,
        head=draw(heads(body[-1].outputs, channels)),
    )


def quantizable(spec):
    """The network without what cannot be quantized: attention, GELU and layer scales."""

    def plain(part):
        changes = {"layer_scale": False} if hasattr(part, "layer_scale") else {}
        for name in ("activation", "bottleneck"):
            if getattr(part, name, None) == "gelu":
                changes[name] = "relu"
        return replace(part, **changes)

    blocks = tuple(plain(block) for block in spec.blocks if not isinstance(block, Attention))
    head = replace(
        spec.head,
        conv=spec.head.conv and plain(spec.head.conv),
        hidden=spec.head.hidden and plain(spec.head.hidden),
    )
    assume(blocks)
    return replace(spec, stem=plain(spec.stem), blocks=blocks, head=head)


SIZES = st.tuples(st.integers(8, 70), st.integers(8, 70))
RELUS = st.sampled_from(["relu6", "relu"])
BLOCK_OPTIONS = {
    "bottleneck": st.sampled_from(["linear", "relu6"]),
    "shortcut": st.sampled_from(["bottleneck", "expansion", "none"]),
}
SHARED_OPTIONS = {
    "width": st.sampled_from([0.0625, 0.1, 0.25, 0.28, 0.35, 0.5, 0.75, 1, 1.0, 1.4])
    | st.floats(0.0625, 1.6),
    "num_classes": st.integers(0, 1001),
    "in_channels": st.sampled_from([1, 3, 4, 13]),
    "dropout": st.none() | st.floats(0, 0.9) | st.just(0),
    "norm_momentum": st.none() | st.floats(0, 0.9999),
    "input_stride": st.sampled_from([4, 2, 1]),
}
OWN_OPTIONS = {
    "mobilenet_v1": {
        "activation": RELUS,
        "convolution": st.sampled_from(["depthwise", "full"]),
        "depth": st.sampled_from(["full", "shallow"]),
    },
    "mobilenet_v2": BLOCK_OPTIONS | {"activation": RELUS, "expansion": st.integers(1, 10)},
    "mobilenet_v3": BLOCK_OPTIONS
    | {
        "minimalistic": st.booleans(),
        "squeeze_excite": st.none() | st.booleans(),
        "hard_swish_from": st.none() | st.sampled_from([0, 16, 80, 112]) | st.integers(0, 1000),
        "stem": st.sampled_from([16, 32]),
        "last_stage": st.sampled_from(["efficient", "original"]),
    },
    "mobilenet_v4": BLOCK_OPTIONS,
}


def options_of(network):
    """Every option of a network's factory, drawn at random."""
    own = OWN_OPTIONS[network[: len("mobilenet_v1")]]
    if "_hybrid_" in network:  # an activation cannot follow projections with a layer scale
        own = own | {"bottleneck": st.just("linear")}
    dialect = st.sampled_from(DIALECTS[network])
    return st.fixed_dictionaries(SHARED_OPTIONS | own | {"dialect": dialect})


@st.composite
def published(draw):
    """A factory's network with random options, and perhaps a dense task's changes."""
    network = draw(st.sampled_from(list(FACTORIES)))
    spec = FACTORIES[network](**draw(options_of(network)))
    if draw(st.booleans()):
        spec = dense_tasks.with_output_stride(spec, draw(st.sampled_from([8, 16, 32])))
    return spec


def fits(spec, size):
    """Whether an image of that size leaves every layer an output."""
    try:
        return bool(list(walk(spec, size)))
    except ValueError:
        return False
