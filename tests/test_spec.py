"""Architectures as data: their text, their transforms, their dialects and their errors.

Oracles: the rules of TF-slim, Keras and torchvision written out in NumPy or taken from JAX, and the
parameter trees that Flax really makes.
"""

import dataclasses
import inspect
import json
import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax

from mnet_jax import architectures, models
from mnet_jax.analysis import cost
from mnet_jax.architectures import NetworkSpec, mobilenet_v1, mobilenet_v2, transforms, walk
from mnet_jax.architectures.dialects import make_divisible, round_channels
from mnet_jax.architectures.spec import ConvNorm, InvertedResidual, pad_amounts

SHARED_OPTIONS = {
    "width": st.sampled_from([0.0625, 0.1, 0.25, 0.28, 0.35, 0.5, 0.75, 1, 1.0, 1.4])
    | st.floats(0.0625, 1.5),
    "num_classes": st.integers(1, 1001),
    "activation": st.sampled_from(["relu6", "relu"]),
    "dropout": st.none() | st.floats(0, 0.9) | st.just(0),
    "norm_momentum": st.none() | st.floats(0, 0.9999),
    "input_stride": st.sampled_from([4, 2, 1]),
}


def v1_options(**changed):
    own = {
        "dialect": st.sampled_from(["paper", "keras", "timm"]),
        "convolution": st.sampled_from(["depthwise", "full"]),
        "depth": st.sampled_from(["full", "shallow"]),
    }
    return st.fixed_dictionaries(SHARED_OPTIONS | own | changed)


def v2_options(**changed):
    own = {
        "dialect": st.sampled_from(["paper", "keras", "torchvision", "timm"]),
        "expansion": st.integers(1, 10),
        "bottleneck": st.sampled_from(["linear", "relu6"]),
        "shortcut": st.sampled_from(["bottleneck", "expansion", "none"]),
    }
    return st.fixed_dictionaries(SHARED_OPTIONS | own | changed)


def specs(**changed):
    v1 = v1_options(**changed).map(lambda options: mobilenet_v1(**options))
    v2 = v2_options(**changed).map(lambda options: mobilenet_v2(**options))
    return v1 | v2


def one_line(caught):
    (message,) = str(caught.value).splitlines()
    return message


# ---- text


@given(specs())
@settings(max_examples=100, deadline=None)
def test_json_round_trip_is_the_identity(spec):
    text = spec.to_json()
    assert "\n" not in text
    again = NetworkSpec.from_json(text)
    assert again == spec and hash(again) == hash(spec)
    assert again.to_json() == text


@pytest.mark.parametrize("factory", [mobilenet_v1, mobilenet_v2])
def test_equal_specs_have_equal_text_whatever_the_type_of_number(factory):
    assert factory(width=1).to_json() == factory(width=1.0).to_json()
    assert factory(dropout=0).to_json() == factory(dropout=0.0).to_json()
    assert factory(width=1).to_json() != factory(width=0.5).to_json()


def edited(change):
    plain = json.loads(mobilenet_v2().to_json())
    change(plain)
    return json.dumps(plain)


BROKEN = {
    "unknown field": edited(lambda p: p.update(colour="red")),
    "unknown field of a block": edited(lambda p: p["blocks"][3].update(colour="red")),
    "missing field": edited(lambda p: p.pop("stem")),
    "text for a number": edited(lambda p: p["head"].update(num_classes="10")),
    "fraction for a whole number": edited(lambda p: p["stem"].update(outputs=32.5)),
    "float for a whole number": edited(lambda p: p["stem"].update(outputs=32.0)),
    "truth value for a number": edited(lambda p: p["stem"].update(stride=True)),
    "number for text": edited(lambda p: p.update(name=3)),
    "null for a block": edited(lambda p: p["blocks"].__setitem__(0, None)),
    "unknown type tag": edited(lambda p: p["blocks"][0].update(type="Sandglass")),
    "missing type tag": edited(lambda p: p["blocks"][0].pop("type")),
    "unknown choice": edited(lambda p: p["blocks"][0].update(activation="swish")),
    "illegal value": edited(lambda p: p["dialect"].update(norm_epsilon=-1.0)),
    "NaN": edited(lambda p: p["head"].update(dropout=math.nan)),
    "layers that do not fit": edited(lambda p: p["blocks"].pop(3)),
    "no blocks": edited(lambda p: p.update(blocks=[], head=dict(p["head"], conv=None))),
    "text for blocks": edited(lambda p: p.update(blocks="", head=dict(p["head"], conv=None))),
    "list": "[]",
    "number": "3",
    "torn": mobilenet_v2().to_json()[:500],
    "empty": "",
    "not JSON": "mobilenet_v2",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_from_json_refuses_in_one_line(text):
    with pytest.raises(ValueError, match="NetworkSpec") as caught:
        NetworkSpec.from_json(text)
    assert one_line(caught)


# ---- rounding and padding


@given(st.floats(0.01, 5000))
def test_make_divisible_is_the_nearest_multiple_of_8_and_never_below_90_percent(value):
    rounded = make_divisible(value)
    assert rounded % 8 == 0 and rounded >= 8
    assert rounded >= 0.9 * value
    nearest = max(8, 8 * math.floor(value / 8 + 0.5))
    assert rounded == (nearest if nearest >= 0.9 * value else nearest + 8)


def test_make_divisible_by_hand():
    """11.2 goes to 16 since 8 would lose 29 %, 18 to 24 since 16 would lose 11 %."""
    cases = {1: 8, 8: 8, 11.2: 16, 11.9: 16, 12: 16, 18: 24, 20: 24, 22.4: 24, 67.2: 64, 84: 88}
    assert {value: make_divisible(value) for value in cases} == cases


@pytest.mark.parametrize(
    ("rounding", "channels"),
    [
        ("truncate", [8, 5, 22, 44, 358]),
        ("truncate_at_least_8", [8, 8, 22, 44, 358]),
        ("divisible", [8, 8, 24, 48, 360]),
        ("truncate_divisible", [8, 8, 24, 48, 360]),
    ],
)
def test_rounding_rules_by_hand(rounding, channels):
    cases = [(32, 0.25), (16, 0.35), (64, 0.35), (128, 0.35), (1024, 0.35)]
    assert [round_channels(c, width, rounding) for c, width in cases] == channels


def test_dialects_round_v1_differently():
    """At 0.35 slim and Keras truncate 22.4 to 22, timm makes it 24; at 0.2 slim stops at 8."""
    stems_and_first = {
        dialect: [
            (spec.stem.outputs, spec.blocks[0].outputs)
            for spec in (mobilenet_v1(width=width, dialect=dialect) for width in (0.35, 0.2))
        ]
        for dialect in ("paper", "keras", "timm")
    }
    assert stems_and_first == {
        "paper": [(11, 22), (8, 12)],
        "keras": [(11, 22), (6, 12)],
        "timm": [(16, 24), (8, 16)],
    }


def test_keras_truncates_before_it_rounds_in_v2_blocks_alone():
    """32 * 0.28 = 8.96 makes 16, since 8 is below 90 % of it; truncated first it makes 8."""
    keras, paper = (mobilenet_v2(width=0.28, dialect=name) for name in ("keras", "paper"))
    assert (keras.stem.outputs, paper.stem.outputs) == (16, 16)
    assert (keras.blocks[3].outputs, paper.blocks[3].outputs) == (8, 16)  # table's 32 channels


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
class TestPadAmounts:
    sizes = range(1, 41)

    def test_same_is_laxs(self, kernel, stride):
        for size in self.sizes:
            expected = lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")
            assert [pad_amounts("same", kernel, stride, size)] == list(map(tuple, expected)), size

    def test_symmetric_is_torchs(self, kernel, stride):
        """(kernel - 1) // 2 on both sides, in torchvision's ConvNormActivation."""
        for size in self.sizes:
            pads = pad_amounts("symmetric", kernel, stride, size)
            assert pads == ((kernel - 1) // 2,) * 2

    def test_end_is_keras_v1s_extended_to_every_kernel(self, kernel, stride):
        """ZeroPadding2D(((0, 1), (0, 1))) and "valid" where strided, "same" elsewhere."""
        for size in self.sizes:
            pads = pad_amounts("end", kernel, stride, size)
            if stride == 1:
                assert pads == (kernel // 2, kernel // 2)
            elif kernel == 3:
                assert pads == (0, 1)
            else:
                assert pads == (0, (kernel - 1) // 2)


def test_same_is_keras_v2s_correct_pad_before_strided_depthwise():
    """`imagenet_utils.correct_pad`: half the kernel, one less in front at even sizes."""
    for size in range(3, 41):
        for kernel in (3, 5):
            half = kernel // 2
            expected = (half - (1 - size % 2), half)
            if size >= kernel:
                assert pad_amounts("same", kernel, 2, size) == expected


def test_same_and_symmetric_give_the_same_shapes_and_differ_at_even_sizes_only():
    for size in range(3, 41):
        same, symmetric = (pad_amounts(rule, 3, 2, size) for rule in ("same", "symmetric"))
        outputs = {(size + sum(pads) - 3) // 2 + 1 for pads in (same, symmetric)}
        assert len(outputs) == 1
        assert (same == symmetric) == (size % 2 == 1)


# network, dialect, then what the implementations' sources say: epsilon, kept momentum, dropout,
# padding, padding of strided depthwise layers, initializer
SLIM, GLOROT, FAN_OUT = "truncated_normal_0.09", "glorot_uniform", "normal_fan_out"
PER_GROUP = "normal_group_fan_out"
CONVENTIONS = [
    ("mobilenet_v1", "paper", 1e-3, 0.9997, 0.001, "same", "same", SLIM),
    ("mobilenet_v1", "keras", 1e-3, 0.99, 0.001, "same", "end", GLOROT),
    ("mobilenet_v1", "timm", 1e-5, 0.9, 0.0, "symmetric", "symmetric", PER_GROUP),
    ("mobilenet_v2", "paper", 1e-3, 0.997, 0.2, "same", "same", SLIM),
    ("mobilenet_v2", "keras", 1e-3, 0.999, 0.0, "same", "same", GLOROT),
    ("mobilenet_v2", "torchvision", 1e-5, 0.9, 0.2, "symmetric", "symmetric", FAN_OUT),
    ("mobilenet_v2", "timm", 1e-5, 0.9, 0.0, "symmetric", "symmetric", PER_GROUP),
]


@pytest.mark.parametrize("row", CONVENTIONS, ids=[f"{row[0]}-{row[1]}" for row in CONVENTIONS])
def test_dialects_keep_the_implementations_conventions(row):
    network, name, epsilon, momentum, dropout, padding, depthwise_padding, initializer = row
    spec = getattr(architectures, network)(dialect=name)
    dialect = spec.dialect
    assert (dialect.norm_epsilon, dialect.norm_momentum) == (epsilon, momentum)
    assert spec.head.dropout == dialect.dropout == dropout
    assert (dialect.padding, dialect.depthwise_padding) == (padding, depthwise_padding)
    assert dialect.initializer == initializer


# ---- transforms


def transformed(spec, options):
    for name, value in options.items():
        spec = getattr(transforms, f"with_{name}")(spec, value)
    return spec


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (mobilenet_v1, {"convolution": "full"}),
        (mobilenet_v1, {"depth": "shallow"}),
        (mobilenet_v1, {"activation": "relu"}),
        (mobilenet_v1, {"input_stride": 1}),
        (mobilenet_v1, {"depth": "shallow", "input_stride": 2, "activation": "relu"}),
        (mobilenet_v1, {"convolution": "full", "depth": "shallow", "activation": "relu"}),
        (mobilenet_v2, {"expansion": 1}),
        (mobilenet_v2, {"expansion": 3}),
        (mobilenet_v2, {"bottleneck": "relu6"}),
        (mobilenet_v2, {"shortcut": "none"}),
        (mobilenet_v2, {"shortcut": "expansion"}),
        (mobilenet_v2, {"shortcut": "expansion", "expansion": 3}),
        (mobilenet_v2, {"activation": "relu", "bottleneck": "relu6"}),
        (mobilenet_v2, {"input_stride": 2, "expansion": 4, "bottleneck": "relu6"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_a_transform_of_the_default_is_the_factory_with_the_option(factory, options, width):
    plain, built = factory(width=width), factory(width=width, **options)
    assert transformed(plain, options) == built != plain
    backwards = dict(reversed(options.items())) if "bottleneck" not in options else options
    assert transformed(plain, backwards) == built
    assert plain == factory(width=width)  # the argument is left alone


def test_expansion_widens_the_depthwise_layers_alone():
    narrow, wide = mobilenet_v2(expansion=2), mobilenet_v2(expansion=8)
    for before, after in zip(narrow.blocks[1:], wide.blocks[1:], strict=True):
        assert (before.expanded, after.expanded) == (2 * before.inputs, 8 * after.inputs)
        assert dataclasses.replace(after, expanded=before.expanded) == before
    assert narrow.blocks[0] == wide.blocks[0] and not narrow.blocks[0].expands


def test_expansion_1_leaves_no_expansion_layer():
    assert not any("expand" in layer.name for layer in walk(mobilenet_v2(expansion=1), 64))


@pytest.mark.parametrize(("stride", "size"), [(4, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize("factory", [mobilenet_v1, mobilenet_v2])
def test_input_stride_is_the_product_of_the_first_two_strides(factory, stride, size):
    spec = factory(input_stride=stride)
    first = next(i for i, b in enumerate(factory().blocks) if b.stride == 2)
    assert spec.stem.stride * spec.blocks[first].stride == stride
    *_, last, _ = walk(spec, 32)
    assert last.output_size == (size, size)


@pytest.mark.parametrize("shortcut", ["bottleneck", "expansion", "none"])
@pytest.mark.parametrize("width", [0.0625, 0.25, 0.28, 1.0])
def test_shortcuts_run_where_shapes_allow_and_nowhere_else(shortcut, width):
    spec = mobilenet_v2(width=width, shortcut=shortcut)
    for block, following in zip(spec.blocks, [*spec.blocks[1:], None], strict=True):
        possible = block.stride == 1 and block.inputs == block.outputs
        if shortcut == "expansion":
            possible = possible and following and following.expanded == block.expanded
        assert block.shortcut == (shortcut if possible else "none")
    if shortcut != "none":
        assert sum(block.shortcut != "none" for block in spec.blocks) >= 10  # Table 2 at width 1


# ---- errors


ILLEGAL = [
    (mobilenet_v2, {"width": 0}, ["width", "0", "above 0"]),
    (mobilenet_v2, {"width": -1.0}, ["width", "-1.0", "above 0"]),
    (mobilenet_v1, {"width": math.nan}, ["width", "nan"]),
    (mobilenet_v1, {"width": math.inf}, ["width", "inf"]),
    (mobilenet_v1, {"width": 0.001}, ["width", "0.001", "0.03125"]),
    (mobilenet_v2, {"num_classes": 0}, ["num_classes", "0", "1 or more"]),
    (mobilenet_v2, {"num_classes": 1.5}, ["num_classes", "1.5", "whole"]),
    (mobilenet_v2, {"expansion": 0}, ["expansion", "0", "1 or more"]),
    (mobilenet_v2, {"expansion": 1.5}, ["expansion", "1.5", "whole"]),
    (mobilenet_v2, {"bottleneck": "relu"}, ["bottleneck", "relu", "linear, relu6"]),
    (mobilenet_v2, {"shortcut": "all"}, ["shortcut", "all", "bottleneck, expansion, none"]),
    (mobilenet_v2, {"activation": "gelu"}, ["activation", "gelu", "relu6, relu"]),
    (mobilenet_v1, {"dropout": 1.0}, ["dropout", "1.0", "0 to below 1"]),
    (mobilenet_v1, {"norm_momentum": 1.0}, ["norm_momentum", "1.0", "0 to below 1"]),
    (mobilenet_v1, {"dialect": "torchvision"}, ["dialect", "torchvision", "paper, keras, timm"]),
    (mobilenet_v2, {"dialect": "slim"}, ["dialect", "slim", "paper, keras, torchvision, timm"]),
    (mobilenet_v1, {"input_stride": 3}, ["input_stride", "3", "4, 2, 1"]),
    (mobilenet_v1, {"convolution": "grouped"}, ["convolution", "grouped", "depthwise, full"]),
    (mobilenet_v1, {"depth": "deep"}, ["depth", "deep", "full, shallow"]),
    (transforms.with_bottleneck, (mobilenet_v1(), "linear"), ["bottleneck", "mobilenet_v2"]),
    (transforms.with_shortcut, (mobilenet_v1(), "none"), ["shortcut", "mobilenet_v2"]),
    (transforms.with_expansion, (mobilenet_v1(), 6), ["expansion", "mobilenet_v2"]),
    (transforms.with_convolution, (mobilenet_v2(), "full"), ["convolution", "mobilenet_v1"]),
    (transforms.with_depth, (mobilenet_v2(), "shallow"), ["depth", "mobilenet_v1"]),
    (transforms.with_depth, (mobilenet_v1(depth="shallow"), "shallow"), ["depth", "shallow"]),
    (
        transforms.with_input_stride,
        (mobilenet_v2(input_stride=1), 1),
        ["input_stride", "published"],
    ),
    (ConvNorm, {"inputs": 0, "outputs": 8, "kernel": 3}, ["inputs", "0", "1 channel"]),
    (ConvNorm, {"inputs": 3, "outputs": 8, "kernel": 2}, ["kernel", "2", "odd"]),
    (ConvNorm, {"inputs": 3, "outputs": 8, "kernel": 3, "stride": 3}, ["stride", "3", "1, 2"]),
    (
        InvertedResidual,
        {"inputs": 8, "expanded": 48, "outputs": 8, "stride": 2, "shortcut": "bottleneck"},
        ["shortcut", "bottleneck", "none"],
    ),
    (walk_all := lambda *a: list(walk(*a)), (mobilenet_v2(), 0), ["resolution", "0", "1 pixel"]),
    (walk_all, (mobilenet_v1(dialect="keras"), 8), ["resolution", "large enough"]),
]


@pytest.mark.parametrize(
    ("call", "arguments", "words"),
    ILLEGAL,
    ids=[f"{'-'.join(row[2][:2])}-{i}" for i, row in enumerate(ILLEGAL)],
)
def test_errors_are_one_line_with_name_value_and_what_is_legal(call, arguments, words):
    with pytest.raises(ValueError) as caught:
        call(**arguments) if isinstance(arguments, dict) else call(*arguments)
    message = one_line(caught)
    assert "legal: " in message
    for word in words:
        assert word in message


# ---- interpreters agree


@pytest.mark.parametrize("network", ["mobilenet_v1", "mobilenet_v2"])
def test_model_factories_take_the_architectures_options_and_how_to_compute(network):
    options = inspect.signature(getattr(architectures, network)).parameters
    built = dict(inspect.signature(getattr(models, network)).parameters)
    assert built.pop("dtype").default == jnp.float32
    assert built.pop("lowering").default == "auto"
    assert list(built) == list(options)
    for name, parameter in built.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default == options[name].default, name
        assert parameter.annotation == options[name].annotation, name


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("mobilenet_v1", v1_options()),
        ("mobilenet_v2", v2_options()),
    ],
)
def test_model_factories_relay_every_option(network, options):
    @given(options)
    @settings(max_examples=20, deadline=None)
    def check(chosen):
        model = getattr(models, network)(**chosen, dtype=jnp.bfloat16, lowering="grouped")
        assert model.spec == getattr(architectures, network)(**chosen)
        assert (model.dtype, model.lowering) == (jnp.bfloat16, "grouped")

    check()


def flat(tree):
    """{"block_0/depthwise/conv/kernel": shape} of a tree of arrays."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(entry.key for entry in path): leaf.shape for path, leaf in leaves}


def expected_variables(layer):
    """Names and shapes of a layer's parameters and statistics, from what the layer is."""
    kernels = {
        "conv": (layer.kernel, layer.kernel, layer.inputs, layer.outputs),
        "depthwise": (layer.kernel, layer.kernel, layer.outputs),
        "pointwise": (layer.inputs, layer.outputs),
        "dense": (layer.inputs, layer.outputs),
    }
    vector = (layer.outputs,)
    if not layer.normalized:
        return {f"{layer.name}/kernel": kernels[layer.kind], f"{layer.name}/bias": vector}, {}
    params = {f"{layer.name}/conv/kernel": kernels[layer.kind]}
    params |= {f"{layer.name}/norm/{name}": vector for name in ("scale", "bias")}
    return params, {f"{layer.name}/norm/{name}": vector for name in ("mean", "var")}


# Only shapes are computed, so every option is cheap.
# A failure is reported as found: to shrink one would trace the network for minutes.
@given(specs(), st.tuples(st.integers(24, 80), st.integers(24, 80)))
@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_walk_and_cost_agree_with_the_network_that_flax_builds(spec, resolution):
    try:
        layers = list(walk(spec, resolution))
    except ValueError as error:
        assert "resolution" in str(error)
        return
    model = models.MobileNet(spec=spec, lowering="grouped")
    images = jax.ShapeDtypeStruct((1, *resolution, 3), jnp.float32)
    logits, variables = jax.eval_shape(
        lambda key, x: model.init_with_output(
            key, x, train=False, mutable=["params", "batch_stats", "intermediates"]
        ),
        jax.random.key(0),
        images,
    )
    params, statistics = {}, {}
    for layer in layers:
        own_params, own_statistics = expected_variables(layer)
        params |= own_params
        statistics |= own_statistics
    assert flat(variables["params"]) == params
    assert flat(variables["batch_stats"]) == statistics

    counted = cost.count(spec, resolution)
    assert counted.params == sum(map(math.prod, params.values()))
    assert counted.statistics == sum(map(math.prod, statistics.values()))

    names = {"stem": "stem_output", "expand": "expanded", "depthwise": "filtered"}
    names |= {"project": "projected", "conv": "conv_output"}
    sown = variables["intermediates"]
    for layer in layers[:-1]:
        path, _, last = layer.name.rpartition("/")
        group = sown[path] if path else sown
        if last == "pointwise":
            found = sown[f"{path}_output"]
        else:
            found = group[names.get(last, f"{last}_output")]
        assert found[0].shape == (1, *layer.output_size, layer.outputs), layer.name
    assert logits.shape == (1, spec.head.num_classes)
