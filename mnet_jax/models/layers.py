"""The layers of the family as Linen modules, usable by themselves. Feature maps are NHWC."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnet_jax import ops
from mnet_jax.architectures.dialects import Dialect, Initializer, Padding, dialect_of
from mnet_jax.architectures.spec import Activation, Shortcut, pad_amounts
from mnet_jax.ops.depthwise import Lowering

Array = jax.Array
KernelInit = Callable[[Array, tuple[int, ...], Any], Array]
Kind = Literal["conv", "depthwise", "pointwise", "dense"]

_PAPER_V1 = dialect_of("mobilenet_v1", "paper")
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
    return relu6(x) if activation == "relu6" else nn.relu(x)


def kernel_init(initializer: Initializer, kind: Kind) -> KernelInit:
    """The initializer of a layer's kernel.

    Kernels are [kh, kw, in, out] for `conv`, [kh, kw, c] for `depthwise`, [in, out] for the others.
    """
    if initializer == "truncated_normal_0.09":
        return nn.initializers.truncated_normal(stddev=0.09)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        window = math.prod(shape[:2]) if kind in ("conv", "depthwise") else 1
        outputs = shape[-1]
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


def _padding(padding: Padding, kernel: int, stride: int, x: Array) -> tuple[tuple[int, int], ...]:
    return tuple(pad_amounts(padding, kernel, stride, size) for size in x.shape[1:3])


class DepthwiseConv(nn.Module):
    """A depthwise convolution without bias: [b, h, w, c] to [b, h', w', c].

    Attributes:
      kernel: side of the window.
      stride: step of the window.
      padding: see `mnet_jax.architectures.spec.pad_amounts`.
      lowering: see `mnet_jax.ops.depthwise_conv`.
      dtype: type of the computation; the parameter `kernel` [kernel, kernel, c] is float32.
      kernel_init: initializer of that parameter.
    """

    kernel: int = 3
    stride: int = 1
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
            padding=_padding(self.padding, self.kernel, self.stride, x),
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
      activation: what follows the normalization.
      setting: what all layers share.
    """

    outputs: int | None
    kernel: int = 1
    stride: int = 1
    activation: Activation = "relu6"
    setting: Setting = Setting()

    def _convolution(self, x: Array) -> nn.Module:
        dialect, dtype = self.setting.dialect, self.setting.dtype
        if self.outputs is None:
            return DepthwiseConv(
                kernel=self.kernel,
                stride=self.stride,
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
            padding=_padding(dialect.padding, self.kernel, self.stride, x),
            use_bias=False,
            dtype=dtype,
            kernel_init=kernel_init(dialect.initializer, "conv"),
            name="conv",
        )

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = self._convolution(x)(x)
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.setting.dialect.norm_momentum,
            epsilon=self.setting.dialect.norm_epsilon,
            dtype=self.setting.dtype,
            axis_name=self.setting.axis_name,
            name="norm",
        )(x)
        return activate(x, self.activation)


class DepthwiseSeparable(nn.Module):
    """V1's block (arXiv 1704.04861, Fig. 3): [b, h, w, c] to [b, h', w', outputs].

    Attributes:
      outputs: channels out.
      kernel: side of the depthwise window.
      stride: step of the depthwise window.
      activation: what follows both normalizations.
      setting: what all layers share.
    """

    outputs: int
    kernel: int = 3
    stride: int = 1
    activation: Activation = "relu6"
    setting: Setting = Setting(dialect=_PAPER_V1)

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        depthwise = ConvNorm(
            None, self.kernel, self.stride, self.activation, self.setting, name="depthwise"
        )
        pointwise = ConvNorm(
            self.outputs, activation=self.activation, setting=self.setting, name="pointwise"
        )
        filtered = depthwise(x, train=train)
        self.sow("intermediates", "filtered", filtered)
        return pointwise(filtered, train=train)


class InvertedResidual(nn.Module):
    """V2's block (arXiv 1801.04381, Table 1): [b, h, w, c] to [b, h', w', outputs].

    Attributes:
      outputs: channels of the bottleneck out.
      expanded: channels between; None leaves the expansion layer out.
      kernel: side of the depthwise window.
      stride: step of the depthwise window.
      activation: what follows the expansion and the depthwise convolution.
      bottleneck: what follows the projection.
      shortcut: `bottleneck` adds the input to the output, whose shapes must agree. `expansion`
        spans two blocks, so the caller passes one block's `widen` to the next one's.
      setting: what all layers share.
    """

    outputs: int
    expanded: int | None = None
    kernel: int = 3
    stride: int = 1
    activation: Activation = "relu6"
    bottleneck: Activation = "linear"
    shortcut: Shortcut = "none"
    setting: Setting = Setting()

    def setup(self) -> None:
        if self.expanded is not None:
            self.expand = ConvNorm(self.expanded, activation=self.activation, setting=self.setting)
        self.depthwise = ConvNorm(None, self.kernel, self.stride, self.activation, self.setting)
        self.project = ConvNorm(self.outputs, activation=self.bottleneck, setting=self.setting)

    def widen(self, x: Array, *, train: bool, skip: Array | None = None) -> Array:
        """Expands, adds `skip` [b, h, w, expanded] if given, filters: [b, h', w', expanded]."""
        if self.expanded is not None:
            x = self.expand(x, train=train)
            self.sow("intermediates", "expanded", x)
        x = self.depthwise(x if skip is None else x + skip, train=train)
        self.sow("intermediates", "filtered", x)
        return x

    def narrow(self, wide: Array, *, train: bool) -> Array:
        """Projects [b, h', w', expanded] to the bottleneck, [b, h', w', outputs]."""
        x = self.project(wide, train=train)
        self.sow("intermediates", "projected", x)
        return x

    def __call__(self, x: Array, *, train: bool) -> Array:
        y = self.narrow(self.widen(x, train=train), train=train)
        return x + y if self.shortcut == "bottleneck" else y
