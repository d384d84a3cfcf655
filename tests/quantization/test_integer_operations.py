"""Each int8 operation equals LiteRT's reference kernel to the last bit."""

import functools

import jax
import jax.numpy as jnp
import litert_files
import numpy as np
import pytest
from jax import lax
from litert_files import DELEGATED, OPTIMIZED, fake_quantized

from mnet_jax.quantization.integer_arithmetic import Affine, dequantize, quantize
from mnet_jax.quantization.integer_operations import (
    Addition,
    Convolution,
    HardSwish,
    Mean,
    Product,
)

# Steps and zeros of input and output. Powers of two make many halves; fine outputs saturate.
AFFINES = {
    "fine": (Affine(0.017, 5), Affine(0.0021, -128)),
    "coarse": (Affine(0.0235294, -128), Affine(0.71, 9)),
    "halves": (Affine(0.5, -3), Affine(2.0, 4)),
    "signed": (Affine(0.031, 20), Affine(0.0051, -53)),
    "tenths": (Affine(0.1, 7), Affine(0.3, 7)),
}
SHAPE = (3, 9, 8, 12)
CLAMPS = {"linear": lambda x: x, "relu": lambda x: jnp.maximum(x, 0)}
CLAMPS["relu6"] = lambda x: jnp.clip(x, 0, 6)


@functools.partial(jax.jit, static_argnames="window")
def applied(operation, *inputs, window=()):
    """An operation applied: compiled once for all affines."""
    return operation(*inputs, *window)


def mark(x, affine):
    return fake_quantized(x, *affine)


def images(affine, seed=0, shape=SHAPE):
    """Real numbers within and a little beyond the range of int8."""
    steps = np.random.default_rng(seed).uniform(-150, 150, shape) - affine.zero
    return (steps * affine.step).astype(np.float32)


def halves(affine):
    """The numbers between those of int8, a little beyond its range too."""
    return (np.arange(-300.5, 300)[None] * affine.step).astype(np.float32)


class Weights:
    """Kernel, bias and steps of a layer; the kernel's layout is that of LiteRT's float file."""

    def __init__(self, shape, step, seed=0):
        rng = np.random.default_rng(seed)
        self.steps = (np.exp2(rng.integers(-3, 2, shape[-1])) * step).astype(np.float32)
        whole = rng.integers(-127, 128, shape)
        self.kernel = (whole * self.steps).astype(np.float32)
        self.bias = rng.normal(0, 300, shape[-1]).astype(np.float32) * self.steps

    def marked(self, kernel):
        return fake_quantized(kernel, self.steps, 0, kernel.ndim - 1, True)


def convolved(kernel_shape, stride, pads, activation, inputs, outputs):
    """The function for LiteRT, the operation and its window."""
    weights = Weights(kernel_shape, 2.0**-8 if inputs.step == 0.5 else 0.0123)
    depthwise = len(kernel_shape) == 3
    kernel = weights.kernel[:, :, None] if depthwise else weights.kernel

    def function(x):
        if kernel.ndim == 2:
            y = mark(x, inputs) @ weights.marked(kernel)
        else:
            y = lax.conv_general_dilated(
                mark(x, inputs), weights.marked(kernel), (stride, stride), pads,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=SHAPE[-1] if depthwise else 1,
            )  # fmt: skip
        return mark(CLAMPS[activation](y + weights.bias), outputs)

    operation = Convolution.of(
        weights.kernel, weights.bias, weights.steps, inputs, outputs, activation
    )
    window = () if kernel.ndim == 2 else (stride, pads)
    return function, operation, window


SAME = {1: ((1, 1), (1, 1)), 2: ((1, 1), (0, 1))}  # of a 3x3 window on 9 rows and 8 columns
LAYERS = {
    "CONV_2D": ((3, 3, 12, 10), 2, SAME[2], "relu6"),
    "CONV_2D, linear": ((3, 3, 12, 10), 1, SAME[1], "linear"),
    "DEPTHWISE_CONV_2D": ((3, 3, 12), 1, SAME[1], "relu"),
    "DEPTHWISE_CONV_2D, 5x5, stride 2": ((5, 5, 12), 2, ((2, 2), (1, 2)), "linear"),
    "FULLY_CONNECTED": ((12, 10), 1, (), "linear"),
    "FULLY_CONNECTED, ReLU6": ((12, 10), 1, (), "relu6"),
}


def hard_swish(x):
    return x * (jnp.clip(x + 3, 0, 6) * np.float32(1 / 6))


def unary(kind, inputs, outputs):
    if kind in LAYERS:
        return convolved(*LAYERS[kind], inputs, outputs)
    if kind == "MEAN":
        return lambda x: mark(mark(x, inputs).mean((1, 2)), outputs), Mean.of(inputs, outputs), ()
    operation = HardSwish.of(inputs, outputs)
    return lambda x: mark(hard_swish(mark(x, inputs)), outputs), operation, ()


UNARY = [*LAYERS, "MEAN", "HARD_SWISH"]
BINARY = {
    "ADD": (lambda x, y: x + y, Addition, SHAPE),
    "MUL": (lambda x, y: x * y, Product, (3, 1, 1, 12)),
}


@functools.cache
def prepared(kind, inputs, outputs):
    """LiteRT's file, its inputs and our output for them."""
    if kind == "QUANTIZE":
        arguments, function = (halves(outputs),), lambda x: mark(x, outputs)
        found = quantize(arguments[0], outputs)
    elif kind in BINARY:
        combine, operation, shape = BINARY[kind]
        other = Affine(inputs.step * 0.77, -11)
        arguments = images(inputs), images(other, seed=1, shape=shape)

        def function(x, y):
            return mark(combine(mark(x, inputs), mark(y, other)), outputs)

        both = quantize(arguments[0], inputs), quantize(arguments[1], other)
        found = applied(operation.of(inputs, other, outputs), *both)
    else:
        arguments = (images(inputs),)
        function, operation, window = unary(kind, inputs, outputs)
        found = applied(operation, quantize(arguments[0], inputs), window=window)
    model = litert_files.convert(function, *(x.shape for x in arguments))
    return model, arguments, np.asarray(dequantize(found, outputs))


kinds = pytest.mark.parametrize("kind", [*UNARY, *BINARY, "QUANTIZE"])
affines = pytest.mark.parametrize("affines", AFFINES.values(), ids=AFFINES)


@affines
@kinds
def test_equals_the_reference_kernel(kind, affines):
    model, arguments, found = prepared(kind, *affines)
    operations = litert_files.run(model, *arguments)
    converted = {operation.kind for operation in operations}
    assert converted == {kind.partition(",")[0], "QUANTIZE", "DEQUANTIZE"}
    expected = operations[-1].output.value
    assert len(np.unique(expected)) > 2  # not all of them saturate
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("resolver", [OPTIMIZED, DELEGATED], ids=["optimized", "XNNPACK"])
@affines
@kinds
def test_is_within_one_unit_of_the_other_kernels(kind, affines, resolver):
    model, arguments, found = prepared(kind, *affines)
    expected = litert_files.logits(model, *arguments, resolver=resolver)
    # A unit, and the rounding of float32.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1.001 * affines[1].step)


def test_a_convolution_refuses_an_activation_that_is_no_clamp():
    affine = Affine(0.1, 0)
    with pytest.raises(ValueError, match=r"^activation: got 'hard_swish', legal: "):
        Convolution.of(np.ones((2, 2)), np.ones(2), 0.1, affine, affine, "hard_swish")


def test_quantization_rounds_halves_away_from_zero_and_saturates():
    affine = Affine(np.float32(0.5), np.int32(-3))
    q = quantize(jnp.array([-300, -0.25, 0.25, 0.3, 1e30], jnp.float32), affine)
    np.testing.assert_array_equal(q, [-128, -4, -2, -2, 127])
    np.testing.assert_array_equal(dequantize(q, affine), [-62.5, -0.5, 0.5, 0.5, 65])


def test_weights_and_biases_are_rounded_as_by_the_converter():
    """Halves are rounded away from zero, and weights end at -127 and 127."""
    kernel = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, -130]], np.float32)
    bias = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.25, 0.75, -4.5], np.float32)
    one = Affine(1.0, 0)

    def function(x):
        weights = fake_quantized(kernel, np.ones(9, np.float32), 0, 1, True)
        return mark(mark(x, one) @ weights + bias, one)

    model = litert_files.convert(function, (1, 1))
    (layer,) = [o for o in litert_files.run(model, np.ones((1, 1), np.float32)) if o.options]
    operation = Convolution.of(kernel, bias, np.ones(9), one, one)
    np.testing.assert_array_equal(operation.kernel, layer.inputs[1].value.T)
    np.testing.assert_array_equal(operation.bias, layer.inputs[2].value)
