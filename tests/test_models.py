"""The Linen modules, against NumPy, lax and hand-written compositions of their parameters."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from mnet_jax import architectures, models
from mnet_jax.architectures import FACTORIES, transforms
from mnet_jax.architectures.dialects import dialect_of
from mnet_jax.architectures.shapes import pad_amounts
from mnet_jax.models.layers import activate, kernel_init, relu6
from mnet_jax.models.network import Hidden

KEY = jax.random.key(0)


def selected(spec, indices):
    """Some blocks of a network, with a head that fits: cheap to compile, alike in all else."""
    blocks = tuple(spec.blocks[i] for i in indices)
    conv, hidden = spec.head.conv, spec.head.hidden
    if conv:
        conv = dataclasses.replace(conv, inputs=blocks[-1].outputs, outputs=24)
    if hidden:
        hidden = dataclasses.replace(hidden, channels=20)
    head = dataclasses.replace(spec.head, conv=conv, hidden=hidden)
    return dataclasses.replace(spec, blocks=blocks, head=head)


def shortened(spec, count=6):
    return selected(spec, range(count))


def small_v1(**options):
    return shortened(architectures.mobilenet_v1(width=0.25, num_classes=7, **options))


def small_v2(*, shortcut="bottleneck", **options):
    """Blocks 2, 4 and 5 keep their shape; 2 leads into a strided block, 4 into 5."""
    options = {"width": 0.5, "num_classes": 7} | options
    plain = shortened(architectures.mobilenet_v2(shortcut="none", **options))
    return transforms.with_shortcut(plain, shortcut)


def small_v3(**options):
    """Two blocks without squeeze-and-excitation between four with it; ReLU, then h-swish."""
    options = {"width": 0.5, "num_classes": 7} | options
    return shortened(architectures.mobilenet_v3("small", **options))


def small_v4(**options):
    """Fused, three of two depthwise kernels, one of the first alone, one of none."""
    options = {"width": 0.25, "num_classes": 7} | options
    return selected(architectures.mobilenet_v4("conv_medium", **options), (0, 1, 2, 3, 8, 9))


SMALL = {"v1": small_v1, "v2": small_v2, "v3": small_v3, "v4": small_v4}


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def random_variables(module, *arguments, seed=0, **keywords):
    """Every parameter and statistic random and far from its initial value."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: module.init(key, *arguments, **keywords), KEY)

    def value(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = math.prod(leaf.shape[:2] if len(leaf.shape) == 3 else leaf.shape[:-1])
            return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(leaf.dtype)
        low, high = (0.5, 1.5) if name in ("scale", "var") else (-0.5, 0.5)
        return rng.uniform(low, high, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def model_and_variables(spec, size=32, **how):
    model = models.MobileNet(spec=spec, **how)
    return model, random_variables(model, jnp.zeros((1, size, size, 3)), train=False)


def evaluate(model, variables, images):
    """Logits and named activations, in inference."""

    @jax.jit
    def apply(variables, images):
        return model.apply(variables, images, train=False, mutable=["intermediates"])

    logits, state = apply(variables, images)
    return logits, jax.tree.map(lambda v: v[0], state["intermediates"], is_leaf=is_sown)


def is_sown(value):
    return isinstance(value, tuple)


# ---- the layers by hand, from their parameters


def convolve(x, kernel, stride, padding, dilation=1):
    """NumPy: [b, h, w, c] with [kh, kw, c] (depthwise) or [kh, kw, c, outputs]."""
    pads = [
        pad_amounts(padding, k, stride, n, dilation)
        for k, n in zip(kernel.shape[:2], x.shape[1:3], strict=True)
    ]
    reach = [dilation * (k - 1) + 1 for k in kernel.shape[:2]]
    holed = np.zeros((*reach, *kernel.shape[2:]))
    holed[::dilation, ::dilation] = kernel
    kernel, (kh, kw) = holed, reach
    x = np.pad(np.asarray(x, np.float64), [(0, 0), *pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    subscripts = "bhwckl,klc->bhwc" if kernel.ndim == 3 else "bhwckl,klco->bhwo"
    return np.einsum(subscripts, windows, kernel)


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "hard_swish": lambda x: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,  # V3 paper, section 5.2
}


def hard_sigmoid(x):
    return np.minimum(np.maximum(x + 3, 0), 6) / 6


def conv_norm(x, variables, name, dialect, *, stride=1, activation="relu6", dilation=1):
    """A convolution, normalization and activation by hand; `name` is the path of the layer."""
    params, statistics = variables["params"], variables["batch_stats"]
    for part in name.split("/"):
        params, statistics = params[part], statistics[part]
    kernel = np.asarray(params["conv"]["kernel"], np.float64)
    if kernel.ndim == 2:
        x = np.asarray(x, np.float64) @ kernel
    else:
        padding = dialect.depthwise_padding if kernel.ndim == 3 else dialect.padding
        x = convolve(x, kernel, stride, padding, dilation)
    mean, var = (np.asarray(statistics["norm"][key], np.float64) for key in ("mean", "var"))
    scale, bias = (np.asarray(params["norm"][key], np.float64) for key in ("scale", "bias"))
    return ACTIVATIONS[activation]((x - mean) / np.sqrt(var + dialect.norm_epsilon) * scale + bias)


def dense(x, params):
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)


def squeeze_excite(x, params):
    """Mean, dense, ReLU, dense, hard sigmoid, product."""
    mean = np.asarray(x, np.float64).mean((1, 2))
    gate = hard_sigmoid(dense(np.maximum(dense(mean, params["reduce"]), 0), params["expand"]))
    return x * gate[:, None, None, :]


def inverted_residual(x, variables, spec, dialect, prefix=""):
    """The block of V2, V3 and V4 by hand: {name of the activation: value}, the output last."""
    named, y = {}, x
    strides = {"start": 1 if spec.kernel else spec.stride, "depthwise": spec.stride}
    parts = [
        ("start", "started", "linear", spec.start_kernel),
        ("expand", "expanded", spec.activation, spec.expanded != spec.inputs),
        ("depthwise", "filtered", spec.activation, spec.kernel),
        ("squeeze_excite", "weighed", None, spec.squeeze),
        ("project", "projected", spec.bottleneck, True),
    ]
    for part, name, activation, there in parts:
        if not there:
            continue
        if part == "squeeze_excite":
            params = variables["params"][prefix.rstrip("/")] if prefix else variables["params"]
            y = squeeze_excite(y, params[part])
        else:
            y = conv_norm(
                y, variables, prefix + part, dialect, stride=strides.get(part, 1),
                activation=activation, dilation=spec.dilation,
            )  # fmt: skip
        named[name] = y
    return named, x + y if spec.shortcut == "bottleneck" else y


# ---- whole networks


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("train", [False, True])
def test_parameters_statistics_and_logits_are_float32_whatever_the_computation(name, dtype, train):
    model, variables = model_and_variables(SMALL[name](), dtype=dtype)

    def apply(variables, images):
        collections = ["batch_stats", "intermediates"]
        return model.apply(
            variables, images, train=train, mutable=collections, rngs={"dropout": KEY}
        )

    initial = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), KEY
    )
    logits, state = jax.eval_shape(apply, variables, jnp.zeros((2, 32, 40, 3)))
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    chex.assert_trees_all_equal_shapes_and_dtypes(state["batch_stats"], initial["batch_stats"])
    for leaf in jax.tree.leaves(initial):
        assert leaf.dtype == jnp.float32
    assert state["intermediates"]["block_1_output"][0].dtype == dtype


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_logits_are_near_those_of_float32(name):
    spec = SMALL[name]()
    images = images_of(2, 32, 32, 3)
    (model, variables), (half, _) = (
        model_and_variables(spec, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)
    )
    exact, rounded = (evaluate(m, variables, images)[0] for m in (model, half))
    scale = float(jnp.abs(exact).max())
    assert 0 < float(jnp.abs(exact - rounded).max()) < 0.1 * scale  # 2**-8 a layer, 10 to 20 layers


@pytest.mark.parametrize("name", SMALL)
def test_training_moves_statistics_towards_the_batch_and_inference_leaves_them(name):
    spec = SMALL[name](norm_momentum=0.75, dialect="paper" if name == "v4" else "keras")
    model, variables = model_and_variables(spec)
    images = images_of(4, 32, 32, 3)
    apply = jax.jit(model.apply, static_argnames=("train", "mutable"))
    rngs = {"dropout": KEY}
    _, trained = apply(variables, images, train=True, mutable=("batch_stats",), rngs=rngs)
    _, kept = apply(variables, images, train=False, mutable=("batch_stats",))
    chex.assert_trees_all_equal(kept["batch_stats"], variables["batch_stats"])

    kernel = variables["params"]["stem"]["conv"]["kernel"]
    batch = convolve(images, kernel, 2, "same")
    before, after = (v["batch_stats"]["stem"]["norm"] for v in (variables, trained))
    for key, of_batch in (("mean", batch.mean((0, 1, 2))), ("var", batch.var((0, 1, 2)))):
        expected = 0.75 * before[key] + 0.25 * of_batch
        np.testing.assert_allclose(after[key], expected, rtol=1e-4, atol=1e-5)
    for old, new in zip(
        *(jax.tree.leaves(v["batch_stats"]) for v in (variables, trained)), strict=True
    ):
        assert not np.allclose(old, new)


def test_dropout_scales_or_drops_pooled_features_by_its_key_and_in_training_alone():
    model, variables = model_and_variables(small_v2(dropout=0.5))
    images = images_of(2, 32, 32, 3)

    @jax.jit
    def train(key):
        mutable = ["batch_stats", "intermediates"]
        logits, state = model.apply(
            variables, images, train=True, mutable=mutable, rngs={"dropout": key}
        )
        return logits, state["intermediates"]["head"]["pooled"][0]

    (first, pooled), (again, _), (other, _) = (train(jax.random.key(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    classifier = variables["params"]["head"]["classifier"]
    undropped = pooled @ classifier["kernel"] + classifier["bias"]
    assert not np.allclose(first, undropped)
    logits, named = evaluate(model, variables, images)
    expected = named["head"]["pooled"] @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_dropout_0_needs_nothing_random():
    model, variables = model_and_variables(small_v1(dropout=0.0))
    apply = jax.jit(
        lambda: model.apply(variables, images_of(2, 32, 32, 3), train=True, mutable=True)
    )
    logits, _ = apply()
    assert bool(jnp.isfinite(logits).all())


@pytest.mark.parametrize(
    ("dialect", "activation"), [("paper", "relu"), ("keras", "relu6"), ("timm", "relu6")]
)
def test_v1_is_its_layers_composed_by_hand(dialect, activation):
    spec = small_v1(dialect=dialect, activation=activation)
    model, variables = model_and_variables(spec)
    images = images_of(2, 33, 32, 3)
    logits, named = evaluate(model, variables, images)

    def layer(x, name, stride=1):
        return conv_norm(x, variables, name, spec.dialect, stride=stride, activation=activation)

    x = layer(images, "stem", stride=2)
    np.testing.assert_allclose(named["stem_output"], x, rtol=1e-4, atol=1e-4)
    for i, block in enumerate(spec.blocks):
        x = layer(x, f"block_{i}/depthwise", stride=block.stride)
        np.testing.assert_allclose(named[f"block_{i}"]["filtered"], x, rtol=1e-4, atol=1e-4)
        x = layer(x, f"block_{i}/pointwise")
        np.testing.assert_allclose(named[f"block_{i}_output"], x, rtol=1e-4, atol=1e-4)
    pooled = x.mean((1, 2))
    np.testing.assert_allclose(named["head"]["pooled"], pooled, rtol=1e-4, atol=1e-4)
    classifier = variables["params"]["head"]["classifier"]
    expected = pooled @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("shortcut", "bottleneck"),
    [("bottleneck", "linear"), ("none", "linear"), ("expansion", "linear"), ("expansion", "relu6")],
)
def test_v2_is_its_layers_composed_by_hand(shortcut, bottleneck):
    """`expansion` adds one block's filtered tensor to the next one's expanded tensor (Fig. 6b)."""
    spec = small_v2(shortcut=shortcut, bottleneck=bottleneck)
    model, variables = model_and_variables(spec)
    images = images_of(2, 33, 32, 3)
    logits, named = evaluate(model, variables, images)

    def layer(x, name, stride=1, activation="relu6"):
        return conv_norm(x, variables, name, spec.dialect, stride=stride, activation=activation)

    def check(ours, expected):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)

    x = layer(images, "stem", stride=2)
    carried = []
    for i, block in enumerate(spec.blocks):
        wide = x
        if i:
            wide = layer(x, f"block_{i}/expand")
            check(named[f"block_{i}"]["expanded"], wide)
        if carried:
            wide = wide + carried.pop()
        wide = layer(wide, f"block_{i}/depthwise", stride=block.stride)
        check(named[f"block_{i}"]["filtered"], wide)
        y = layer(wide, f"block_{i}/project", activation=bottleneck)
        check(named[f"block_{i}"]["projected"], y)
        if shortcut == "expansion" and i in (2, 4):
            carried.append(wide)
        x = x + y if shortcut == "bottleneck" and i in (2, 4, 5) else y
        check(named[f"block_{i}_output"], x)
    x = layer(x, "head/conv")
    check(named["head"]["conv_output"], x)
    classifier = variables["params"]["head"]["classifier"]
    expected = x.mean((1, 2)) @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def check_by_hand(spec, size):
    """A V3 or V4 network: every named activation and the logits."""
    model, variables = model_and_variables(spec)
    images = images_of(2, *size, 3)
    logits, named = evaluate(model, variables, images)
    dialect = spec.dialect

    def check(ours, expected, tolerance=2e-4):
        scale = max(np.abs(expected).max(), 1)
        np.testing.assert_allclose(ours / scale, expected / scale, atol=tolerance)

    x = conv_norm(images, variables, "stem", dialect, stride=2, activation=spec.stem.activation)
    check(named["stem_output"], x)
    for i, block in enumerate(spec.blocks):
        if isinstance(block, architectures.FusedInvertedResidual):
            x = conv_norm(
                x, variables, f"block_{i}/expand", dialect, stride=block.stride,
                activation=block.activation,
            )  # fmt: skip
            check(named[f"block_{i}"]["expanded"], x)
            x = conv_norm(x, variables, f"block_{i}/project", dialect, activation=block.bottleneck)
            check(named[f"block_{i}"]["projected"], x)
        elif isinstance(block, architectures.ConvNorm):
            how = {"stride": block.stride, "activation": block.activation}
            x = conv_norm(x, variables, f"block_{i}", dialect, **how)
        else:
            inside, x = inverted_residual(x, variables, block, dialect, f"block_{i}/")
            assert named[f"block_{i}"].keys() == inside.keys()
            for name, value in inside.items():
                check(named[f"block_{i}"][name], value)
        check(named[f"block_{i}_output"], x)
    x = conv_norm(x, variables, "head/conv", dialect, activation=spec.head.conv.activation)
    check(named["head"]["conv_output"], x)
    x = x.mean((1, 2))
    check(named["head"]["pooled"], x)
    params = variables["params"]["head"]
    if spec.head.hidden.normalized:
        x = conv_norm(x, variables, "head/hidden", dialect, activation="relu")
    else:
        x = ACTIVATIONS[spec.head.hidden.activation](dense(x, params["hidden"]))
    check(named["head"]["hidden_output"], x)
    check(logits, dense(x, params["classifier"]), 1e-3)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (33, 32)),
        ({"dialect": "torchvision", "bottleneck": "relu6"}, (32, 33)),
        ({"dialect": "keras", "minimalistic": True, "shortcut": "none"}, (32, 32)),
    ],
)
def test_v3_is_its_layers_composed_by_hand(options, size):
    check_by_hand(small_v3(**options), size)


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, (33, 32)), ({"dialect": "timm", "bottleneck": "relu6"}, (32, 33))],
)
def test_v4_is_its_layers_composed_by_hand(options, size):
    check_by_hand(small_v4(**options), size)


def test_v4s_pairs_of_convolutions_and_dilation_composed_by_hand():
    plain = architectures.mobilenet_v4("conv_small", width=0.25, num_classes=7)
    spec = selected(plain, (0, 1, 2, 3, 4, 5, 9))
    blocks = [
        dataclasses.replace(block, stride=1, dilation=2 if i > 4 else 1) if i > 3 else block
        for i, block in enumerate(spec.blocks)
    ]
    check_by_hand(dataclasses.replace(spec, blocks=tuple(blocks)), (40, 49))


def test_relu6_bottleneck_is_within_0_and_6_before_the_addition_and_a_linear_one_is_not():
    images = images_of(2, 32, 32, 3)
    ranges = {}
    for bottleneck in ("relu6", "linear"):
        _, named = evaluate(*model_and_variables(small_v2(bottleneck=bottleneck)), images)
        projected = [named[f"block_{i}"]["projected"] for i in range(6)]
        ranges[bottleneck] = min(map(jnp.min, projected)), max(map(jnp.max, projected))
        block, before = named["block_2"]["projected"], named["block_1_output"]
        chex.assert_trees_all_close(named["block_2_output"], before + block, atol=1e-5)
    assert ranges["relu6"][0] >= 0 and ranges["relu6"][1] <= 6
    assert ranges["linear"][0] < 0


def test_no_shortcut_is_the_bottleneck_shortcut_minus_the_identity():
    """Equal parameters agree until the first identity, and then differ by its input."""
    images = images_of(2, 32, 32, 3)
    with_identity, variables = model_and_variables(small_v2())
    without = models.MobileNet(spec=small_v2(shortcut="none"))
    _, a = evaluate(with_identity, variables, images)
    _, b = evaluate(without, variables, images)
    chex.assert_trees_all_close(a["block_1_output"], b["block_1_output"], atol=1e-5)
    identity = a["block_2_output"] - b["block_2_output"]
    chex.assert_trees_all_close(identity, a["block_1_output"], atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_lowerings_give_equal_logits(name):
    """Within 1e-5 of the largest logit: sums of nine products in another order."""
    images = images_of(2, 32, 33, 3)
    logits = {}
    for lowering in ("grouped", "shifted"):
        model, variables = model_and_variables(SMALL[name](), lowering=lowering)
        logits[lowering], _ = evaluate(model, variables, images)
    difference = jnp.abs(logits["shifted"] - logits["grouped"]).max()
    assert difference <= 1e-5 * jnp.abs(logits["grouped"]).max()


@pytest.mark.parametrize("name", SMALL)
def test_inference_treats_every_image_alone(name):
    model, variables = model_and_variables(SMALL[name]())
    images = images_of(3, 32, 32, 3)
    batched, _ = evaluate(model, variables, images)
    single = jax.jit(jax.vmap(lambda x: model.apply(variables, x[None], train=False)[0]))(images)
    np.testing.assert_allclose(batched, single, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_gradient_is_the_slope_of_the_loss_and_reaches_every_parameter(name):
    """ReLU keeps the loss smooth enough, away from its corners, for a central difference."""
    spec = transforms.with_activation(SMALL[name](), "relu")
    model, variables = model_and_variables(shortened(spec, 3))
    images = images_of(4, 32, 32, 3)

    @jax.jit
    def loss(params):
        logits = model.apply(variables | {"params": params}, images, train=False)
        return jnp.mean(nn.log_softmax(logits)[:, 0])

    params = variables["params"]
    gradient = jax.jit(jax.grad(loss))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert float(jnp.abs(leaf).max()) > 0, path
    norm = math.sqrt(sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(gradient)))
    step = 1e-3
    high, low = (
        loss(jax.tree.map(lambda p, g, s=s: p + s * g / norm, params, gradient))
        for s in (step, -step)
    )
    assert float(high - low) / (2 * step) == pytest.approx(norm, rel=0.05)


@pytest.mark.parametrize("method", ["__call__", "features"])
@pytest.mark.parametrize("network", FACTORIES)
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((32, 32, 3), "[b, h, w, 3]"),
        ((1, 1, 32, 32, 3), "[b, h, w, 3]"),
        ((1, 32, 32, 1), "[b, h, w, 3]"),
        ((1, 3, 32, 32), "[b, h, w, 3]"),
        ((1, 0, 32, 3), "1 pixel or more"),
    ],
)
def test_wrong_images_are_one_line(shape, words, network, method):
    model = getattr(models, network)(width=0.25)
    with pytest.raises(ValueError) as caught:
        jax.eval_shape(lambda x: model.init(KEY, x, train=False, method=method), jnp.zeros(shape))
    (message,) = str(caught.value).splitlines()
    assert "got" in message and "legal" in message and words in message


def test_images_that_leave_a_layer_nothing_are_one_line():
    model = models.mobilenet_v1(width=0.25, dialect="keras")
    with pytest.raises(ValueError) as caught:
        jax.eval_shape(lambda x: model.init(KEY, x, train=False), jnp.zeros((1, 4, 64, 3)))
    (message,) = str(caught.value).splitlines()
    assert "got" in message and "legal" in message and "large enough" in message


# ---- backbones

# The channels of the last map of each stride, from the papers' tables; the head's layer last.
MAPS = {
    "mobilenet_v1": {2: 64, 4: 128, 8: 256, 16: 512, 32: 1024},
    "mobilenet_v2": {2: 16, 4: 24, 8: 32, 16: 96, 32: 1280},
    "mobilenet_v3_large": {2: 16, 4: 24, 8: 40, 16: 112, 32: 960},
    "mobilenet_v3_small": {2: 16, 4: 16, 8: 24, 16: 48, 32: 576},
    "mobilenet_v4_conv_small": {2: 32, 4: 32, 8: 64, 16: 96, 32: 960},
    "mobilenet_v4_conv_medium": {2: 32, 4: 48, 8: 80, 16: 160, 32: 960},
    "mobilenet_v4_conv_large": {2: 24, 4: 48, 8: 96, 16: 192, 32: 960},
}


def map_shapes(model, size, train=False):
    def features(images):
        maps, _ = model.init_with_output(KEY, images, train=train, method="features")
        return maps

    return jax.eval_shape(features, jnp.zeros((2, *size, 3)))


@pytest.mark.parametrize("network", FACTORIES)
def test_features_are_the_last_map_of_each_stride(network):
    model = getattr(models, network)(lowering="grouped", dtype=jnp.bfloat16)
    for size in ((64, 96), (65, 71)):
        maps = map_shapes(model, size)
        shapes = {stride: x.shape for stride, x in maps.items()}
        assert shapes == {
            stride: (2, *(-(-n // stride) for n in size), channels)
            for stride, channels in MAPS[network].items()
        }
        assert list(shapes) == sorted(shapes)
        assert {x.dtype for x in maps.values()} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("network", FACTORIES)
def test_backbone_stops_at_its_output_stride_with_the_same_variables(network, output_stride):
    model = getattr(models, network)(lowering="grouped")
    backbone = model.as_backbone(output_stride=output_stride)
    shapes = {stride: x.shape for stride, x in map_shapes(backbone, (65, 96), train=True).items()}
    expected = {
        stride: (2, -(-65 // stride), 96 // stride, channels)
        for stride, channels in MAPS[network].items()
        if stride <= output_stride
    }
    last = MAPS[network][32]
    expected[output_stride] = (2, -(-65 // output_stride), 96 // output_stride, last)
    assert shapes == expected

    def variables(model):
        return jax.eval_shape(lambda x: model.init(KEY, x, train=False), jnp.zeros((1, 32, 32, 3)))

    chex.assert_trees_all_equal_shapes(variables(model), variables(backbone))
    assert backbone.dtype == model.dtype and backbone.lowering == model.lowering


@pytest.mark.parametrize("network", FACTORIES)
def test_reduced_tail_halves_the_coarsest_map_and_leaves_the_finer_ones(network):
    model = getattr(models, network)(lowering="grouped")
    for output_stride in (32, 16):
        backbone = model.as_backbone(output_stride=output_stride, reduced_tail=True)
        channels = {s: x.shape[-1] for s, x in map_shapes(backbone, (64, 64)).items()}
        expected = {s: c for s, c in MAPS[network].items() if s < output_stride}
        assert channels == expected | {output_stride: MAPS[network][32] / 2}


def test_input_stride_makes_the_strides_of_the_maps_smaller():
    model = models.mobilenet_v3_small(input_stride=1, lowering="grouped")
    sizes = {stride: x.shape[1] for stride, x in map_shapes(model, (32, 32)).items()}
    assert sizes == {1: 32, 2: 16, 4: 8, 8: 4}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: models.mobilenet_v2().as_backbone(output_stride=4), "output_stride: got 4, legal"),
        (lambda: models.mobilenet_v4_conv_small().as_backbone(output_stride=64), "legal: 8, 16"),
        (
            lambda: models.MobileNet(spec=shortened(small_v2(), 1)).as_backbone(reduced_tail=True),
            "reduced_tail: mobilenet_v2 has no strided block",
        ),
    ],
)
def test_impossible_backbones_are_one_line(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    (message,) = str(caught.value).splitlines()
    assert words in message


@pytest.mark.parametrize("name", SMALL)
def test_the_coarsest_map_is_what_the_head_pools(name):
    model, variables = model_and_variables(SMALL[name]())
    images = images_of(2, 32, 33, 3)
    _, named = evaluate(model, variables, images)
    maps = jax.jit(lambda v, x: model.apply(v, x, train=False, method="features"))(
        variables, images
    )
    coarsest = maps[max(maps)]
    np.testing.assert_allclose(coarsest.mean((1, 2)), named["head"]["pooled"], rtol=1e-4, atol=1e-5)
    last = {}  # the last block of each stride, counted by hand
    stride = 2
    last[stride] = named["stem_output"]
    for i, block in enumerate(model.spec.blocks):
        stride *= block.stride
        last[stride] = named[f"block_{i}_output"]
    assert maps.keys() == last.keys()
    for stride in list(maps)[:-1]:
        np.testing.assert_allclose(maps[stride], last[stride], rtol=1e-5, atol=1e-5)


def features_of(spec, variables, images, output_stride):
    model = models.MobileNet(spec=spec, lowering="grouped")
    backbone = model.as_backbone(output_stride=output_stride)
    apply = jax.jit(lambda v, x: backbone.apply(v, x, train=False, method="features"))
    return apply(variables, images)


def assert_close_to_scale(a, b, tolerance=1e-4):
    assert a.shape == b.shape
    scale = float(jnp.abs(b).max())
    assert scale > 1e-3
    np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


SYMMETRIC = [(network, "timm") for network in FACTORIES]
SYMMETRIC += [("mobilenet_v2", "torchvision"), ("mobilenet_v3_large", "torchvision")]


@pytest.mark.parametrize(("network", "dialect"), SYMMETRIC)
def test_dilated_maps_are_the_coarse_ones_at_every_second_or_fourth_position(network, dialect):
    """arXiv 1706.05587, section 3.1: a dilated window sees what the strided one saw."""
    options = {"dialect": dialect, "width": 0.35, "num_classes": 5}
    if network.startswith("mobilenet_v3"):
        options["squeeze_excite"] = False  # its mean would be over more positions
    spec = FACTORIES[network](**options)
    _, variables = model_and_variables(spec, lowering="grouped")
    images = images_of(1, 65, 96, 3)  # maps of odd and even sizes
    coarse, finer, finest = (features_of(spec, variables, images, s) for s in (32, 16, 8))
    assert [max(maps) for maps in (coarse, finer, finest)] == [32, 16, 8]
    assert_close_to_scale(finer[16][:, ::2, ::2], coarse[32])
    assert_close_to_scale(finest[8][:, ::4, ::4], coarse[32])
    for stride in (2, 4, 8):
        assert_close_to_scale(finer[stride], coarse[stride])


def test_dilated_maps_differ_under_tensorflows_padding():
    """At even sizes SAME pads a strided window unlike one of stride 1: other positions are seen."""
    spec = architectures.mobilenet_v1(width=0.125)
    _, variables = model_and_variables(spec, lowering="grouped")
    coarse, finer = (features_of(spec, variables, images_of(1, 64, 64, 3), s) for s in (32, 16))
    found = finer[16][:, ::2, ::2]
    assert found.shape == coarse[32].shape
    assert float(jnp.abs(found - coarse[32]).max()) > 0.01 * float(jnp.abs(coarse[32]).max())


# ---- layers by themselves


class TestVariants(chex.TestCase):
    """Each layer alone, compiled and not."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_depthwise_conv_is_laxs_grouped_convolution(self):
        x = images_of(2, 9, 8, 5)
        for kernel, stride in ((3, 1), (3, 2), (5, 2)):
            layer = models.DepthwiseConv(kernel=kernel, stride=stride)
            variables = random_variables(layer, x)
            expected = lax.conv_general_dilated(
                x,
                variables["params"]["kernel"][:, :, None, :],
                (stride, stride),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=5,
            )
            ours = self.variant(layer.apply)(variables, x)
            chex.assert_trees_all_close(ours, expected, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_pointwise_conv_is_laxs_1x1_convolution(self):
        x = images_of(2, 5, 4, 6)
        layer = models.PointwiseConv(outputs=10)
        variables = random_variables(layer, x)
        kernel = variables["params"]["kernel"][None, None]
        expected = lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        chex.assert_trees_all_close(self.variant(layer.apply)(variables, x), expected, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_depthwise_separable_is_its_two_layers(self):
        x = images_of(2, 9, 8, 6)
        block = models.DepthwiseSeparable(outputs=10, kernel=5, stride=2)
        variables = random_variables(block, x, train=False)
        dialect = dialect_of("mobilenet_v1", "paper")
        expected = conv_norm(x, variables, "depthwise", dialect, stride=2)
        expected = conv_norm(expected, variables, "pointwise", dialect)
        ours = self.variant(lambda v, x: block.apply(v, x, train=False))(variables, x)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)

    @chex.variants(with_jit=True, without_jit=True)
    def test_inverted_residual_is_its_three_layers_and_the_identity(self):
        x = images_of(2, 9, 8, 6)
        for expanded, shortcut in ((24, "bottleneck"), (24, "none"), (None, "none")):
            block = models.InvertedResidual(outputs=6, expanded=expanded, shortcut=shortcut)
            variables = random_variables(block, x, train=False)
            dialect = dialect_of("mobilenet_v2", "paper")
            y = conv_norm(x, variables, "expand", dialect) if expanded else x
            y = conv_norm(y, variables, "depthwise", dialect)
            y = conv_norm(y, variables, "project", dialect, activation="linear")
            expected = x + y if shortcut == "bottleneck" else y
            ours = self.variant(lambda v, x, b=block: b.apply(v, x, train=False))(variables, x)
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)

    @chex.variants(with_jit=True, without_jit=True)
    def test_dilated_depthwise_and_full_convolutions_are_laxs(self):
        x = images_of(2, 9, 8, 5)
        numbers = ("NHWC", "HWIO", "NHWC")
        for dilation, padding in ((2, "same"), (3, "same"), (2, "symmetric")):
            layer = models.DepthwiseConv(kernel=3, dilation=dilation, padding=padding)
            variables = random_variables(layer, x)
            expected = lax.conv_general_dilated(
                x,
                variables["params"]["kernel"][:, :, None, :],
                (1, 1),
                "SAME" if padding == "same" else [(2, 2), (2, 2)],
                rhs_dilation=(dilation, dilation),
                dimension_numbers=numbers,
                feature_group_count=5,
            )
            ours = self.variant(layer.apply)(variables, x)
            chex.assert_trees_all_close(ours, expected, atol=1e-5)
        dialect = dialect_of("mobilenet_v4", "timm")
        layer = models.ConvNorm(7, 3, dilation=2, setting=models.Setting(dialect=dialect))
        variables = random_variables(layer, x, train=False)
        wrapped = {key: {"it": value} for key, value in variables.items()}
        expected = conv_norm(x, wrapped, "it", dialect, dilation=2)
        ours = self.variant(lambda v, x: layer.apply(v, x, train=False))(variables, x)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)

    @chex.variants(with_jit=True, without_jit=True)
    def test_squeeze_excite_is_its_two_dense_layers_and_a_gate(self):
        x = 2 * images_of(3, 5, 4, 16)
        layer = models.SqueezeExcite(squeeze=4)
        variables = random_variables(layer, x)
        params = jax.tree.map(lambda v: 3 * v, variables["params"])  # gates at 0, 1 and between
        expected = squeeze_excite(x, params)
        ours = self.variant(layer.apply)({"params": params}, x)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
        gates = expected[:, 0, 0] / x[:, 0, 0]
        assert (gates == 0).any() and (gates > 0.99).any() and ((gates > 0) & (gates < 0.9)).any()

    @chex.variants(with_jit=True, without_jit=True)
    def test_fused_inverted_residual_is_its_two_layers(self):
        x = images_of(2, 9, 8, 6)
        dialect = dialect_of("mobilenet_v4", "paper")
        for kernel, stride, dilation, bottleneck in (
            (3, 2, 1, "linear"), (5, 1, 1, "relu6"), (3, 1, 2, "linear"),
        ):  # fmt: skip
            block = models.FusedInvertedResidual(
                outputs=10, expanded=24, kernel=kernel, stride=stride, dilation=dilation,
                bottleneck=bottleneck,
            )  # fmt: skip
            variables = random_variables(block, x, train=False)
            expected = conv_norm(
                x, variables, "expand", dialect, stride=stride, dilation=dilation, activation="relu"
            )
            expected = conv_norm(expected, variables, "project", dialect, activation=bottleneck)
            ours = self.variant(lambda v, x, b=block: b.apply(v, x, train=False))(variables, x)
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)

    @chex.variants(with_jit=True, without_jit=True)
    def test_universal_inverted_residual_is_its_layers(self):
        """V4's four kinds and V3's, strided and dilated."""
        x = images_of(2, 9, 8, 6)
        dialect = dialect_of("mobilenet_v2", "paper")
        cases = [
            {"start_kernel": 5, "kernel": 3, "shortcut": "bottleneck"},  # ExtraDW
            {"start_kernel": 3, "kernel": 5, "stride": 2, "outputs": 10},
            {"start_kernel": 3, "kernel": 0, "activation": "relu"},  # ConvNext
            {"start_kernel": 5, "kernel": 0, "stride": 2, "outputs": 10},
            {"kernel": 0, "shortcut": "bottleneck"},  # FFN
            {"kernel": 0, "expanded": 6, "outputs": 5},  # one projection alone
            {"kernel": 5, "squeeze": 8, "activation": "hard_swish", "shortcut": "bottleneck"},
            {"kernel": 3, "squeeze": 4, "stride": 2, "expanded": 6, "activation": "relu"},
            {"start_kernel": 3, "kernel": 5, "dilation": 2, "squeeze": 4, "bottleneck": "relu6"},
            {"start_kernel": 3, "kernel": 0, "squeeze": 4, "dilation": 3},
        ]
        for case in cases:
            spec = architectures.InvertedResidual(
                **({"inputs": 6, "expanded": 24, "outputs": 6} | case)
            )
            options = dataclasses.asdict(spec)
            del options["inputs"]
            if spec.expanded == 6:
                options["expanded"] = None
            block = models.InvertedResidual(**options)
            variables = random_variables(block, x, train=False)
            _, expected = inverted_residual(x, variables, spec, dialect)
            ours = self.variant(lambda v, x, b=block: b.apply(v, x, train=False))(variables, x)
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-4, err_msg=str(case))

    @chex.variants(with_jit=True, without_jit=True)
    def test_hidden_layer_has_a_bias_or_a_normalization(self):
        x = images_of(5, 12)
        for normalized, activation in ((False, "hard_swish"), (True, "relu"), (False, "relu")):
            dialect = dialect_of("mobilenet_v4" if normalized else "mobilenet_v3", "timm")
            spec = architectures.Hidden(channels=9, activation=activation, normalized=normalized)
            layer = Hidden(spec, models.Setting(dialect=dialect))
            variables = random_variables(layer, x, train=False)
            if normalized:
                assert variables["params"].keys() == {"conv", "norm"}
                wrapped = {key: {"it": value} for key, value in variables.items()}
                expected = conv_norm(x, wrapped, "it", dialect, activation=activation)
            else:
                assert variables.keys() == {"params"}
                expected = ACTIVATIONS[activation](dense(x, variables["params"]))
            ours = self.variant(lambda v, x, m=layer: m.apply(v, x, train=False))(variables, x)
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_activations_are_their_formulas(self):
        """h-swish is x ReLU6(x + 3) / 6 (V3 paper, section 5.2), so 0 to -3 and x from 3 on."""
        x = np.array([-50, -3.5, -3, -2.9, -1.5, -0.0, 0, 1e-3, 1.5, 3, 3.5, 6, 50], np.float32)
        for name, formula in ACTIVATIONS.items():
            ours = self.variant(lambda x, name=name: activate(x, name))(x)
            np.testing.assert_allclose(ours, formula(x), rtol=1e-6, atol=1e-6)
        swish = self.variant(lambda x: activate(x, "hard_swish"))(x)
        assert (swish[:3] == 0).all() and np.allclose(swish[-4:], x[-4:])
        ours = self.variant(nn.hard_sigmoid)(x)
        np.testing.assert_allclose(ours, hard_sigmoid(x), rtol=1e-6, atol=1e-7)
        slopes = self.variant(jax.vmap(jax.grad(lambda x: activate(x, "hard_swish"))))(x)
        inside = np.abs(x) < 3
        expected = np.where(inside, (2 * x + 3) / 6, x > 0)
        corners = np.abs(x) == 3
        np.testing.assert_allclose(slopes[~corners], expected[~corners], rtol=1e-5, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_relu6_and_its_gradient_are_torchs(self):
        """Slope 1 strictly inside (0, 6), and 0 at both corners."""
        x = np.array([-7, -1e-3, -0.0, 0, 1e-3, 3, 5.999, 6, 6.001, 40], np.float32)
        y, gradient = self.variant(jax.vmap(jax.value_and_grad(relu6)))(x)
        np.testing.assert_array_equal(y, np.minimum(np.maximum(x, 0), 6))
        np.testing.assert_array_equal(gradient, ((x > 0) & (x < 6)).astype(np.float32))


GRADED = {
    "squeeze-excite": (models.SqueezeExcite(squeeze=4), {}),
    "fused": (models.FusedInvertedResidual(outputs=5, expanded=12, stride=2), {"train": False}),
    "ExtraDW": (
        models.InvertedResidual(outputs=6, expanded=12, start_kernel=3, kernel=5, shortcut="none"),
        {"train": False},
    ),
    "ConvNext": (
        models.InvertedResidual(outputs=6, expanded=12, start_kernel=3, kernel=0, stride=2),
        {"train": False},
    ),
    "FFN": (
        models.InvertedResidual(outputs=6, expanded=12, kernel=0, shortcut="bottleneck"),
        {"train": False},
    ),
    "V3": (
        models.InvertedResidual(outputs=6, expanded=12, squeeze=4, activation="hard_swish"),
        {"train": False},
    ),
    "dilated": (
        models.InvertedResidual(outputs=6, expanded=12, start_kernel=3, dilation=2, squeeze=4),
        {"train": False},
    ),
}


@pytest.mark.parametrize("name", GRADED)
def test_every_parameter_and_the_input_of_a_layer_have_a_gradient(name):
    layer, how = GRADED[name]
    x = images_of(3, 7, 6, 6)
    variables = random_variables(layer, x, **how)

    @jax.jit
    def gradients(params, x):
        def loss(params, x):
            return jnp.sin(layer.apply(variables | {"params": params}, x, **how)).sum()

        return jax.grad(loss, (0, 1))(params, x)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(variables["params"], x)):
        assert bool(jnp.isfinite(leaf).all()) and float(jnp.abs(leaf).max()) > 0, path


@pytest.mark.parametrize("normalized", [False, True])
def test_hidden_layer_has_a_gradient_in_training_too(normalized):
    spec = architectures.Hidden(channels=9, activation="hard_swish", normalized=normalized)
    layer = Hidden(spec, models.Setting())
    x = images_of(8, 12)
    variables = random_variables(layer, x, train=False)

    def loss(params, x):
        state = variables | {"params": params}
        y, _ = layer.apply(state, x, train=True, mutable=["batch_stats"])
        return jnp.sin(y).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1)))(variables["params"], x)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert bool(jnp.isfinite(leaf).all()) and float(jnp.abs(leaf).max()) > 0, path


# ---- initialization

SAMPLES = {
    "conv": (3, 3, 64, 96),
    "depthwise": (3, 3, 4096),
    "pointwise": (160, 320),
    "dense": (320, 200),
}
TRUNCATION = 0.8796256610342398  # deviation of a standard normal cut at 2 deviations


def keras_limit(shape, depthwise):
    """Glorot's limit with the fans that Keras counts in a kernel [kh, kw, in, out]."""
    if depthwise:  # DepthwiseConv2D's kernel is [kh, kw, c, multiplier 1]
        shape = (*shape, 1)
    window = math.prod(shape[:-2])
    return math.sqrt(6 / (window * (shape[-2] + shape[-1])))


def expected_deviation(initializer, kind, shape):
    window = math.prod(shape[:2]) if kind in ("conv", "depthwise") else 1
    if initializer == "truncated_normal_0.09":
        return 0.09 * TRUNCATION
    if initializer == "glorot_uniform":
        return keras_limit(shape, kind == "depthwise") / math.sqrt(3)
    if initializer == "variance_scaling":  # Keras' VarianceScaling(1, fan_in, truncated normal)
        return 1 / math.sqrt(window * (1 if kind == "depthwise" else shape[-2]))
    if kind == "dense":  # torchvision normal_(0, 0.01); timm uniform_(-1/sqrt(out), 1/sqrt(out))
        timm = initializer == "normal_group_fan_out"
        return 1 / math.sqrt(shape[-1]) / math.sqrt(3) if timm else 0.01
    if kind == "depthwise" and initializer == "normal_group_fan_out":
        return math.sqrt(2 / window)
    return math.sqrt(2 / (window * shape[-1]))


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize(
    "initializer",
    [
        "truncated_normal_0.09",
        "variance_scaling",
        "glorot_uniform",
        "normal_fan_out",
        "normal_group_fan_out",
    ],
)
def test_initial_kernels_have_the_dialects_deviation(initializer, kind):
    sample = np.asarray(kernel_init(initializer, kind)(KEY, SAMPLES[kind], jnp.float32))
    deviation = expected_deviation(initializer, kind, SAMPLES[kind])
    assert sample.std() == pytest.approx(deviation, rel=0.02)  # 36,864 numbers or more
    assert abs(sample.mean()) < 5 * deviation / math.sqrt(sample.size)
    bounds = {"truncated_normal_0.09": 2 * 0.09, "glorot_uniform": deviation * math.sqrt(3)}
    bounds["variance_scaling"] = 2 * deviation / TRUNCATION
    if initializer in bounds:
        bound = bounds[initializer]
        assert 0.97 * bound < np.abs(sample).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("dialect", ["keras", "timm"])
def test_each_layer_starts_with_its_own_kinds_distribution_and_norms_as_identity(dialect):
    setting = models.Setting(dialect=dialect_of("mobilenet_v2", dialect), lowering="grouped")
    block = models.InvertedResidual(outputs=160, expanded=1024, setting=setting)
    variables = jax.jit(lambda x: block.init(KEY, x, train=False))(jnp.zeros((1, 4, 4, 160)))
    kinds = {"expand": "pointwise", "depthwise": "depthwise", "project": "pointwise"}
    for name, kind in kinds.items():
        params, statistics = (variables[key][name] for key in ("params", "batch_stats"))
        kernel = params["conv"]["kernel"]
        deviation = expected_deviation(setting.dialect.initializer, kind, kernel.shape)
        assert kernel.std() == pytest.approx(deviation, rel=0.05)
        assert (params["norm"]["scale"] == 1).all() and (params["norm"]["bias"] == 0).all()
        assert (statistics["norm"]["mean"] == 0).all() and (statistics["norm"]["var"] == 1).all()


@pytest.mark.parametrize(
    ("version", "dialect"),
    [
        ("mobilenet_v3", "keras"),
        ("mobilenet_v3", "torchvision"),
        ("mobilenet_v3", "timm"),
        ("mobilenet_v4", "paper"),
        ("mobilenet_v4", "timm"),
    ],
)
def test_the_new_layers_start_with_their_own_kinds_distribution(version, dialect):
    """Squeeze-and-excitation is two 1x1 convolutions; so is a hidden layer but torchvision's."""
    setting = models.Setting(dialect=dialect_of(version, dialect), lowering="grouped")
    initializer = setting.dialect.initializer
    x = jnp.zeros((1, 4, 4, 160))

    def check(kernel, kind):
        deviation = expected_deviation(initializer, kind, kernel.shape)
        assert kernel.std() == pytest.approx(deviation, rel=0.06)

    block = models.InvertedResidual(
        outputs=160, expanded=1024, start_kernel=5, kernel=3, squeeze=256, setting=setting
    )
    params = jax.jit(lambda x: block.init(KEY, x, train=False))(x)["params"]
    for part, kind in (("start", "depthwise"), ("expand", "pointwise"), ("depthwise", "depthwise")):
        check(params[part]["conv"]["kernel"], kind)
    for part in ("reduce", "expand"):
        check(params["squeeze_excite"][part]["kernel"], "pointwise")
        assert (params["squeeze_excite"][part]["bias"] == 0).all()
    fused = models.FusedInvertedResidual(outputs=160, expanded=192, setting=setting)
    params = jax.jit(lambda x: fused.init(KEY, x, train=False))(x)["params"]
    check(params["expand"]["conv"]["kernel"], "conv")
    check(params["project"]["conv"]["kernel"], "pointwise")
    spec = architectures.Hidden(
        channels=480, activation="relu", normalized=version == "mobilenet_v4"
    )
    params = Hidden(spec, setting).init(KEY, jnp.zeros((1, 240)), train=False)["params"]
    kernel = params["conv"]["kernel"] if spec.normalized else params["kernel"]
    check(kernel, "dense" if dialect == "torchvision" else "pointwise")
    if not spec.normalized:
        assert (params["bias"] == 0).all()


def test_variance_scaling_is_keras_own(monkeypatch):
    """TensorFlow's Model Garden builds V4 of Keras layers with `VarianceScaling` and no options."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is the oracle")
    theirs = keras.initializers.VarianceScaling(seed=0)
    for kind, shape, of_keras in (
        ("conv", (3, 3, 64, 96), (3, 3, 64, 96)),
        ("pointwise", (160, 320), (160, 320)),
        ("dense", (320, 200), (320, 200)),
    ):
        expected = np.asarray(theirs(of_keras))
        ours = np.asarray(kernel_init("variance_scaling", kind)(KEY, shape, jnp.float32))
        assert ours.std() == pytest.approx(expected.std(), rel=0.02)
        assert np.abs(ours).max() == pytest.approx(np.abs(expected).max(), rel=0.01)


def test_depthwise_glorot_limit_is_that_of_keras_own_layer(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is the oracle")
    keras.utils.set_random_seed(0)
    layer = keras.layers.DepthwiseConv2D(3, use_bias=False)
    layer.build((None, 8, 8, 4096))
    theirs = np.abs(layer.get_weights()[0]).max()
    ours = np.abs(kernel_init("glorot_uniform", "depthwise")(KEY, (3, 3, 4096), jnp.float32)).max()
    assert theirs == pytest.approx(float(ours), rel=0.005)
