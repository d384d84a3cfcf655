"""An inverted residual as one operation: against NumPy in float64, and layer by layer."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ACTIVATIONS
from depthwise_taps import needs_compiler
from depthwise_taps import oracle as depthwise
from small_networks import quick_jit

from mnet_jax import ops
from mnet_jax.ops import native

CALL = "mnet_inverted_forward"
pytestmark = [needs_compiler, pytest.mark.usefixtures("quickly_compiled")]


@pytest.fixture(autouse=True, scope="module")
def built():
    native.build()


def block(shape, expanded, outputs, *, kernel=3, activation="relu6", bottleneck="linear", seed=0):
    """x [b, h, w, c] and the three folded layers; without an expansion if c is `expanded`."""
    rng = np.random.default_rng(seed)

    def folded(size, activation):
        kernel, bias = rng.normal(size=size), rng.normal(size=size[-1])
        kernel = jnp.asarray(kernel, jnp.float32)
        finish = ops.Finish(bias=jnp.asarray(bias, jnp.float32), activation=activation)
        return ops.FoldedConv(ops.pack(kernel) if len(size) == 2 else kernel, finish)

    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    expands = shape[-1] != expanded
    return (
        x,
        folded((shape[-1], expanded), activation) if expands else None,
        folded((kernel, kernel, expanded), activation),
        folded((expanded, outputs), bottleneck),
    )


def by_hand(x, expand, filtering, project, *, strides=1, padding="SAME", skip=None):
    def finished(y, layer):
        return ACTIVATIONS[layer.finish.activation](y + np.asarray(layer.finish.bias, np.float64))

    def pointwise(z, layer):
        kernel = ops.unpack(layer.kernel, z.shape[-1], layer.finish.bias.shape[0])
        return finished(z @ np.asarray(kernel, np.float64), layer)

    z = np.asarray(x, np.float64)
    if expand:
        z = pointwise(z, expand)
    z = finished(depthwise(z, filtering.kernel, (strides, strides), padding), filtering)
    y = pointwise(z, project)
    return y if skip is None else y + np.asarray(skip, np.float64)


def calls(function, *arguments, platform="cpu"):
    """How often the kernel is in what a function is lowered to."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
    return len(re.findall(f"@{CALL}", lowered.as_text()))


@pytest.mark.parametrize("lowering", ["native", "auto", "shifted"])
@pytest.mark.parametrize(
    ("shape", "expanded", "outputs", "options", "padding", "strides"),
    [
        ((1, 14, 14, 64), 384, 64, {}, "SAME", 1),  # whole vectors, one of V2's
        ((2, 9, 11, 5), 30, 7, {"activation": "hard_swish"}, "SAME", 1),
        ((2, 21, 19, 5), 30, 7, {"kernel": 5}, "SAME", 2),
        ((3, 13, 10, 16), 16, 12, {"activation": "relu", "kernel": 5}, ((0, 1), (2, 0)), 1),
        ((2, 28, 28, 17), 17, 17, {}, "VALID", 1),  # without an expansion
        ((1, 3, 9, 8), 49, 100, {"activation": "linear"}, ((0, 0), (1, 1)), 1),  # three panels
        ((1, 4, 60, 3), 8, 8, {}, "SAME", 1),  # more columns than are projected at a time
    ],
)
def test_values(shape, expanded, outputs, options, padding, strides, lowering):
    arguments = block(shape, expanded, outputs, **options)
    one = partial(ops.inverted_residual, strides=strides, padding=padding, lowering=lowering)
    wanted = by_hand(*arguments, strides=strides, padding=padding)
    skip = jnp.asarray(np.random.default_rng(1).normal(size=wanted.shape), jnp.float32)
    for added in (None, skip):
        expected = wanted if added is None else wanted + np.asarray(added, np.float64)
        found = one(*arguments, skip=added)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert calls(one, *arguments) == (lowering != "shifted")


def test_every_image_and_thread_has_its_own_rows():
    arguments = block((5, 16, 12, 8), 24, 8)
    x, *layers = arguments
    together = ops.inverted_residual(x, *layers, skip=x, lowering="native")
    for i in range(len(x)):
        image = x[i : i + 1]
        alone = ops.inverted_residual(image, *layers, skip=image, lowering="native")
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "activations", [("relu", "hard_swish", "linear"), ("relu6", "linear", "relu6")]
)
def test_each_layer_has_its_own_activation_and_the_shortcut_goes_past_the_last(activations):
    x, *layers = block((1, 14, 14, 8), 24, 8)
    layers = [
        ops.FoldedConv(kernel, ops.Finish(bias=finish.bias, activation=activation))
        for (kernel, finish), activation in zip(layers, activations, strict=True)
    ]
    one = partial(ops.inverted_residual, skip=x, lowering="native")
    assert calls(one, x, *layers) == 1
    wanted = by_hand(x, *layers, skip=x)
    np.testing.assert_allclose(one(x, *layers), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "arguments",
    [block((1, 7, 7, 8), 24, 8), block((1, 14, 14, 8), 24, 8, kernel=7)],
    ids=["few columns", "a window of another size"],
)
def test_what_the_kernel_is_not_for_goes_layer_by_layer(arguments):
    assert calls(partial(ops.inverted_residual, lowering="auto"), *arguments) == 0
    wanted = by_hand(*arguments)
    found = ops.inverted_residual(*arguments)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("lowering", ["native", "shifted"])
def test_what_does_not_fit_is_refused(lowering):
    x, expand, filtering, project = block((1, 14, 14, 8), 24, 8)
    refused = partial(ops.inverted_residual, lowering=lowering)
    other = block((1, 14, 14, 9), 40, 30)
    with pytest.raises(
        ValueError, match=r"kernel: got 256, legal: 288 numbers in panels of 9 x 24"
    ):
        refused(other[0], expand, filtering, project)
    with pytest.raises(ValueError, match="got"):
        refused(x, expand, other[2], project)
    with pytest.raises(ValueError, match="got"):
        refused(x, expand, filtering, other[3])
    with pytest.raises(ValueError, match="got"):
        refused(x, None, filtering, project)
    with pytest.raises(ValueError, match=r"skip: got \(1, 7, 7, 8\), legal: \(1, 14, 14, 8\)"):
        refused(x, expand, filtering, project, skip=x[:, ::2, ::2])


def test_gradients_are_those_of_the_layers():
    arguments = block((2, 9, 10, 6), 20, 6)

    def loss(lowering, x, *layers):
        y = ops.inverted_residual(x, *layers, skip=x, lowering=lowering)
        return jnp.sum(jnp.sin(y))

    one, layers = (
        quick_jit(jax.grad(partial(loss, lowering), argnums=(0, 1, 2, 3)))(*arguments)
        for lowering in ("native", "shifted")
    )
    chex.assert_trees_all_close(one, layers, rtol=1e-4, atol=1e-4)


def test_auto_is_portable():
    arguments = block((1, 14, 14, 8), 24, 8)
    for platform in ("tpu", "cuda"):
        assert calls(partial(ops.inverted_residual, lowering="auto"), *arguments,
                     platform=platform) == 0  # fmt: skip
