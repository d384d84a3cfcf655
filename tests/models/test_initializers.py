"""The initial kernels of each dialect have its library's distribution."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import KEY, quick_jit

from mnet_jax import architectures, models, ops
from mnet_jax.architectures.dialects import dialect_of
from mnet_jax.models.layers import kernel_init
from mnet_jax.models.network import Head

pytestmark = pytest.mark.usefixtures("quickly_compiled")
SAMPLES = {
    "conv": (3, 3, 64, 96),
    "depthwise": (3, 3, 4096),
    "pointwise": (160, 320),
    "dense": (320, 200),
}
TRUNCATION = 0.8796256610342398  # deviation of a standard normal cut at 2 deviations


def drawn(initializer, kind):
    """A kernel, compiled as a whole."""
    init = kernel_init(initializer, kind)
    return np.asarray(quick_jit(lambda key: init(key, SAMPLES[kind], jnp.float32))(KEY))


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
    sample = drawn(initializer, kind)
    deviation = expected_deviation(initializer, kind, SAMPLES[kind])
    assert sample.std() == pytest.approx(deviation, rel=0.02)  # 36,864 numbers or more
    assert abs(sample.mean()) < 5 * deviation / math.sqrt(sample.size)
    bounds = {"truncated_normal_0.09": 2 * 0.09, "glorot_uniform": deviation * math.sqrt(3)}
    bounds["variance_scaling"] = 2 * deviation / TRUNCATION
    if initializer in bounds:
        bound = bounds[initializer]
        assert 0.97 * bound < np.abs(sample).max() <= bound * (1 + 1e-6)


def assert_deviates(kernel, kind, dialect):
    deviation = expected_deviation(dialect.initializer, kind, kernel.shape)
    assert kernel.std() == pytest.approx(deviation, rel=0.05)


dialects = pytest.mark.parametrize(
    ("version", "name"),
    [
        ("mobilenet_v3", "keras"),
        ("mobilenet_v3", "torchvision"),
        ("mobilenet_v3", "timm"),
        ("mobilenet_v4", "paper"),
        # Of the same initializers:
        pytest.param("mobilenet_v2", "keras", marks=pytest.mark.exhaustive),
        pytest.param("mobilenet_v2", "timm", marks=pytest.mark.exhaustive),
        pytest.param("mobilenet_v4", "timm", marks=pytest.mark.exhaustive),
    ],
)


@dialects
def test_each_layer_starts_with_its_own_kinds_distribution_and_norms_as_identity(version, name):
    """Squeeze-and-excitation is two 1x1 convolutions."""
    dialect = dialect_of(version, name)
    setting = models.Setting(dialect=dialect, lowering="grouped")
    block = models.InvertedResidual(
        outputs=160, expanded=1024, start_kernel=5, kernel=3, squeeze=256, setting=setting
    )
    variables = quick_jit(lambda x: block.init(KEY, x, train=False))(jnp.zeros((1, 4, 4, 160)))
    kinds = {"start": "depthwise", "expand": "pointwise"}
    kinds |= {"depthwise": "depthwise", "project": "pointwise"}
    for part, kind in kinds.items():
        params, statistics = (variables[key][part] for key in ("params", "batch_stats"))
        assert_deviates(params["conv"]["kernel"], kind, dialect)
        assert (params["norm"]["scale"] == 1).all() and (params["norm"]["bias"] == 0).all()
        assert (statistics["norm"]["mean"] == 0).all() and (statistics["norm"]["var"] == 1).all()
    for part in variables["params"]["squeeze_excite"].values():
        assert_deviates(part["kernel"], "pointwise", dialect)
        assert (part["bias"] == 0).all()


@dialects
def test_attention_starts_with_glorots_kernels_and_a_small_scale(version, name):
    setting = models.Setting(dialect=dialect_of(version, name), lowering="grouped")
    block = models.Attention(
        heads=4, head_channels=64, downsampling=2, layer_scale=True, setting=setting
    )
    params = quick_jit(lambda x: block.init(KEY, x, train=False))(jnp.zeros((1, 4, 4, 256)))
    params = params["params"]
    assert (params["layer_scale"] == np.float32(1e-5)).all()
    assert (params["input"]["norm"]["scale"] == 1).all()
    kernels = {"pointwise": [params[part]["kernel"] for part in ("query", "output")]}
    kernels["pointwise"] += [params[part]["project"]["kernel"] for part in ("key", "value")]
    kernels["depthwise"] = [
        params[part]["downsample"]["conv"]["kernel"] for part in ("key", "value")
    ]
    for kind, arrays in kernels.items():
        for kernel in arrays:
            deviation = expected_deviation("glorot_uniform", kind, kernel.shape)
            assert kernel.std() == pytest.approx(deviation, rel=0.05)


@dialects
def test_fused_blocks_start_with_full_and_pointwise_convolutions(version, name):
    dialect = dialect_of(version, name)
    setting = models.Setting(dialect=dialect, lowering="grouped")
    fused = models.FusedInvertedResidual(outputs=160, expanded=192, setting=setting)
    x = jnp.zeros((1, 4, 4, 160))
    params = quick_jit(lambda x: fused.init(KEY, x, train=False))(x)["params"]
    assert_deviates(params["expand"]["conv"]["kernel"], "conv", dialect)
    assert_deviates(params["project"]["conv"]["kernel"], "pointwise", dialect)


@dialects
def test_hidden_layers_start_as_1x1_convolutions_but_torchvisions(version, name):
    dialect, normalized = dialect_of(version, name), version == "mobilenet_v4"
    spec = architectures.Hidden(channels=480, activation="relu", normalized=normalized)
    head = architectures.Head(conv=None, hidden=spec, dropout=0.0, num_classes=2)
    x = ops.Pending(x=jnp.zeros((1, 1, 1, 240)))
    layer = Head(head, models.Setting(dialect=dialect))
    params = quick_jit(lambda x: layer.init(KEY, x, train=False))(x)["params"]["hidden"]
    kernel = params["conv"]["kernel"] if normalized else params["kernel"]
    assert_deviates(kernel, "dense" if name == "torchvision" else "pointwise", dialect)
    if not normalized:
        assert (params["bias"] == 0).all()


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras", reason="Keras is the oracle")


@pytest.mark.parametrize("kind", ["conv", "pointwise", "dense"])
def test_variance_scaling_is_keras_own(keras, kind):
    """TensorFlow's Model Garden builds V4 of Keras layers with `VarianceScaling` and no options."""
    theirs = np.asarray(keras.initializers.VarianceScaling(seed=0)(SAMPLES[kind]))
    ours = drawn("variance_scaling", kind)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.01)


def test_depthwise_glorot_limit_is_that_of_keras_own_layer(keras):
    keras.utils.set_random_seed(0)
    layer = keras.layers.DepthwiseConv2D(3, use_bias=False)
    layer.build((None, 8, 8, 4096))
    theirs = np.abs(layer.get_weights()[0]).max()
    ours = np.abs(drawn("glorot_uniform", "depthwise")).max()
    assert theirs == pytest.approx(float(ours), rel=0.005)
