"""The layers of MobileNets as Linen modules, usable on their own, and their initializers.

Feature maps are NHWC. The dialect determines the initializers of kernels. A pending normalization
or activation is one that the next convolution applies (`ops.Pending`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnet_jax import ops
from mnet_jax.architectures.dialects import Initializer, Padding
from mnet_jax.architectures.shapes import pad_amounts
from mnet_jax.architectures.spec import Activation, Gate, Kind
from mnet_jax.models.normalization import BatchNorm, Bias, Setting, as_pending
from mnet_jax.models.quantizers import (
    KernelMap,
    activation_quantizer,
    kernel_quantizer,
    rounded,
    rounded_output,
)
from mnet_jax.ops import Convolved, Finish, Lowering, Pending
from mnet_jax.validation import require

Array = jax.Array
KernelInit = Callable[[Array, tuple[int, ...], Any], Array]


def kernel_init(initializer: Initializer, kind: Kind) -> KernelInit:
    """Returns the kernel initializer of a dialect for a kind of layer.

    Kernels are [kh, kw, in, out] for `conv`, [kh, kw, c] for `depthwise`, [in, out] for the others.
    """
    if initializer == "truncated_normal_0.09":
        return nn.initializers.truncated_normal(stddev=0.09)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        window = math.prod(shape[:2]) if kind in ("conv", "depthwise") else 1
        outputs = shape[-1]
        if initializer == "variance_scaling":
            fan_in = window * (1 if kind == "depthwise" else shape[-2])
            # The standard deviation of a standard normal that is truncated at -2 and 2.
            deviation = 1 / (0.87962566103423978 * math.sqrt(fan_in))
            return deviation * jax.random.truncated_normal(key, -2, 2, shape, dtype)
        if initializer == "glorot_uniform":
            inputs = outputs if kind == "depthwise" else shape[-2]
            fan_out = window * (1 if kind == "depthwise" else outputs)
            limit = math.sqrt(6 / (window * inputs + fan_out))
            return jax.random.uniform(key, shape, dtype, -limit, limit)
        per_group = initializer == "normal_group_fan_out"
        if kind == "dense" and per_group:
            limit = 1 / math.sqrt(outputs)
            return jax.random.uniform(key, shape, dtype, -limit, limit)
        fan_out = window * (1 if kind == "depthwise" and per_group else outputs)
        deviation = 0.01 if kind == "dense" else math.sqrt(2 / fan_out)
        return deviation * jax.random.normal(key, shape, dtype)

    return init


def pads(
    padding: Padding, kernel: int, stride: int, dilation: int, x: Array
) -> tuple[tuple[int, int], ...]:
    """Returns the numbers of zeros around x [b, h, w, c]: ((top, bottom), (left, right))."""
    return tuple(pad_amounts(padding, kernel, stride, size, dilation) for size in x.shape[1:3])


class DepthwiseConv(nn.Module):
    """A depthwise convolution without bias: [b, h, w, c] to [b, h', w', c].

    Attributes:
      kernel: side of the window.
      stride: step of the window.
      dilation: distance between neighbouring taps; must be 1 if the stride is not 1.
      padding: see `mnet_jax.architectures.shapes.pad_amounts`.
      lowering: see `mnet_jax.ops.depthwise_conv`.
      dtype: type of the computation; the parameter `kernel` [kernel, kernel, c] is float32.
      kernel_init: initializer of the parameter `kernel`.
    """

    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    padding: Padding = "same"
    lowering: Lowering = "auto"
    dtype: Any = jnp.float32
    kernel_init: KernelInit = kernel_init("truncated_normal_0.09", "depthwise")

    def __call__(self, x: Array) -> Array:
        return self.convolve(as_pending(x, self.dtype)).y

    @nn.compact
    def convolve(
        self,
        x: Pending,
        *,
        statistics: bool = False,
        finish: Finish | None = None,
        quantize: KernelMap | None = None,
    ) -> Convolved:
        """Convolves a feature map whose normalization and activation may be pending (`Pending`).

        Args:
          x: [b, h, w, c].
          statistics: whether to return the mean and variance of the output too.
          finish: bias and activation to apply to the output; None if `statistics`.
          quantize: function that rounds the kernel, or None.
        """
        shape = (self.kernel, self.kernel, x.x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return ops.depthwise(
            x,
            quantize(kernel) if quantize else kernel,
            strides=self.stride,
            padding=pads(self.padding, self.kernel, self.stride, self.dilation, x.x),
            dilation=self.dilation,
            lowering=self.lowering,
            statistics=statistics,
            finish=finish,
        )


def _mixing(module: "PointwiseConv | Dense", inputs: int, *, packed: bool) -> Array:
    """Returns a module's kernel: its parameter `kernel` [inputs, outputs].

    If `packed`, the parameter is `panels` (`ops.pack`) instead.
    """

    def initial(key: Array) -> Array:
        kernel = module.kernel_init(key, (inputs, module.outputs), jnp.float32)
        return ops.pack(kernel) if packed else kernel

    return module.param("panels" if packed else "kernel", initial)


class PointwiseConv(nn.Module):
    """A 1x1 convolution without bias, as a matrix product: [..., c] to [..., outputs].

    Attributes:
      outputs: output channels.
      dtype: type of the computation; the parameter `kernel` [c, outputs] is float32.
      kernel_init: initializer of the parameter `kernel`.
      lowering: `native` or `auto` to use the kernels of `mnet_jax.ops.native`; see
        `mnet_jax.ops.depthwise_conv`.
      packed: whether the parameter is `panels` (`mnet_jax.ops.pack`) instead of `kernel`.
    """

    outputs: int
    dtype: Any = jnp.float32
    kernel_init: KernelInit = kernel_init("truncated_normal_0.09", "pointwise")
    lowering: Lowering = "auto"
    packed: bool = False

    def __call__(self, x: Array) -> Array:
        return self.convolve(as_pending(x, self.dtype)).y

    @nn.compact
    def convolve(
        self,
        x: Pending,
        *,
        statistics: bool = False,
        finish: Finish | None = None,
        quantize: KernelMap | None = None,
    ) -> Convolved:
        """Convolves a feature map whose normalization and activation may be pending (`Pending`).

        Args:
          x: [..., c].
          statistics: whether to return the mean and variance of the output too.
          finish: bias and activation to apply to the output; None if `statistics`.
          quantize: function that rounds the kernel, or None.
        """
        kernel = _mixing(self, x.x.shape[-1], packed=self.packed)
        return ops.pointwise(
            x,
            quantize(kernel) if quantize else kernel,
            lowering=self.lowering,
            statistics=statistics,
            finish=finish,
        )


class FullConv(nn.Module):
    """A full convolution without bias: [b, h, w, c] to [b, h', w', outputs].

    Attributes:
      outputs: output channels.
      kernel: side of the window.
      stride: step of the window.
      dilation: distance between neighbouring taps.
      padding: see `mnet_jax.architectures.shapes.pad_amounts`.
      lowering: see `mnet_jax.ops.depthwise_conv`; all but the native one are XLA's convolution.
      dtype: type of the computation; the parameter `kernel` [kernel, kernel, c, outputs] is
        float32.
      kernel_init: initializer of the parameter `kernel`.
    """

    outputs: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    padding: Padding = "same"
    lowering: Lowering = "auto"
    dtype: Any = jnp.float32
    kernel_init: KernelInit = kernel_init("truncated_normal_0.09", "conv")

    def __call__(self, x: Array) -> Array:
        return self.convolve(as_pending(x, self.dtype)).y

    @nn.compact
    def convolve(
        self,
        x: Pending,
        *,
        statistics: bool = False,
        finish: Finish | None = None,
        quantize: KernelMap | None = None,
    ) -> Convolved:
        """Convolves a feature map whose normalization and activation may be pending (`Pending`).

        Args:
          x: [b, h, w, c].
          statistics: whether to return the mean and variance of the output too.
          finish: bias and activation to apply to the output; None if `statistics`.
          quantize: function that rounds the kernel, or None.
        """
        shape = (self.kernel, self.kernel, x.x.shape[-1], self.outputs)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return ops.full(
            x,
            quantize(kernel) if quantize else kernel,
            strides=(self.stride, self.stride),
            padding=pads(self.padding, self.kernel, self.stride, self.dilation, x.x),
            dilation=(self.dilation, self.dilation),
            lowering=self.lowering,
            statistics=statistics,
            finish=finish,
        )


def convolve_normed(
    convolution: DepthwiseConv | PointwiseConv | FullConv,
    x: Pending,
    activation: Activation,
    setting: Setting,
    *,
    train: bool,
) -> Pending:
    """Applies a convolution, then batch normalization (only a bias, if folded) and an activation.

    The calling module gets the submodule `norm` and, if the setting has a quantization, quantizers
    as submodules. In the result, normalization and activation may still be pending (`ops.Pending`).
    """
    depthwise = isinstance(convolution, DepthwiseConv)
    channels = x.x.shape[-1] if depthwise else convolution.outputs
    applied = _applied_at_once(activation, setting)
    if setting.folded:
        require(not train, "train", train, "False, as batch normalization is folded")
        finish = Bias(channels, applied, name="norm")()
        quantize = kernel_quantizer(setting)
        y = Pending(x=convolution.convolve(x, finish=finish, quantize=quantize).y)
    else:
        norm = BatchNorm(
            channels=channels,
            momentum=setting.dialect.norm_momentum,
            epsilon=setting.dialect.norm_epsilon,
            activation=applied,
            axis_name=setting.axis_name,
            name="norm",
        )
        quantize = kernel_quantizer(setting, norm)
        y = norm(convolution.convolve(x, statistics=train, quantize=quantize), train=train)
    return rounded_output(y, activation, setting)


def _applied_at_once(activation: Activation, setting: Setting) -> Activation:
    """Returns the activation that a convolution itself applies: `activation` or `linear`.

    With quantizers it is `linear`, and `rounded_output` applies `activation`.
    """
    return "linear" if setting.quantization else activation


class ConvNorm(nn.Module):
    """A convolution, batch normalization and an activation: [b, h, w, c] to [b, h', w', outputs].

    A pointwise convolution also takes [..., c], such as pooled features.

    Attributes:
      outputs: output channels; None for a depthwise convolution.
      kernel: side of the window.
      stride: step of the window.
      dilation: distance between neighbouring taps.
      activation: activation after the normalization.
      setting: settings shared by all layers of a network.
    """

    outputs: int | None
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu6"
    setting: Setting = Setting()

    def _convolution(self) -> DepthwiseConv | PointwiseConv | FullConv:
        dialect, dtype, lowering = self.setting.dialect, self.setting.dtype, self.setting.lowering
        if self.outputs is not None and self.kernel == 1 and self.stride == 1:
            init = kernel_init(dialect.initializer, "pointwise")
            packed = self.setting.packed
            return PointwiseConv(self.outputs, dtype, init, lowering, packed, name="conv")
        window: dict[str, Any] = {
            "kernel": self.kernel,
            "stride": self.stride,
            "dilation": self.dilation,
        }
        if self.outputs is None:
            return DepthwiseConv(
                **window,
                padding=dialect.depthwise_padding,
                lowering=lowering,
                dtype=dtype,
                kernel_init=kernel_init(dialect.initializer, "depthwise"),
                name="conv",
            )
        return FullConv(
            self.outputs,
            **window,
            padding=dialect.padding,
            lowering=lowering,
            dtype=dtype,
            kernel_init=kernel_init(dialect.initializer, "conv"),
            name="conv",
        )

    def __call__(self, x: Array, train: bool) -> Array:
        return self.pending(x, train=train).value()

    def folded(self) -> ops.FoldedConv:
        """Returns the kernel, bias and activation; the normalization must be folded."""
        params = self.variables["params"]
        (kernel,) = params["conv"].values()
        return ops.FoldedConv(
            kernel, Finish(bias=params["norm"]["bias"], activation=self.activation)
        )

    @nn.compact
    def pending(self, x: Array | Pending, *, train: bool) -> Pending:
        """Returns the output; its normalization and activation may be pending (`ops.Pending`)."""
        x = as_pending(x, self.setting.dtype)
        return convolve_normed(self._convolution(), x, self.activation, self.setting, train=train)


class Dense(nn.Module):
    """A dense layer with a bias and an activation: [..., c] to [..., outputs].

    Attributes:
      outputs: output channels.
      kernel_init: initializer of the parameter `kernel` [c, outputs]; if the setting is packed, the
        parameter is `panels` (`ops.pack`) instead.
      activation: activation after the bias.
      setting: settings shared by all layers of a network.
    """

    outputs: int
    kernel_init: KernelInit = kernel_init("truncated_normal_0.09", "dense")
    activation: Activation | Gate = "linear"
    setting: Setting = Setting()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        setting, dtype = self.setting, self.setting.dtype
        x = x.astype(dtype)
        kernel = _mixing(self, x.shape[-1], packed=setting.packed)
        bias = self.param("bias", nn.initializers.zeros, (self.outputs,), jnp.float32)
        if quantize := kernel_quantizer(setting):
            kernel = quantize(kernel)
        applied = "linear" if setting.quantization else self.activation
        if setting.folded:
            assert applied != "hard_sigmoid" and applied != "sigmoid"  # gates are never folded
            finish = Finish(bias=bias, activation=applied)
            y = ops.pointwise(Pending(x=x), kernel, lowering=setting.lowering, finish=finish).y
        else:
            bias = ops.over_channels(bias, x).astype(dtype)
            y = ops.activate(x @ kernel.astype(dtype) + bias, applied)
        return rounded_output(Pending(x=y), self.activation, setting).x


class Dropout(nn.Module):
    """Dropout: zeros elements with probability `rate`, and divides the others by 1 - rate.

    The output has the input's shape, and equals that of Flax's `Dropout`. Flax's module is not used
    because it cannot give its mask the sharding of an explicitly sharded input.

    Attributes:
      rate: probability of a zero, below 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        if deterministic or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
        return jnp.where(mask, x / keep, 0)


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): zeros the images [b, ...] of a batch, each as a whole.

    An image is zeroed with probability `rate`; the others are divided by 1 - rate, so the mean
    stays the same, as in timm.

    Attributes:
      rate: probability of a zeroed image, below 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        if deterministic or self.rate == 0:
            return x
        keep = 1 - self.rate
        images = (x.shape[0], *(1 for _ in x.shape[1:]))
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, images)
        return jnp.where(mask, x / keep, 0)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation of V3 (arXiv 1905.02244, section 5.3): [b, h, w, c] to the same shape.

    The mean over space passes through a dense layer with ReLU and another with a hard sigmoid. The
    result scales the channels of the input.

    Attributes:
      squeeze: channels between the dense layers.
      setting: settings shared by all layers of a network.
    """

    squeeze: int
    setting: Setting = Setting()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = kernel_init(self.setting.dialect.initializer, "pointwise")
        # The dense layers are too small for the native kernels to pay off.
        setting = dataclasses.replace(self.setting, folded=False, packed=False)
        mean = jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(x.dtype)
        mean = rounded(mean, activation_quantizer(setting, "pooled_quantizer"))
        reduced = Dense(self.squeeze, init, "relu", setting, name="reduce")(mean)
        gate = Dense(x.shape[-1], init, "hard_sigmoid", setting, name="expand")(reduced)
        scaled = x * gate[:, None, None, :]
        return rounded(scaled, activation_quantizer(setting, "output_quantizer"))
