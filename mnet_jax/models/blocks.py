"""The blocks of V1 to V4 as Linen modules, usable on their own. Feature maps are NHWC.

A pending normalization or activation is one that the next convolution applies (`ops.Pending`).
"""

import jax
from flax import linen as nn

from mnet_jax import ops
from mnet_jax.architectures.dialects import dialect_of
from mnet_jax.architectures.spec import Activation, Shortcut
from mnet_jax.models.layers import ConvNorm, DropPath, SqueezeExcite, pads
from mnet_jax.models.normalization import (
    Setting,
    as_pending,
    layer_scale,
    scale_channels,
    sow,
)
from mnet_jax.models.quantizers import activation_quantizer, rounded
from mnet_jax.ops import Pending

Array = jax.Array

_PAPER_V1 = dialect_of("mobilenet_v1", "paper")
_PAPER_V4 = dialect_of("mobilenet_v4", "paper")


class DepthwiseSeparable(nn.Module):
    """The depthwise separable block of V1 (arXiv 1704.04861, Fig. 3).

    It maps [b, h, w, c] to [b, h', w', outputs].

    Attributes:
      outputs: output channels.
      kernel: side of the depthwise window.
      stride: step of the depthwise window.
      dilation: distance between neighbouring taps of the depthwise window.
      activation: activation after both normalizations.
      setting: settings shared by all layers of a network.
    """

    outputs: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu6"
    setting: Setting = Setting(dialect=_PAPER_V1)

    def __call__(self, x: Array, train: bool) -> Array:
        return self.pending(x, train=train).value()

    @nn.compact
    def pending(self, x: Array | Pending, *, train: bool) -> Pending:
        """Returns the output; its last normalization and activation may be pending (`Pending`)."""
        depthwise = ConvNorm(
            None, self.kernel, self.stride, self.dilation, self.activation, self.setting,
            name="depthwise",
        )  # fmt: skip
        pointwise = ConvNorm(
            self.outputs, activation=self.activation, setting=self.setting, name="pointwise"
        )
        if _is_one_operation(self, train=train):
            return _at_once(x, None, depthwise, pointwise)
        filtered = depthwise.pending(x, train=train)
        sow(self, "filtered", filtered)
        return pointwise.pending(filtered, train=train)


class FusedInvertedResidual(nn.Module):
    """The fused block of V4 (arXiv 2404.10518, section 3).

    It maps [b, h, w, c] to [b, h', w', outputs].

    Attributes:
      outputs: output channels.
      expanded: output channels of the full convolution.
      kernel: side of the full convolution's window.
      stride: step of the full convolution's window.
      dilation: distance between neighbouring taps of the full convolution.
      activation: activation after the full convolution.
      bottleneck: activation after the projection.
      setting: settings shared by all layers of a network.
    """

    outputs: int
    expanded: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    activation: Activation = "relu"
    bottleneck: Activation = "linear"
    setting: Setting = Setting(dialect=_PAPER_V4)

    def __call__(self, x: Array, train: bool) -> Array:
        return self.pending(x, train=train).value()

    @nn.compact
    def pending(self, x: Array | Pending, *, train: bool) -> Pending:
        """Returns the output; its last normalization and activation may be pending (`Pending`)."""
        expand = ConvNorm(
            self.expanded, self.kernel, self.stride, self.dilation, self.activation, self.setting,
            name="expand",
        )  # fmt: skip
        project = ConvNorm(
            self.outputs, activation=self.bottleneck, setting=self.setting, name="project"
        )
        expanded = expand.pending(x, train=train)
        sow(self, "expanded", expanded)
        projected = project.pending(expanded, train=train)
        sow(self, "projected", projected)
        return projected


class InvertedResidual(nn.Module):
    """The inverted residual block of V2, V3 and V4; see `architectures.InvertedResidual`.

    It maps [b, h, w, c] to [b, h', w', outputs].

    Attributes:
      outputs: output channels.
      expanded: channels between expansion and projection; None omits the expansion layer.
      kernel: side of the depthwise window after the expansion; 0 for none.
      start_kernel: side of the linear depthwise window before the expansion; 0 for none.
      stride: step of the depthwise window after the expansion or, if `kernel` is 0, of the window
        before the expansion.
      dilation: distance between neighbouring taps of both depthwise windows.
      activation: activation after the expansion, and after the depthwise convolution that follows
        the expansion.
      squeeze: channels between the dense layers of squeeze-and-excitation; 0 for none.
      bottleneck: activation after the projection.
      shortcut: `bottleneck` adds the input to the output, which must have the same shape.
        `expansion` spans two blocks: the caller passes the result of one block's `widen` to the
        next block as `skip`.
      layer_scale: whether a learned scale per channel multiplies the projection.
      drop_path: probability that an image skips the block in training; only a `bottleneck` shortcut
        makes this possible. See `DropPath`.
      setting: settings shared by all layers of a network.
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
    layer_scale: bool = False
    drop_path: float = 0.0
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
        self.stochastic_depth = DropPath(self.drop_path)
        self.scales = self.layer_scale and not self.setting.folded
        if self.scales:
            self.scale = layer_scale(self, self.outputs)
        self.skip_quantizer = activation_quantizer(setting)
        self.sum_quantizer = activation_quantizer(setting)

    def widen(self, x: Array | Pending, *, train: bool, skip: Array | None = None) -> Pending:
        """Returns the input of the projection, [b, h', w', expanded].

        Args:
          x: feature map [b, h, w, c].
          train: whether batch normalization uses the statistics of the batch.
          skip: array to add to the output of the expansion layer, or None.
        """
        dtype = self.setting.dtype
        x = as_pending(x, dtype)
        if self.start_kernel:
            x = self.start.pending(x, train=train)
            sow(self, "started", x)
        if self.expanded is not None:
            x = self.expand.pending(x, train=train)
            sow(self, "expanded", x)
        if skip is not None:
            x = as_pending(rounded(x.value() + skip, self.skip_quantizer), dtype)
        if self.kernel:
            x = self.depthwise.pending(x, train=train)
            sow(self, "filtered", x)
        if self.squeeze:
            x = as_pending(self.squeeze_excite(x.value()), dtype)
            sow(self, "weighed", x)
        return x

    def narrow(self, wide: Pending, *, train: bool) -> Pending:
        """Projects [b, h', w', expanded] to [b, h', w', outputs]."""
        projected = self.project.pending(wide, train=train)
        if self.scales:
            projected = scale_channels(projected, self.scale)
        sow(self, "projected", projected)
        return projected

    def __call__(self, x: Array, train: bool) -> Array:
        return self.pending(x, train=train).value()

    def pending(self, x: Array | Pending, *, train: bool, skip: Array | None = None) -> Pending:
        """Returns the output; its last normalization and activation may be pending (`Pending`).

        `skip` is added to the output of the expansion layer; see `widen`.
        """
        dtype = self.setting.dtype
        x, adds = as_pending(x, dtype), self.shortcut == "bottleneck"
        if adds:  # x is read twice, so apply its pending operations once
            x = as_pending(x.value(), dtype)
        if (
            self.kernel
            and not self.squeeze
            and skip is None
            and _is_one_operation(self, train=train)
        ):
            started = self.start.pending(x, train=train) if self.start_kernel else x
            expand = None if self.expanded is None else self.expand
            return _at_once(started, expand, self.depthwise, self.project, x.x if adds else None)
        y = self.narrow(self.widen(x, train=train, skip=skip), train=train)
        if not adds:
            return y
        kept = self.stochastic_depth(y.value(), deterministic=not train)
        return as_pending(rounded(x.x + kept, self.sum_quantizer), dtype)


def _is_one_operation(block: nn.Module, *, train: bool) -> bool:
    """Returns whether a folded block can run as one operation.

    The layers run separately in training, and if activations between them are requested.
    """
    requestable = ("intermediates", "preactivations", "params")
    return (
        block.setting.packed
        and not train
        and not any(map(block.is_mutable_collection, requestable))
    )


def _at_once(
    x: Array | Pending,
    expand: ConvNorm | None,
    depthwise: ConvNorm,
    project: ConvNorm,
    skip: Array | None = None,
) -> Pending:
    """Runs the layers of a folded block as one operation."""
    setting, kernel = depthwise.setting, depthwise.kernel
    x = as_pending(x, setting.dtype).value()
    stride, dilation = depthwise.stride, depthwise.dilation
    y = ops.inverted_residual(
        x,
        expand.folded() if expand else None,
        depthwise.folded(),
        project.folded(),
        strides=stride,
        padding=pads(setting.dialect.depthwise_padding, kernel, stride, dilation, x),
        dilation=dilation,
        skip=skip,
        lowering=setting.lowering,
    )
    return Pending(x=y)
