"""Simulated quantization of kernels and activations as Linen modules."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnet_jax import ops
from mnet_jax.architectures.spec import Activation, Gate
from mnet_jax.models.normalization import BatchNorm, Setting
from mnet_jax.models.types import Quantization
from mnet_jax.ops import Pending, over_channels
from mnet_jax.ops.quantizer import IntegerRange, fake_quantize, integer_range

Array = jax.Array
KernelMap = Callable[[Array], Array]

OBSERVED = "observed"  # the collection of the values that quantizers of activations receive
MOMENTS = "moments"  # the collection of means and variances of values before activations
WANTED = "wanted"  # the collection of the means that values before activations should have


def kernel_range(quantization: Quantization) -> IntegerRange:
    """Returns the smallest and the largest integer of quantized kernels."""
    return integer_range(
        quantization.weight_bits, narrow=quantization.weight_symmetry == "symmetric"
    )


def activation_range(quantization: Quantization) -> IntegerRange:
    """Returns the smallest and the largest integer of quantized activations."""
    return integer_range(quantization.activation_bits)


class KernelQuantizer(nn.Module):
    """Rounds a kernel [..., c] to the numbers that its quantizer represents.

    The parameters are `step` and, if asymmetric, `zero`; [c] per channel or () per tensor. The step
    is 0 (off) until `quantization.quantized` sets it.

    Attributes:
      quantization: bits, granularity and symmetry.
    """

    quantization: Quantization

    @nn.compact
    def __call__(self, kernel: Array, rate: Array | None = None) -> Array:
        """Returns the rounded kernel.

        Args:
          kernel: [..., c].
          rate: [c], the factor of a normalization that follows the convolution; None without one.
            The module multiplies the kernel by the rate, rounds the product, and divides it by the
            rate. The module thus rounds the folded kernel that an exported network has (arXiv
            1806.08342, section 3.2.2).
        """
        if rate is not None:
            rate = jax.lax.stop_gradient(nonzero(rate))
            rate = jnp.expand_dims(rate, range(kernel.ndim - 1))
            return self._rounded(kernel * rate) / rate
        return self._rounded(kernel)

    def _rounded(self, kernel: Array) -> Array:
        setting = self.quantization
        shape = kernel.shape[-1:] if setting.granularity == "channel" else ()
        step = self.param("step", nn.initializers.zeros, shape, jnp.float32)
        zero = jnp.zeros(shape, jnp.float32)
        if setting.weight_symmetry == "asymmetric":
            zero = self.param("zero", nn.initializers.zeros, shape, jnp.float32)
        values = kernel.size // step.size
        symmetric = setting.weight_symmetry == "symmetric"
        bounds = kernel_range(setting)
        return _fake_quantize(kernel, step, zero, bounds, setting, values, symmetric=symmetric)


class ActivationQuantizer(nn.Module):
    """Rounds an activation [b, ...] to the numbers that its quantizer represents.

    The parameters are `step` () and `zero` (). The step is 0 (off) until
    `quantization.quantized` sets it. Applied with `mutable=["observed"]`, the module also returns
    the values that it receives, under the name `value`.

    Attributes:
      quantization: bits and symmetry.
    """

    quantization: Quantization

    @nn.compact
    def __call__(self, x: Array) -> Array:
        step = self.param("step", nn.initializers.zeros, (), jnp.float32)
        zero = self.param("zero", nn.initializers.zeros, (), jnp.float32)
        # In `init` every collection is mutable: the values would be returned.
        if self.is_mutable_collection(OBSERVED) and not self.is_initializing():
            self.sow(OBSERVED, "value", x)
        values, setting = math.prod(x.shape[1:]), self.quantization
        symmetric = setting.activation_symmetry == "symmetric"
        bounds = activation_range(setting)
        return _fake_quantize(x, step, zero, bounds, setting, values, symmetric=symmetric)


class Preactivation(nn.Module):
    """Measures and shifts a layer's values [..., c] before its activation, to correct biases.

    Applied with `mutable=["moments"]`, the module also returns the `mean` and `variance` [c] of the
    values that it receives. If the variables have a collection `wanted`, the module shifts each
    channel to the mean that `wanted` has under the name `mean` [c]. The shift has the effect of a
    corrected bias, so the next layers receive corrected values. Without `wanted`, the module
    returns the values unchanged.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        measures = self.is_mutable_collection(MOMENTS) and not self.is_initializing()
        shifts = self.has_variable(WANTED, "mean")
        if not measures and not shifts:
            return x
        axes = tuple(range(x.ndim - 1))
        wide = x.astype(jnp.float32)
        mean = jnp.mean(wide, axes)
        if measures:
            self.sow(MOMENTS, "mean", mean)
            self.sow(MOMENTS, "variance", jnp.var(wide, axes))
        if not shifts:
            return x
        shift = self.get_variable(WANTED, "mean") - mean
        return (wide + over_channels(shift, x)).astype(x.dtype)


def kernel_quantizer(setting: Setting, norm: BatchNorm | None = None) -> KernelMap | None:
    """Returns the function that rounds the kernel of the calling module, or None.

    Args:
      setting: whether and how kernels are rounded.
      norm: the normalization that follows and will be folded into the kernel, if any.
    """
    if setting.quantization is None or not setting.quantization.weight_bits:
        return None
    quantizer = KernelQuantizer(setting.quantization, name="kernel_quantizer")
    return partial(quantizer, rate=norm.rate()) if norm else quantizer


def activation_quantizer(setting: Setting, name: str | None = None) -> ActivationQuantizer | None:
    """Returns a submodule of the calling module that rounds activations, or None.

    Args:
      setting: whether and how activations are rounded.
      name: the submodule's name; None in `setup`, where Flax takes the attribute's name.
    """
    if setting.quantization is None or not setting.quantization.activation_bits:
        return None
    return ActivationQuantizer(setting.quantization, name=name)


def rounded(x: Array, quantizer: ActivationQuantizer | None) -> Array:
    """Returns x, rounded if there is a quantizer."""
    return quantizer(x) if quantizer else x


def rounded_output(y: Pending, activation: Activation | Gate, setting: Setting) -> Pending:
    """Returns a layer's output, rounded if the setting has quantizers.

    Args:
      y: the layer's output; if the setting has quantizers, the values before the activation.
      activation: the layer's activation, which is applied only if the setting has quantizers.
      setting: whether and how activations are rounded.
    """
    if setting.quantization is None:
        return y
    value = Preactivation(name="preactivation")(y.value())
    if activation == "hard_swish":  # in LiteRT an operation of its own, with a rounded input
        value = rounded(value, activation_quantizer(setting, "preactivation_quantizer"))
    value = ops.activate(value, activation)
    return Pending(x=rounded(value, activation_quantizer(setting, "output_quantizer")))


def _fake_quantize(
    x: Array,
    step: Array,
    zero: Array,
    bounds: IntegerRange,
    setting: Quantization,
    values: int,
    *,
    symmetric: bool,
) -> Array:
    """Rounds x, and scales a learned step's gradient as LSQ does (arXiv 1902.08153, section 2.2).

    Args:
      x: [..., c].
      step: () or [c].
      zero: of the step's shape.
      bounds: the quantizer's smallest and largest integer.
      setting: whether the steps are learned.
      values: number of values of x that share a step; of an activation, those of one image.
      symmetric: whether zero is the integer 0.
    """
    fixed = jax.lax.stop_gradient(step)
    if setting.step_sizes == "learned":
        largest = bounds.high if symmetric else bounds.high - bounds.low
        scale = 1 / math.sqrt(values * largest)
        step = fixed + scale * (step - fixed)
    else:
        step = fixed
    # A learned step that passes zero goes on as its absolute value.
    step = jnp.abs(step)
    if step.ndim:
        step, zero = (jnp.expand_dims(a, range(x.ndim - 1)) for a in (step, zero))
    return fake_quantize(x, step, zero, float(bounds.low), float(bounds.high))


def nonzero(rate: Array) -> Array:
    """Returns `rate`, with 1 in place of each number that is too small to divide by."""
    return jnp.where(jnp.abs(rate) < jnp.finfo(jnp.float32).tiny * 2**24, 1, rate)
