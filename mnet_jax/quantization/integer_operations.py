"""LiteRT's int8 operations as pytrees of integers, applied to int8 arrays.

An `Affine` says for which real numbers an int8 tensor stands. The method `of` of an operation takes
the affines of its inputs and its output and computes the integers that LiteRT's kernel prepares:
int8 weights, int32 biases, fixed-point multipliers. Feature maps are NHWC.

The results are those of LiteRT's reference kernels (the interpreter's resolver `BUILTIN_REF`).
LiteRT's other kernels round a few numbers to a neighbouring integer. The table has the largest
differences that were seen with LiteRT 2.3 on x86, in steps of the output. "Optimized" is the
resolver `BUILTIN_WITHOUT_DEFAULT_DELEGATES`; XNNPACK is the default.

    operation           reference  optimized  XNNPACK
    CONV_2D                     0          1        1
    DEPTHWISE_CONV_2D           0          1        1
    FULLY_CONNECTED             0          1        0
    ADD                         0          0        1
    MUL                         0          0        1
    MEAN                        0          0        1
    HARD_SWISH                  0          0        0
    QUANTIZE                    0          1        1
    DEQUANTIZE                  0          0        0

The reference kernel of FULLY_CONNECTED multiplies by a float64, those of the convolutions by a
`Multiplier`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax.architectures.spec import Activation, Gate
from mnet_jax.quantization.integer_arithmetic import (
    HIGHEST,
    LOWEST,
    Affine,
    Double,
    Multiplier,
    as_double,
    divide_by_power,
    multiply,
    multiply_double,
    quantize_bias,
    quantize_multiplier,
    quantize_weights,
    split_double,
    to_int8,
)
from mnet_jax.validation import require

Array = jax.Array
Pads = Sequence[tuple[int, int]]

ADDITION_SHIFT = 20  # bits by which an addition scales its inputs up before it rescales them
SWISH_SHIFT = 7  # bits by which hard swish scales its input up, to fill 16 bits


def _centred(x: Array, zero: Any) -> Array:
    return x.astype(jnp.int32) - zero


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution or matrix product with a bias and a clamp as its activation.

    LiteRT's `CONV_2D`, `DEPTHWISE_CONV_2D` and `FULLY_CONNECTED`.

    Attributes:
      kernel: int8 [kh, kw, c, n]; depthwise [kh, kw, c]; of a matrix product [c, n].
      bias: int32 [n], in units of the input's step times the kernel's step.
      input_zero: the zero of the input; the padding has this value.
      multiplier: converts from the unit of the bias to steps of the output, () or [n]; a `Double`
        for a matrix product.
      output_zero: the zero of the output.
      low: lowest number that the activation yields.
      high: highest number that the activation yields.
    """

    kernel: Any
    bias: Any
    input_zero: Any
    multiplier: Multiplier | Double
    output_zero: Any
    low: Any
    high: Any

    @classmethod
    def of(
        cls,
        kernel: Any,
        bias: Any,
        kernel_step: Any,
        input: Affine,
        output: Affine,
        activation: Activation | Gate = "linear",
    ) -> "Convolution":
        """Returns the operation with the given float weights.

        A hard sigmoid min(max(x + 3, 0), 6) / 6 is computed as a ReLU6: 3 is added to the bias, and
        the step of the ReLU6's output is six times the given step. The division by 6 is then exact,
        because the integers stay the same.

        Args:
          kernel: float weights, in the shape of the attribute `kernel`.
          bias: float [n]; it saturates at 32 bits.
          kernel_step: distance of neighbouring weights, of shape () or [n].
          input: affine of the input.
          output: affine of the output, after the activation.
          activation: a clamp: linear, ReLU or ReLU6; or a hard sigmoid.

        Raises:
          ValueError: the activation is another one.
        """
        bias = np.asarray(bias, np.float32)
        if activation == "hard_sigmoid":
            bias, activation = bias + np.float32(3), "relu6"
            output = Affine(np.float32(6) * np.float32(output.step), output.zero)
        weights = quantize_weights(kernel, kernel_step)
        accumulated = as_double(input.step) * as_double(kernel_step)
        # LiteRT's matrix product multiplies by a float64.
        convert = split_double if weights.ndim == 2 else quantize_multiplier
        low, high = _limits(activation, output)
        return cls(
            kernel=weights,
            bias=quantize_bias(bias, kernel_step, input.step),
            input_zero=np.int32(input.zero),
            multiplier=convert(accumulated / as_double(output.step)),
            output_zero=np.int32(output.zero),
            low=np.int32(low),
            high=np.int32(high),
        )

    def __call__(
        self,
        x: Array,
        strides: int = 1,
        pads: Pads = ((0, 0), (0, 0)),
        dilation: int = 1,
    ) -> Array:
        """Maps int8 [b, h, w, c] to [b, h', w', n]; a matrix product maps [..., c] to [..., n].

        Args:
          x: the input.
          strides: step of the window in rows and columns.
          pads: widths of the padding, ((top, bottom), (left, right)).
          dilation: distance between neighbouring taps.
        """
        values, kernel = _centred(x, self.input_zero), jnp.asarray(self.kernel, jnp.int32)
        if kernel.ndim == 2:
            sums = values @ kernel
        else:
            sums = _over_taps(values, kernel, strides, pads, dilation)
        sums += self.bias
        if isinstance(self.multiplier, Double):
            scaled = multiply_double(sums, self.multiplier)
        else:
            scaled = multiply(sums, self.multiplier)
        return to_int8(scaled + self.output_zero, self.low, self.high)


def _over_taps(x: Array, kernel: Array, stride: int, pads: Pads, dilation: int) -> Array:
    """Convolves int32 [b, h, w, c] as a sum over the taps of a kernel [kh, kw, c(, n)]."""
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    sides = kernel.shape[:2]
    rows, columns = (
        (size - dilation * (side - 1) - 1) // stride + 1
        for size, side in zip(padded.shape[1:3], sides, strict=True)
    )
    total = jnp.zeros((), jnp.int32)
    for i, j in np.ndindex(*sides):
        top, left = i * dilation, j * dilation
        bottom, right = top + stride * (rows - 1) + 1, left + stride * (columns - 1) + 1
        window = padded[:, top:bottom:stride, left:right:stride]
        total += window * kernel[i, j] if kernel.ndim == 3 else window @ kernel[i, j]
    return total


def _limits(activation: Activation | Gate, output: Affine) -> tuple[int, int]:
    """Returns the lowest and the highest int8 number that a clamp yields."""
    legal = "linear, relu, relu6, hard_sigmoid"
    require(activation in ("linear", "relu", "relu6"), "activation", activation, legal)
    if activation == "linear":
        return LOWEST, HIGHEST
    low = max(LOWEST, int(output.zero))
    if activation == "relu":
        return low, HIGHEST
    six = math.floor(np.float32(6) / np.float32(output.step) + 0.5)
    return low, min(HIGHEST, int(output.zero) + six)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Addition:
    """The sum of two feature maps (`ADD`).

    Attributes:
      zeros: the zeros of the inputs.
      multipliers: convert from steps of each input to units of twice the larger step.
      output_multiplier: converts from the unit of the sum to steps of the output.
      output_zero: the zero of the output.
    """

    zeros: tuple[Any, Any]
    multipliers: tuple[Multiplier, Multiplier]
    output_multiplier: Multiplier
    output_zero: Any

    @classmethod
    def of(cls, left: Affine, right: Affine, output: Affine) -> "Addition":
        """Returns the operation for the affines of its inputs and its output."""
        unit = 2 * max(as_double(left.step), as_double(right.step))
        return cls(
            zeros=(np.int32(left.zero), np.int32(right.zero)),
            multipliers=(
                quantize_multiplier(as_double(left.step) / unit),
                quantize_multiplier(as_double(right.step) / unit),
            ),
            output_multiplier=quantize_multiplier(
                unit / (2**ADDITION_SHIFT * as_double(output.step))
            ),
            output_zero=np.int32(output.zero),
        )

    def __call__(self, left: Array, right: Array) -> Array:
        """Adds two int8 arrays whose shapes broadcast."""
        total = sum(
            multiply(_centred(x, zero) << ADDITION_SHIFT, multiplier)
            for x, zero, multiplier in zip((left, right), self.zeros, self.multipliers, strict=True)
        )
        return to_int8(multiply(jnp.asarray(total), self.output_multiplier) + self.output_zero)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """The product of two arrays (`MUL`), with which squeeze-and-excitation scales channels.

    Attributes:
      zeros: the zeros of the inputs.
      multiplier: converts from the product of the inputs' steps to steps of the output.
      output_zero: the zero of the output.
    """

    zeros: tuple[Any, Any]
    multiplier: Multiplier
    output_zero: Any

    @classmethod
    def of(cls, left: Affine, right: Affine, output: Affine) -> "Product":
        """Returns the operation for the affines of its inputs and its output."""
        # LiteRT computes this number in float32.
        ratio = np.float32(left.step) * np.float32(right.step) / np.float32(output.step)
        return cls(
            zeros=(np.int32(left.zero), np.int32(right.zero)),
            multiplier=quantize_multiplier(ratio),
            output_zero=np.int32(output.zero),
        )

    def __call__(self, left: Array, right: Array) -> Array:
        """Multiplies two int8 arrays whose shapes broadcast."""
        product = _centred(left, self.zeros[0]) * _centred(right, self.zeros[1])
        return to_int8(multiply(product, self.multiplier) + self.output_zero)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean over space (`MEAN` without kept dimensions).

    Attributes:
      input_zero: the zero of the input.
      output_zero: the zero of the output.
      mantissa: mantissa of the multiplier from steps of the input to steps of the output.
      exponent: exponent of this multiplier.
    """

    input_zero: Any
    output_zero: Any
    mantissa: int = dataclasses.field(metadata={"static": True})
    exponent: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, input: Affine, output: Affine) -> "Mean":
        """Returns the operation for the affines of its input and its output."""
        multiplier = quantize_multiplier(as_double(input.step) / as_double(output.step))
        return cls(
            input_zero=np.int32(input.zero),
            output_zero=np.int32(output.zero),
            mantissa=int(multiplier.mantissa),
            exponent=int(multiplier.exponent),
        )

    def __call__(self, x: Array) -> Array:
        """Maps int8 [b, h, w, c] to [b, c]."""
        pixels = math.prod(x.shape[1:3])
        # The multiplier is divided by the pixels, with as many bits as fit.
        shift = min(pixels.bit_length() - 1, 32, 31 + self.exponent)
        share = Multiplier((self.mantissa << shift) // pixels, self.exponent - shift)
        sums = jnp.sum(_centred(x, self.input_zero), axis=(1, 2), dtype=jnp.int32)
        return to_int8(multiply(sums, share) + self.output_zero)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class HardSwish:
    """x * min(max(x + 3, 0), 6) / 6 in 16 bits (`HARD_SWISH`).

    Attributes:
      input_zero: the zero of the input.
      output_zero: the zero of the output.
      gate: converts from 1/128 of the input's step to units of 3/32768; its mantissa has 15 bits.
      output: converts from 1/128 of the input's step to steps of the output; 15 bits too.
    """

    input_zero: Any
    output_zero: Any
    gate: Multiplier
    output: Multiplier

    @classmethod
    def of(cls, input: Affine, output: Affine) -> "HardSwish":
        """Returns the operation for the affines of its input and its output.

        Raises:
          ValueError: the step of the output is less than 1/128 of that of the input.
        """
        # LiteRT computes these numbers in float32.
        fine = np.float32(2.0**-SWISH_SHIFT) * np.float32(input.step)
        scale = _in_16_bits(quantize_multiplier(fine / np.float32(output.step)))
        legal = f"{float(fine):g} or more for inputs of step {float(input.step):g}"
        require(int(scale.exponent) <= 0, "step after hard_swish", float(output.step), legal)
        return cls(
            input_zero=np.int32(input.zero),
            output_zero=np.int32(output.zero),
            gate=_in_16_bits(quantize_multiplier(fine / np.float32(3 / 32768))),
            output=scale,
        )

    def __call__(self, x: Array) -> Array:
        """Applies the function to int8 of any shape."""
        fine = _centred(x, self.input_zero) << SWISH_SHIFT
        scaled = _high_product(fine, self.output.mantissa)
        exponent = jnp.asarray(self.gate.exponent, jnp.int32)
        gate = jnp.where(exponent > 0, _shift_left(fine, exponent - 1), fine)
        gate = _high_product(gate, self.gate.mantissa)
        gate = jnp.where(exponent > 0, _shift_left(gate, 1), gate)
        gate = divide_by_power(gate, jnp.maximum(-exponent, 0))
        product = (gate + 2**15 >> 1) * scaled
        truncated = jnp.sign(product) * (jnp.abs(product) >> 15)
        return to_int8(divide_by_power(truncated, -self.output.exponent) + self.output_zero)


def _in_16_bits(multiplier: Multiplier) -> Multiplier:
    """Returns a multiplier whose mantissa is rounded from 31 to 15 bits."""
    mantissa = int(multiplier.mantissa)
    return Multiplier(np.int32(min(mantissa + 2**15 >> 16, 2**15 - 1)), multiplier.exponent)


def _high_product(x: Array, mantissa: Any) -> Array:
    """Multiplies 16-bit numbers by mantissa / 2^15 and rounds to nearest, halves up."""
    return x * mantissa + 2**14 >> 15


def _shift_left(x: Array, amount: Any) -> Array:
    """Multiplies 16-bit numbers by 2^amount; clips the results to 16 bits."""
    # 15 bits take all numbers but 0 out of the range, and keep the result in 32 bits.
    return jnp.clip(x << jnp.clip(amount, 0, 15), -(2**15), 2**15 - 1)
