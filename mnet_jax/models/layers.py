"""The layers of the family as Linen modules, usable by themselves. Feature maps are NHWC."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnet_jax import ops
from mnet_jax.architectures.dialects import Dialect, Padding, dialect_of
from mnet_jax.architectures.shapes import pad_amounts
from mnet_jax.architectures.spec import Activation
from mnet_jax.models.initializers import KernelInit, kernel_init
from mnet_jax.ops.depthwise import Lowering

Array = jax.Array

_PAPER_V2 = dialect_of("mobilenet_v2", "paper")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What all layers of a network share.

    Attributes:
      dialect: padding, normalization constants and initialization.
      dtype: type of the computation; parameters and statistics are float32.
      lowering: of depthwise convolutions; see `mnet_jax.ops.depthwise_conv`.
      axis_name: the pmap axis over which batch normalization pools its statistics, if any.
    """

    dialect: Dialect = _PAPER_V2
    dtype: Any = jnp.float32
    lowering: Lowering = "auto"
    axis_name: str | None = None

    def norm(self, name: str) -> nn.BatchNorm:
        """The batch normalization under `name` of the module that calls this."""
        return nn.BatchNorm(
            momentum=self.dialect.norm_momentum,
            epsilon=self.dialect.norm_epsilon,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name=name,
        )


@jax.custom_jvp
def relu6(x: Array) -> Array:
    """min(max(x, 0), 6), with gradient zero at both corners as in PyTorch and TensorFlow."""
    return jnp.clip(x, 0, 6)


@relu6.defjvp
def _relu6_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    y = relu6(x)
    return y, jnp.where((y > 0) & (y < 6), tangent, 0)  # the mask needs no input kept alive


def activate(x: Array, activation: Activation) -> Array:
    """Applies the named non-linearity elementwise."""
    if activation == "linear":
        return x
    functions: dict[str, Callable[[Array], Array]] = {
        "relu": nn.relu,
        "relu6": relu6,
        "hard_swish": nn.hard_swish,
    }
    return functions[activation](x)


def _pads(
    padding: Padding, kernel: int, stride: int, dilation: int, x: Array
) -> tuple[tuple[int, int], ...]:
    return tuple(pad_amounts(padding, kernel, stride, size, dilation) for size in x.shape[1:3])


class DepthwiseConv(nn.Module):
    """A depthwise convolution without bias: [b, h, w, c] to [b, h', w', c].

    Attributes:
      kernel: side of the window.
      stride: step of the window.
      dilation: distance of neighbouring taps; 1 where the stride is not.
      padding: see `mnet_jax.architectures.shapes.pad_amounts`.
      lowering: see `mnet_jax.ops.depthwise_conv`.
      dtype: type of the computation; the parameter `kernel` [kernel, kernel, c] is float32.
      kernel_init: initializer of that parameter.
    """

    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    padding: Padding = "same"
    lowering: Lowering = "auto"
    dtype: Any = jnp.float32
    kernel_init: KernelInit = kernel_init("truncated_normal_0.09", "depthwise")

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return ops.depthwise_conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=(self.stride, self.stride),
            padding=_pads(self.padding, self.kernel, self.stride, self.dilation, x),
            dilation=self.dilation,
            lowering=self.lowering,
        )


class PointwiseConv(nn.Module):
    """A 1x1 convolution as a matrix product: [b, h, w, c] to [b, h, w, outputs].

    The positions are flattened first: a product over three batch axes has a kernel gradient that
    XLA runs up to 2.5 times slower on a CPU.

    Attributes:
      outputs: channels out.
      dtype: type of the computation; the parameter `kernel` [c, outputs] is float32.
      kernel_init: initializer of that parameter.
    """

    outputs: int
    dtype: Any = jnp.float32
    kernel_init: KernelInit = kernel_init("truncated_normal_0.09", "pointwise")

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1], self.outputs)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        positions = x.astype(self.dtype).reshape(-1, x.shape[-1])
        return (positions @ kernel.astype(self.dtype)).reshape(*x.shape[:-1], self.outputs)


class ConvNorm(nn.Module):
    """A convolution, batch normalization and an activation: [b, h, w, c] to [b, h', w', outputs].

    Attributes:
      outputs: channels out; None filters every channel by itself (depthwise).
      kernel: side of the window.
      stride: step of the window.
      dilation: distance of neighbouring taps.
      activation: what follows the normalization.
      setting: what all layers share.
    """

    outputs: int | None
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu6"
    setting: Setting = Setting()

    def _convolution(self, x: Array) -> nn.Module:
        dialect, dtype = self.setting.dialect, self.setting.dtype
        if self.outputs is None:
            return DepthwiseConv(
                kernel=self.kernel,
                stride=self.stride,
                dilation=self.dilation,
                padding=dialect.depthwise_padding,
                lowering=self.setting.lowering,
                dtype=dtype,
                kernel_init=kernel_init(dialect.initializer, "depthwise"),
                name="conv",
            )
        if self.kernel == 1 and self.stride == 1:
            init = kernel_init(dialect.initializer, "pointwise")
            return PointwiseConv(self.outputs, dtype=dtype, kernel_init=init, name="conv")
        return nn.Conv(
            self.outputs,
            (self.kernel, self.kernel),
            strides=self.stride,
            kernel_dilation=self.dilation,
            padding=_pads(dialect.padding, self.kernel, self.stride, self.dilation, x),
            use_bias=False,
            dtype=dtype,
            kernel_init=kernel_init(dialect.initializer, "conv"),
            name="conv",
        )

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = self._convolution(x)(x)
        return activate(
            self.setting.norm("norm")(x, use_running_average=not train), self.activation
        )


class SqueezeExcite(nn.Module):
    """Weighs channels by what all positions say (V3, arXiv 1905.02244, section 5.3).

    Mean over space, a dense layer with ReLU, one with a hard sigmoid, a product with the input:
    [b, h, w, c] to the same shape.

    Attributes:
      squeeze: channels between the dense layers.
      setting: what all layers share.
    """

    squeeze: int
    setting: Setting = Setting()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = kernel_init(self.setting.dialect.initializer, "pointwise")
        dtype = self.setting.dtype
        mean = jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(x.dtype)
        reduced = nn.Dense(self.squeeze, dtype=dtype, kernel_init=init, name="reduce")(mean)
        expand = nn.Dense(x.shape[-1], dtype=dtype, kernel_init=init, name="expand")
        gate = nn.hard_sigmoid(expand(nn.relu(reduced)))
        return x * gate[:, None, None, :]
