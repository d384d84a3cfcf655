"""The layers of the family as Linen modules, usable by themselves. Feature maps are NHWC."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnet_jax import ops
from mnet_jax.architectures.dialects import Dialect, Initializer, Padding, dialect_of
from mnet_jax.architectures.shapes import pad_amounts
from mnet_jax.architectures.spec import Activation, Kind, Shortcut
from mnet_jax.ops.depthwise import Lowering

Array = jax.Array
KernelInit = Callable[[Array, tuple[int, ...], Any], Array]

_PAPER_V1 = dialect_of("mobilenet_v1", "paper")
_PAPER_V2 = dialect_of("mobilenet_v2", "paper")
_PAPER_V4 = dialect_of("mobilenet_v4", "paper")


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


def kernel_init(initializer: Initializer, kind: Kind) -> KernelInit:
    """The initializer of a layer's kernel.

    Kernels are [kh, kw, in, out] for `conv`, [kh, kw, c] for `depthwise`, [in, out] for the others.
    """
    if initializer == "truncated_normal_0.09":
        return nn.initializers.truncated_normal(stddev=0.09)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        window = math.prod(shape[:2]) if kind in ("conv", "depthwise") else 1
        outputs = shape[-1]
        if initializer == "variance_scaling":
            fan_in = window * (1 if kind == "depthwise" else shape[-2])
            # Of a normal cut off at two deviations, this share of the deviation is left.
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
      padding: see `mnet_jax.architectures.spec.pad_amounts`.
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


class DepthwiseSeparable(nn.Module):
    """V1's block (arXiv 1704.04861, Fig. 3): [b, h, w, c] to [b, h', w', outputs].

    Attributes:
      outputs: channels out.
      kernel: side of the depthwise window.
      stride: step of the depthwise window.
      dilation: distance of its neighbouring taps.
      activation: what follows both normalizations.
      setting: what all layers share.
    """

    outputs: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu6"
    setting: Setting = Setting(dialect=_PAPER_V1)

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        depthwise = ConvNorm(
            None, self.kernel, self.stride, self.dilation, self.activation, self.setting,
            name="depthwise",
        )  # fmt: skip
        pointwise = ConvNorm(
            self.outputs, activation=self.activation, setting=self.setting, name="pointwise"
        )
        filtered = depthwise(x, train=train)
        self.sow("intermediates", "filtered", filtered)
        return pointwise(filtered, train=train)


class FusedInvertedResidual(nn.Module):
    """V4's fused block (arXiv 2404.10518, section 3): [b, h, w, c] to [b, h', w', outputs].

    Attributes:
      outputs: channels out.
      expanded: channels of the full convolution.
      kernel: side of its window.
      stride: its step.
      dilation: distance of its neighbouring taps.
      activation: what follows it.
      bottleneck: what follows the projection.
      setting: what all layers share.
    """

    outputs: int
    expanded: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu"
    bottleneck: Activation = "linear"
    setting: Setting = Setting(dialect=_PAPER_V4)

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        expand = ConvNorm(
            self.expanded, self.kernel, self.stride, self.dilation, self.activation, self.setting,
            name="expand",
        )  # fmt: skip
        project = ConvNorm(
            self.outputs, activation=self.bottleneck, setting=self.setting, name="project"
        )
        x = expand(x, train=train)
        self.sow("intermediates", "expanded", x)
        x = project(x, train=train)
        self.sow("intermediates", "projected", x)
        return x


class InvertedResidual(nn.Module):
    """The block of V2, V3 and V4 (see `architectures.InvertedResidual`).

    [b, h, w, c] to [b, h', w', outputs].

    Attributes:
      outputs: channels of the bottleneck out.
      expanded: channels between; None leaves the expansion layer out.
      kernel: side of the depthwise window behind the expansion; 0 for none.
      start_kernel: side of the linear depthwise window before the expansion; 0 for none.
      stride: of the depthwise convolution behind the expansion, or else of that before it.
      dilation: distance of neighbouring taps of both.
      activation: what follows the expansion and the depthwise convolution behind it.
      squeeze: channels between the dense layers of the squeeze-and-excitation; 0 for none.
      bottleneck: what follows the projection.
      shortcut: `bottleneck` adds the input to the output, whose shapes must agree. `expansion`
        spans two blocks, so the caller passes one block's `widen` to the next one's.
      setting: what all layers share.
    """

    outputs: int
    expanded: int | None = None
    kernel: int = 3
    start_kernel: int = 0
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu6"
    squeeze: int = 0
    bottleneck: Activation = "linear"
    shortcut: Shortcut = "none"
    setting: Setting = Setting()

    def setup(self) -> None:
        dilation, setting = self.dilation, self.setting
        if self.start_kernel:
            stride = 1 if self.kernel else self.stride
            self.start = ConvNorm(None, self.start_kernel, stride, dilation, "linear", setting)
        if self.expanded is not None:
            self.expand = ConvNorm(self.expanded, activation=self.activation, setting=setting)
        if self.kernel:
            self.depthwise = ConvNorm(
                None, self.kernel, self.stride, dilation, self.activation, setting
            )
        if self.squeeze:
            self.squeeze_excite = SqueezeExcite(self.squeeze, setting)
        self.project = ConvNorm(self.outputs, activation=self.bottleneck, setting=setting)

    def widen(self, x: Array, *, train: bool, skip: Array | None = None) -> Array:
        """What is projected, [b, h', w', expanded]; `skip` of that shape joins the expansion."""
        if self.start_kernel:
            x = self.start(x, train=train)
            self.sow("intermediates", "started", x)
        if self.expanded is not None:
            x = self.expand(x, train=train)
            self.sow("intermediates", "expanded", x)
        if skip is not None:
            x = x + skip
        if self.kernel:
            x = self.depthwise(x, train=train)
            self.sow("intermediates", "filtered", x)
        if self.squeeze:
            x = self.squeeze_excite(x)
            self.sow("intermediates", "weighed", x)
        return x

    def narrow(self, wide: Array, *, train: bool) -> Array:
        """Projects [b, h', w', expanded] to the bottleneck, [b, h', w', outputs]."""
        x = self.project(wide, train=train)
        self.sow("intermediates", "projected", x)
        return x

    def __call__(self, x: Array, *, train: bool) -> Array:
        y = self.narrow(self.widen(x, train=train), train=train)
        return x + y if self.shortcut == "bottleneck" else y
