"""Random networks: cost, text, parameters and logits agree whatever the mixture of blocks.

Hand-made specs mix the blocks of all versions, and the factories get random options. By default a
few hundred networks are drawn of each kind. For thousands:

    pytest tests/test_random_specs.py --hypothesis-profile=thousands

Oracles: arrays that Flax really makes, and a count of taps written here from the blocks alone.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_models import ACTIVATIONS, conv_norm, dense, squeeze_excite

from mnet_jax import models
from mnet_jax.analysis import cost
from mnet_jax.architectures import (
    FACTORIES,
    ConvNorm,
    FusedInvertedResidual,
    Head,
    Hidden,
    InvertedResidual,
    NetworkSpec,
    Separable,
    transforms,
    walk,
)
from mnet_jax.architectures.dialects import dialect_of


def drawing(examples):
    """So many networks by default; those of a profile, if one is chosen that asks for more."""
    chosen = settings.get_profile(settings.get_current_profile_name()).max_examples
    # A failure is reported as found: to shrink one would trace networks for minutes.
    return settings(
        max_examples=chosen if chosen > 100 else examples,
        deadline=None,
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# ---- what is drawn

DIALECTS = [
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
FEW = (st.sampled_from([1, 4, 6]), st.sampled_from([1, 6, 9]))  # to run, operations are compiled
NONLINEAR = st.sampled_from(["linear", "relu", "relu6", "hard_swish"])
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
    kind = draw(st.sampled_from(["conv", "separable", "fused", *["inverted"] * 3]))
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
    keeps = window["stride"] == 1 and shape["inputs"] == shape["outputs"]
    return InvertedResidual(
        **shape,
        **window,
        kernel=kernel,
        start_kernel=start,
        squeeze=draw(st.sampled_from([0, 0, 1, 5])),
        shortcut=draw(st.sampled_from(["bottleneck", "bottleneck", "none"])) if keeps else "none",
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
                fields = {f: getattr(block, f) for f in InvertedResidual.__dataclass_fields__}
                row[i] = InvertedResidual(**(fields | {"shortcut": "expansion"}))
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
        dialect=draw(st.sampled_from(DIALECTS)),
        stem=stem,
        blocks=body,
        head=draw(heads(body[-1].outputs, channels)),
    )


BLOCK_OPTIONS = {
    "bottleneck": st.sampled_from(["linear", "relu6"]),
    "shortcut": st.sampled_from(["bottleneck", "expansion", "none"]),
}
OPTIONS = {
    "mobilenet_v1": {
        "depth": st.sampled_from(["full", "shallow"]),
        "convolution": st.sampled_from(["depthwise", "full"]),
    },
    "mobilenet_v2": BLOCK_OPTIONS | {"expansion": st.integers(1, 7)},
    "mobilenet_v3": BLOCK_OPTIONS
    | {
        "minimalistic": st.booleans(),
        "squeeze_excite": st.none() | st.booleans(),
        "hard_swish_from": st.none() | st.integers(0, 200),
        "stem": st.sampled_from([16, 32]),
        "last_stage": st.sampled_from(["efficient", "original"]),
    },
    "mobilenet_v4": BLOCK_OPTIONS,
}


@st.composite
def published(draw):
    """A factory's network with random options, and perhaps a dense task's changes."""
    network = draw(st.sampled_from(list(FACTORIES)))
    version = network[: len("mobilenet_v1")]
    every = ["paper", "slim", "keras", "torchvision", "timm"]
    legal = {"mobilenet_v1": [*every[:3], "timm"], "mobilenet_v4": ["paper", "timm"]}
    common = {
        "width": st.floats(0.0625, 1.6),
        "num_classes": st.integers(1, 1001),
        "dialect": st.sampled_from(legal.get(version, every)),
        "input_stride": st.sampled_from([4, 2, 1]),
    }
    spec = FACTORIES[network](**draw(st.fixed_dictionaries(common | OPTIONS[version])))
    if draw(st.booleans()):
        spec = transforms.with_output_stride(spec, draw(st.sampled_from([8, 16, 32])))
    return spec


ANY = hand_made() | published()
SIZES = st.tuples(st.integers(8, 70), st.integers(8, 70))


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# ---- data


@given(ANY)
@drawing(1000)
def test_json_round_trip_is_the_identity(spec):
    text = spec.to_json()
    again = NetworkSpec.from_json(text)
    assert again == spec and hash(again) == hash(spec) and again.to_json() == text


def parameters_by_hand(spec):
    """(trainable, statistics) from the blocks alone: kernels, two vectors a normalization."""
    kernels, normalized, biases = 0, 0, 0

    def convolution(weights, outputs):
        nonlocal kernels, normalized
        kernels, normalized = kernels + weights, normalized + outputs

    def dense(inputs, outputs):
        nonlocal kernels, biases
        kernels, biases = kernels + inputs * outputs, biases + outputs

    for block in [spec.stem, *spec.blocks, *([spec.head.conv] if spec.head.conv else [])]:
        i, o, k = block.inputs, block.outputs, block.kernel
        if isinstance(block, ConvNorm):
            convolution(k * k * i * o, o)
        elif isinstance(block, Separable):
            convolution(k * k * i, i)
            convolution(i * o, o)
        elif isinstance(block, FusedInvertedResidual):
            convolution(k * k * i * block.expanded, block.expanded)
            convolution(block.expanded * o, o)
        else:
            if block.start_kernel:
                convolution(block.start_kernel**2 * i, i)
            if block.expanded != i:
                convolution(i * block.expanded, block.expanded)
            if k:
                convolution(k * k * block.expanded, block.expanded)
            if block.squeeze:
                dense(block.expanded, block.squeeze)
                dense(block.squeeze, block.expanded)
            convolution(block.expanded * o, o)
    features = spec.head.conv.outputs if spec.head.conv else spec.blocks[-1].outputs
    hidden = spec.head.hidden
    if hidden and hidden.normalized:
        convolution(features * hidden.channels, hidden.channels)
    elif hidden:
        dense(features, hidden.channels)
    dense(hidden.channels if hidden else features, spec.head.num_classes)
    return kernels + 2 * normalized + biases, 2 * normalized


@given(ANY, SIZES)
@drawing(1000)
def test_cost_counts_what_the_blocks_say_at_any_resolution(spec, size):
    try:
        counted = cost.count(spec, size)
    except ValueError as error:  # only without zeros in front may a window find no place
        assert str(error).startswith("resolution: ") and "\n" not in str(error)
        assert spec.dialect.depthwise_padding == "end"
        return
    assert (counted.params, counted.statistics) == parameters_by_hand(spec)
    assert counted.weight_bytes == 4 * (counted.params + counted.statistics)
    for row in counted.rows:
        layer = row.layer
        rows, columns = layer.output_size
        weights = row.params - (2 if layer.normalized else 1) * layer.outputs
        assert row.madds == rows * columns * weights
    transposed = cost.count(spec, size[::-1])
    assert transposed.madds == counted.madds  # no network tells rows from columns


@given(ANY, SIZES)
@drawing(500)
def test_maps_shrink_by_the_strides_and_by_nothing_else(spec, size):
    """SAME and symmetric padding give ceil(size / stride) rows; `end` may give fewer."""
    if spec.dialect.depthwise_padding == "end":
        return
    stride = spec.stem.stride * math.prod(block.stride for block in spec.blocks)
    maps = [layer for layer in walk(spec, size) if layer.kind != "dense"]
    assert maps[-1].output_size == tuple(-(-n // stride) for n in size)
    for before, after in itertools.pairwise(maps):
        assert after.input_size == before.output_size


@given(published())
@drawing(500)
def test_output_stride_and_reduced_tail_keep_what_they_say(spec):
    finer = transforms.with_output_stride(spec, 8)
    product = spec.stem.stride * math.prod(block.stride for block in spec.blocks)
    assert finer.stem.stride * math.prod(b.stride for b in finer.blocks) == min(product, 8)
    assert parameters_by_hand(finer) == parameters_by_hand(spec)
    if any(block.dilation > 1 for block in spec.blocks):
        with pytest.raises(ValueError, match="reduced_tail: got 'dilated blocks'"):
            transforms.with_reduced_tail(spec)
    elif any(block.stride == 2 for block in spec.blocks[1:]):
        reduced = transforms.with_reduced_tail(spec)
        assert abs(reduced.pooled - spec.pooled / 2) <= 4  # to a multiple of 8
        assert [b.stride for b in reduced.blocks] == [b.stride for b in spec.blocks]


# ---- networks


def shapes_of(spec, size):
    model = models.MobileNet(spec=spec, lowering="grouped")
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, train=False), jax.random.key(0), images
    )


def check_shapes(spec, size):
    logits, variables = shapes_of(spec, size)
    counted = cost.count(spec, size)
    assert (logits.shape, logits.dtype) == ((2, spec.head.num_classes), jnp.float32)
    assert elements(variables["params"]) == counted.params
    assert elements(variables.get("batch_stats", {})) == counted.statistics
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    return variables


def fits(spec, size):
    try:
        return bool(list(walk(spec, size)))
    except ValueError:
        return False


@given(hand_made(), SIZES)
@drawing(80)
@pytest.mark.slow
def test_initialized_hand_made_networks_have_the_parameters_that_cost_counts(spec, size):
    if fits(spec, size):
        check_shapes(spec, size)


@given(published())
@drawing(25)
@pytest.mark.slow
def test_initialized_published_networks_have_the_parameters_that_cost_counts(spec):
    if fits(spec, (40, 33)):
        check_shapes(spec, (40, 33))


def random_like(shapes, seed):
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.5, 0.5)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(value, shapes)


def logits_by_hand(spec, variables, images):
    """The network in NumPy and float64, from its parameters."""
    dialect, skip = spec.dialect, 0

    def layer(x, name, block, activation, stride=1):
        how = {"stride": stride, "activation": activation, "dilation": block.dilation}
        return conv_norm(x, variables, name, dialect, **how)

    x = layer(images, "stem", spec.stem, spec.stem.activation, spec.stem.stride)
    for i, block in enumerate(spec.blocks):
        name, stride, activation = f"block_{i}", block.stride, block.activation
        if isinstance(block, ConvNorm):
            x = layer(x, name, block, activation, stride)
        elif isinstance(block, Separable):
            x = layer(x, f"{name}/depthwise", block, activation, stride)
            x = layer(x, f"{name}/pointwise", block, activation)
        elif isinstance(block, FusedInvertedResidual):
            x = layer(x, f"{name}/expand", block, activation, stride)
            x = layer(x, f"{name}/project", block, block.bottleneck)
        else:
            wide = x
            if block.start_kernel:
                wide = layer(wide, f"{name}/start", block, "linear", 1 if block.kernel else stride)
            if block.expanded != block.inputs:
                wide = layer(wide, f"{name}/expand", block, activation)
            wide = wide + skip
            if block.kernel:
                wide = layer(wide, f"{name}/depthwise", block, activation, stride)
            if block.squeeze:
                wide = squeeze_excite(wide, variables["params"][name]["squeeze_excite"])
            y = layer(wide, f"{name}/project", block, block.bottleneck)
            x = x + y if block.shortcut == "bottleneck" else y
            skip = wide if block.shortcut == "expansion" else 0
    head, params = spec.head, variables["params"]["head"]
    if head.conv:
        x = layer(x, "head/conv", head.conv, head.conv.activation)
    x = x.mean((1, 2))
    if head.hidden and head.hidden.normalized:
        x = conv_norm(x, variables, "head/hidden", dialect, activation=head.hidden.activation)
    elif head.hidden:
        x = ACTIVATIONS[head.hidden.activation](dense(x, params["hidden"]))
    return dense(x, params["classifier"])


# Run operation by operation: to compile each of these networks would take longer than to run it.
@given(
    hand_made(4, *FEW),
    st.sampled_from([(7, 6), (5, 8)]),
    st.sampled_from([*["grouped"] * 4, "auto"]),
)
@drawing(200)
@pytest.mark.slow
def test_logits_of_hand_made_networks_are_those_of_numpy(spec, size, lowering):
    if not fits(spec, size):
        return
    shapes = check_shapes(spec, size)
    variables = random_like(shapes, 0)
    images = np.random.default_rng(1).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    model = models.MobileNet(spec=spec, lowering=lowering)
    logits = np.asarray(model.apply(variables, images, train=False))
    expected = logits_by_hand(spec, variables, images)
    assert np.isfinite(logits).all()
    scale = max(np.abs(expected).max(), 1)
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-3)
