"""The blocks of V1 to V4 as Linen modules, usable by themselves. Feature maps are NHWC."""

import jax
from flax import linen as nn

from mnet_jax.architectures.dialects import dialect_of
from mnet_jax.architectures.spec import Activation, Shortcut
from mnet_jax.models.layers import ConvNorm, Setting, SqueezeExcite

Array = jax.Array

_PAPER_V1 = dialect_of("mobilenet_v1", "paper")
_PAPER_V4 = dialect_of("mobilenet_v4", "paper")


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
