"""Random networks: cost, text, parameters and logits agree whatever the mixture of blocks.

By default tens to hundreds of networks are drawn of each kind. For thousands:

    pytest tests/test_random_specs.py --hypothesis-profile=thousands

Oracles: arrays that Flax really makes, and what by_hand.py computes from the blocks alone.
"""

import inspect
import itertools
import math
from dataclasses import replace

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from lowerings import AVAILABLE
from published import DIALECTS
from random_networks import FEW, SIZES, fits, hand_made, options_of, published
from small_networks import KEY, images_of, random_like

from mnet_jax import models
from mnet_jax.analysis import cost
from mnet_jax.architectures import (
    FACTORIES,
    NetworkSpec,
    dense_tasks,
    variable_shapes,
    walk,
)

ANY = hand_made() | published()


def drawing(examples):
    """So many networks by default; those of a profile, if one is chosen that asks for more."""
    chosen = settings.get_profile(settings.get_current_profile_name()).max_examples
    # A failure is reported as found: to shrink one would trace networks for minutes.
    return settings(
        max_examples=chosen if chosen > 100 else examples,
        deadline=None,
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,  # an option of JAX, the same for all
        ],
    )


# ---- data


@pytest.mark.parametrize("network", FACTORIES)
def test_options_are_drawn_from_all_that_the_factory_has(network):
    @given(options_of(network))
    @settings(max_examples=1, database=None)
    def check(drawn):
        assert drawn.keys() == inspect.signature(FACTORIES[network]).parameters.keys()

    check()


@given(ANY)
@drawing(300)
def test_json_round_trip_is_the_identity(spec):
    text = spec.to_json()
    assert "\n" not in text
    again = NetworkSpec.from_json(text)
    assert again == spec and hash(again) == hash(spec) and again.to_json() == text


@given(ANY, SIZES)
@drawing(300)
def test_cost_counts_what_the_blocks_say_at_any_resolution(spec, size):
    try:
        counted = cost.count(spec, size)
    except ValueError as error:  # only without zeros in front may a window find no place
        assert str(error).startswith("resolution: ") and "\n" not in str(error)
        assert spec.dialect.depthwise_padding == "end"
        return
    assert (counted.params, counted.statistics) == by_hand.parameters(spec)
    assert counted.weight_bytes == 4 * (counted.params + counted.statistics)
    for row in counted.rows:
        layer = row.layer
        rows, columns = layer.output_size
        if layer.heads:  # a query with each key, and each weight with a value
            keys = math.prod(layer.heads.key_size)
            assert row.madds == 2 * rows * columns * keys * layer.inputs
            continue
        vectors = 2 * layer.normalized + layer.scaled
        vectors += not layer.normalized and layer.kind == "dense"  # a bias
        assert row.madds == rows * columns * (row.params - vectors * layer.outputs)
    transposed = cost.count(spec, size[::-1])
    assert transposed.madds == counted.madds  # no network tells rows from columns


@given(ANY.filter(lambda spec: spec.dialect.depthwise_padding != "end"), SIZES)
@drawing(200)
def test_maps_shrink_by_the_strides_and_by_nothing_else(spec, size):
    """SAME and symmetric padding give ceil(size / stride) rows; `end` may give fewer."""
    stride = spec.stem.stride * math.prod(block.stride for block in spec.blocks)
    branches = ("key/downsample", "key/project", "value/downsample", "value/project")
    maps = [
        layer for layer in walk(spec, size) if layer.kind != "dense" and layer.role not in branches
    ]
    assert maps[-1].output_size == tuple(-(-n // stride) for n in size)
    for before, after in itertools.pairwise(maps):
        assert after.input_size == before.output_size


@given(published())
@drawing(200)
def test_output_stride_and_reduced_tail_keep_what_they_say(spec):
    finer = dense_tasks.with_output_stride(spec, 8)
    product = spec.stem.stride * math.prod(block.stride for block in spec.blocks)
    assert finer.stem.stride * math.prod(b.stride for b in finer.blocks) == min(product, 8)
    assert by_hand.parameters(finer) == by_hand.parameters(spec)
    if any(block.dilation > 1 for block in spec.blocks):
        with pytest.raises(ValueError, match="reduced_tail: got 'dilated blocks'"):
            dense_tasks.with_reduced_tail(spec)
    elif any(block.stride == 2 for block in spec.blocks[1:]):
        reduced = dense_tasks.with_reduced_tail(spec)
        assert abs(reduced.pooled - spec.pooled / 2) <= 4  # to a multiple of 8
        assert [b.stride for b in reduced.blocks] == [b.stride for b in spec.blocks]


# ---- networks


def initialized_shapes(spec, size):
    """What a model initializes and computes: its logits, and variables with activations."""
    model = models.MobileNet(spec=spec, lowering="grouped")
    images = jax.ShapeDtypeStruct((2, *size, spec.stem.inputs), jnp.float32)
    mutable = ["params", "batch_stats", "intermediates"]
    return jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, train=False, mutable=mutable), KEY, images
    )


def flat(tree):
    """{"block_0/depthwise/conv/kernel": shape} of a tree of arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(entry.key for entry in path): leaf.shape for path, leaf in leaves}


def built(spec, size):
    """Logits and variables as `initialized_shapes`, and the activations of layers by path."""
    applied = {}

    def watch(call, arguments, keywords, context):
        module, result = context.module, call(*arguments, **keywords)
        if isinstance(module, models.ConvNorm) and context.method_name == "pending":
            applied["/".join(module.path)] = result.activation
        elif isinstance(module, models.Dense):
            applied["/".join(module.path)] = module.activation
        return result

    with nn.intercept_methods(watch):
        return *initialized_shapes(spec, size), applied


def activation_of(layer, sown):
    """The activation after a layer, by the names that `MobileNet` documents."""
    names = {"stem": "stem_output", "start": "started", "expand": "expanded"}
    names |= {"depthwise": "filtered", "project": "projected", "conv": "conv_output"}
    names |= {"hidden": "hidden_output"}
    attention = {"input": "normalized", "query": "queries", "attend": "attended"}
    attention |= {"output": "projected"}
    for of in ("key", "value"):
        attention |= {f"{of}/downsample": f"downsampled_{of}s", f"{of}/project": f"{of}s"}
    if layer.role in attention:
        return sown[layer.part][attention[layer.role]][0]
    path, _, last = layer.name.rpartition("/")
    if last == "pointwise":
        return sown[f"{path}_output"][0]
    return (sown[path] if path else sown)[names.get(last, f"{last}_output")][0]


def assert_built_as_walked(spec, size):
    """Variables and activations have the names and shapes that `walk` and `cost` say."""
    logits, variables, applied = built(spec, size)
    outputs = spec.head.num_classes or spec.features
    assert (logits.shape, logits.dtype) == ((2, outputs), jnp.float32)
    layers, shapes = list(walk(spec, size)), variable_shapes(spec)
    sown = variables.pop("intermediates")
    assert flat(variables) == shapes
    for layer in layers:
        if layer.has_kernel:
            assert shapes[f"params/{layer.kernel_path}"] == layer.kernel_shape
    gated = {layer.name for layer in layers if "squeeze_excite" in layer.name}
    linear = {layer.name for layer in layers if not (layer.has_kernel and layer.bias_path)}
    assert {layer.activation for layer in layers if layer.name in linear} <= {"linear"}
    activated = {layer.name: layer.activation for layer in layers if layer.name not in linear}
    assert applied == activated
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    counted = cost.count(spec, size)
    for collection, number in (("params", counted.params), ("batch_stats", counted.statistics)):
        own = [math.prod(s) for name, s in shapes.items() if name.startswith(f"{collection}/")]
        assert sum(own) == number
    for layer in layers[:-1]:
        if layer.name not in gated:
            place = layer.output_size if layer.kind != "dense" else ()
            found = activation_of(layer, sown)
            assert found.shape == (2, *place, layer.outputs), layer.name
    return variables


# Each network once, and each dialect. What is drawn below has them all.
BUILT = dict(
    zip(
        DIALECTS,
        ("slim", "keras", "torchvision", "timm", "timm", "paper", "timm", "paper", "timm"),
        strict=True,
    )
)


@pytest.mark.parametrize(
    ("network", "dialect"),
    [
        pytest.param(name, dialect, marks=() if dialect == BUILT[name] else pytest.mark.exhaustive)
        for name in DIALECTS
        for dialect in DIALECTS[name]
    ],
)
def test_published_networks_of_every_dialect_are_built_as_walked(network, dialect):
    assert_built_as_walked(FACTORIES[network](width=0.5, dialect=dialect), (64, 96))


def test_a_strided_1x1_convolution_has_the_kernel_that_variable_shapes_says():
    plain = FACTORIES["mobilenet_v1"](width=0.25)
    spec = replace(plain, stem=replace(plain.stem, kernel=1))
    _, variables = initialized_shapes(spec, (64, 64))
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    assert kernel.shape == variable_shapes(spec)["params/stem/conv/kernel"]


# Only shapes are computed, so every option is cheap.
@given(hand_made(), SIZES)
@drawing(30)
def test_hand_made_networks_are_built_as_walked(spec, size):
    assume(fits(spec, size))
    assert_built_as_walked(spec, size)


@given(published(), st.tuples(st.integers(24, 80), st.integers(24, 80)))
@drawing(15)
def test_published_networks_are_built_as_walked(spec, size):
    assume(fits(spec, size))
    assert_built_as_walked(spec, size)


# Run operation by operation: to compile each of these networks would take longer than to run it.
@given(
    hand_made(4, *FEW),
    st.sampled_from([*["grouped"] * 9, *AVAILABLE]),
)
@drawing(25)
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.slow
def test_logits_of_hand_made_networks_are_those_of_numpy(spec, lowering):
    size = (7, 6)
    assume(fits(spec, size))
    variables = random_like(assert_built_as_walked(spec, size))
    images = images_of(2, *size, 3, seed=1)
    model = models.MobileNet(spec=spec, lowering=lowering)
    logits = np.asarray(model.apply(variables, images, train=False))
    expected, _ = by_hand.network(spec, variables, images)
    assert np.isfinite(logits).all()
    scale = max(np.abs(expected).max(), 1)
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-3)
