"""Each layer alone, compiled and not, against lax, torch's rules and the papers' formulas."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ACTIVATIONS, conv_norm, dense, hard_sigmoid, squeeze_excite
from flax import linen as nn
from jax import lax
from small_networks import compiled_or_not, images_of, random_variables, run

from mnet_jax import models
from mnet_jax.architectures.dialects import dialect_of
from mnet_jax.ops import activate, relu6

pytestmark = pytest.mark.usefixtures("quickly_compiled")
NUMBERS = ("NHWC", "HWIO", "NHWC")


@compiled_or_not
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding"),
    [
        (3, 1, 1, "same"),
        (3, 2, 1, "same"),
        (5, 2, 1, "same"),
        (3, 1, 2, "same"),
        (3, 1, 3, "same"),
        (3, 1, 2, "symmetric"),
    ],
)
def test_depthwise_conv_is_laxs_grouped_convolution(kernel, stride, dilation, padding, compiled):
    x = images_of(2, 9, 8, 5)
    layer = models.DepthwiseConv(kernel=kernel, stride=stride, dilation=dilation, padding=padding)
    variables = random_variables(layer, x)
    expected = lax.conv_general_dilated(
        x,
        variables["params"]["kernel"][:, :, None, :],
        (stride, stride),
        "SAME" if padding == "same" else [(dilation, dilation)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=NUMBERS,
        feature_group_count=5,
    )
    chex.assert_trees_all_close(run(compiled, layer.apply, variables, x), expected, atol=1e-5)


@compiled_or_not
def test_pointwise_conv_is_laxs_1x1_convolution(compiled):
    x = images_of(2, 5, 4, 6)
    layer = models.PointwiseConv(outputs=10)
    variables = random_variables(layer, x)
    kernel = variables["params"]["kernel"][None, None]
    expected = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=NUMBERS)
    chex.assert_trees_all_close(run(compiled, layer.apply, variables, x), expected, atol=1e-5)


@compiled_or_not
def test_dilated_full_convolution_is_the_one_by_hand(compiled):
    x = images_of(2, 9, 8, 5)
    dialect = dialect_of("mobilenet_v4", "timm")
    layer = models.ConvNorm(7, 3, dilation=2, setting=models.Setting(dialect=dialect))
    variables = random_variables(layer, x, train=False)
    expected = conv_norm(x, variables, "", dialect, dilation=2)
    ours = run(compiled, lambda v, x: layer.apply(v, x, train=False), variables, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


@compiled_or_not
def test_squeeze_excite_is_its_two_dense_layers_and_a_gate(compiled):
    x = 2 * images_of(3, 5, 4, 16)
    layer = models.SqueezeExcite(squeeze=4)
    variables = random_variables(layer, x)
    params = jax.tree.map(lambda v: 3 * v, variables["params"])  # gates at 0, 1 and between
    expected = squeeze_excite(x, params)
    ours = run(compiled, layer.apply, {"params": params}, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    gates = expected[:, 0, 0] / x[:, 0, 0]
    assert (gates == 0).any() and (gates > 0.99).any() and ((gates > 0) & (gates < 0.9)).any()


@compiled_or_not
@pytest.mark.parametrize("activation", ["linear", "relu", "hard_swish"])
def test_dense_layer_has_a_bias_and_an_activation(activation, compiled):
    x = images_of(5, 12)
    layer = models.Dense(9, activation=activation)
    variables = random_variables(layer, x)
    expected = ACTIVATIONS[activation](dense(x, variables["params"]))
    ours = run(compiled, layer.apply, variables, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@compiled_or_not
@pytest.mark.parametrize("activation", ["relu", "hard_swish"])
def test_pointwise_layer_takes_images_that_are_pooled(activation, compiled):
    x = images_of(5, 12)
    dialect = dialect_of("mobilenet_v4", "timm")
    layer = models.ConvNorm(9, activation=activation, setting=models.Setting(dialect=dialect))
    variables = random_variables(layer, x, train=False)
    expected = conv_norm(x, variables, "", dialect, activation=activation)
    ours = run(compiled, lambda v, x: layer.apply(v, x, train=False), variables, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [models.Dense(9), models.ConvNorm(9)])
def test_layer_of_pooled_images_has_a_gradient_in_training_too(layer):
    mode = {"train": True} if isinstance(layer, models.ConvNorm) else {}
    x = images_of(8, 12)
    variables = random_variables(layer, x, **mode)

    def loss(params, x):
        y, _ = layer.apply(variables | {"params": params}, x, **mode, mutable=["batch_stats"])
        return jnp.sin(y).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1)))(variables["params"], x)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert bool(jnp.isfinite(leaf).all()) and float(jnp.abs(leaf).max()) > 0, path


SIGNALS = np.array([-50, -3.5, -3, -2.9, -1.5, -0.0, 0, 1e-3, 1.5, 3, 3.5, 6, 50], np.float32)


@compiled_or_not
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_formulas(name, compiled):
    ours = run(compiled, lambda x: activate(x, name), SIGNALS)
    np.testing.assert_allclose(ours, ACTIVATIONS[name](SIGNALS), rtol=1e-6, atol=1e-6)


@compiled_or_not
def test_hard_swish_and_its_gradient_are_the_papers(compiled):
    """x ReLU6(x + 3) / 6 (V3 paper, section 5.2), so 0 to -3 and x from 3 on."""
    x = SIGNALS
    ours = run(compiled, nn.hard_sigmoid, x)
    np.testing.assert_allclose(ours, hard_sigmoid(x), rtol=1e-6, atol=1e-7)

    def swish(x):
        return activate(x, "hard_swish")

    values, slopes = run(compiled, jax.vmap(jax.value_and_grad(swish)), x)
    assert (values[:3] == 0).all() and np.allclose(values[-4:], x[-4:])
    expected = np.where(np.abs(x) < 3, (2 * x + 3) / 6, x > 0)
    corners = np.abs(x) == 3
    np.testing.assert_allclose(slopes[~corners], expected[~corners], rtol=1e-5, atol=1e-6)


@compiled_or_not
def test_relu6_and_its_gradient_are_torchs(compiled):
    """Slope 1 strictly inside (0, 6), and 0 at both corners."""
    x = np.array([-7, -1e-3, -0.0, 0, 1e-3, 3, 5.999, 6, 6.001, 40], np.float32)
    y, gradient = run(compiled, jax.vmap(jax.value_and_grad(relu6)), x)
    np.testing.assert_array_equal(y, np.minimum(np.maximum(x, 0), 6))
    np.testing.assert_array_equal(gradient, ((x > 0) & (x < 6)).astype(np.float32))
