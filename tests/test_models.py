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
from mnet_jax.architectures import transforms
from mnet_jax.architectures.dialects import dialect_of
from mnet_jax.architectures.spec import pad_amounts
from mnet_jax.models.layers import kernel_init, relu6

KEY = jax.random.key(0)


def shortened(spec, count=6):
    """The first blocks of a network, with a head that fits: cheap to compile, alike in all else."""
    conv = spec.head.conv
    if conv:
        conv = dataclasses.replace(conv, inputs=spec.blocks[count - 1].outputs, outputs=24)
    head = dataclasses.replace(spec.head, conv=conv)
    return dataclasses.replace(spec, blocks=spec.blocks[:count], head=head)


def small_v1(**options):
    return shortened(architectures.mobilenet_v1(width=0.25, num_classes=7, **options))


def small_v2(*, shortcut="bottleneck", **options):
    """Blocks 2, 4 and 5 keep their shape; 2 leads into a strided block, 4 into 5."""
    options = {"width": 0.5, "num_classes": 7} | options
    plain = shortened(architectures.mobilenet_v2(shortcut="none", **options))
    return transforms.with_shortcut(plain, shortcut)


SMALL = {"v1": small_v1, "v2": small_v2}


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


def convolve(x, kernel, stride, padding):
    """NumPy: [b, h, w, c] with [kh, kw, c] (depthwise) or [kh, kw, c, outputs]."""
    kh, kw = kernel.shape[:2]
    pads = [pad_amounts(padding, k, stride, n) for k, n in zip((kh, kw), x.shape[1:3], strict=True)]
    x = np.pad(np.asarray(x, np.float64), [(0, 0), *pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    subscripts = "bhwckl,klc->bhwc" if kernel.ndim == 3 else "bhwckl,klco->bhwo"
    return np.einsum(subscripts, windows, kernel)


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
}


def conv_norm(x, variables, name, dialect, *, stride=1, activation="relu6"):
    """A convolution, normalization and activation by hand; `name` is the path of the layer."""
    params, statistics = variables["params"], variables["batch_stats"]
    for part in name.split("/"):
        params, statistics = params[part], statistics[part]
    kernel = np.asarray(params["conv"]["kernel"], np.float64)
    if kernel.ndim == 2:
        x = np.asarray(x, np.float64) @ kernel
    else:
        padding = dialect.depthwise_padding if kernel.ndim == 3 else dialect.padding
        x = convolve(x, kernel, stride, padding)
    mean, var = (np.asarray(statistics["norm"][key], np.float64) for key in ("mean", "var"))
    scale, bias = (np.asarray(params["norm"][key], np.float64) for key in ("scale", "bias"))
    return ACTIVATIONS[activation]((x - mean) / np.sqrt(var + dialect.norm_epsilon) * scale + bias)


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
    spec = SMALL[name](norm_momentum=0.75, dialect="keras")
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
    model, variables = model_and_variables(shortened(SMALL[name](activation="relu"), 3))
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


@pytest.mark.parametrize(
    ("shape", "dialect", "words"),
    [
        ((32, 32, 3), "paper", "[b, h, w, 3]"),
        ((1, 1, 32, 32, 3), "paper", "[b, h, w, 3]"),
        ((1, 32, 32, 1), "paper", "[b, h, w, 3]"),
        ((1, 3, 32, 32), "paper", "[b, h, w, 3]"),
        ((1, 4, 64, 3), "keras", "large enough"),
    ],
)
def test_wrong_images_are_one_line(shape, dialect, words):
    model = models.mobilenet_v1(width=0.25, dialect=dialect)
    with pytest.raises(ValueError) as caught:
        jax.eval_shape(lambda x: model.init(KEY, x, train=False), jnp.zeros(shape))
    (message,) = str(caught.value).splitlines()
    assert "got" in message and "legal" in message and words in message


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
    def test_relu6_and_its_gradient_are_torchs(self):
        """Slope 1 strictly inside (0, 6), and 0 at both corners."""
        x = np.array([-7, -1e-3, -0.0, 0, 1e-3, 3, 5.999, 6, 6.001, 40], np.float32)
        y, gradient = self.variant(jax.vmap(jax.value_and_grad(relu6)))(x)
        np.testing.assert_array_equal(y, np.minimum(np.maximum(x, 0), 6))
        np.testing.assert_array_equal(gradient, ((x > 0) & (x < 6)).astype(np.float32))


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
    if kind == "dense":  # torchvision normal_(0, 0.01); timm uniform_(-1/sqrt(out), 1/sqrt(out))
        timm = initializer == "normal_group_fan_out"
        return 1 / math.sqrt(shape[-1]) / math.sqrt(3) if timm else 0.01
    if kind == "depthwise" and initializer == "normal_group_fan_out":
        return math.sqrt(2 / window)
    return math.sqrt(2 / (window * shape[-1]))


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize(
    "initializer",
    ["truncated_normal_0.09", "glorot_uniform", "normal_fan_out", "normal_group_fan_out"],
)
def test_initial_kernels_have_the_dialects_deviation(initializer, kind):
    sample = np.asarray(kernel_init(initializer, kind)(KEY, SAMPLES[kind], jnp.float32))
    deviation = expected_deviation(initializer, kind, SAMPLES[kind])
    assert sample.std() == pytest.approx(deviation, rel=0.02)  # 36,864 numbers or more
    assert abs(sample.mean()) < 5 * deviation / math.sqrt(sample.size)
    bounds = {"truncated_normal_0.09": 2 * 0.09, "glorot_uniform": deviation * math.sqrt(3)}
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


def test_depthwise_glorot_limit_is_that_of_keras_own_layer(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is the oracle")
    keras.utils.set_random_seed(0)
    layer = keras.layers.DepthwiseConv2D(3, use_bias=False)
    layer.build((None, 8, 8, 4096))
    theirs = np.abs(layer.get_weights()[0]).max()
    ours = np.abs(kernel_init("glorot_uniform", "depthwise")(KEY, (3, 3, 4096), jnp.float32)).max()
    assert theirs == pytest.approx(float(ours), rel=0.005)
