"""Batch normalization and layer scales; the settings of all layers; storage of activations."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnet_jax.architectures.dialects import Dialect, dialect_of
from mnet_jax.architectures.spec import Activation
from mnet_jax.models.types import Quantization
from mnet_jax.ops import Convolved, Finish, Lowering, Pending, over_channels, with_statistics
from mnet_jax.validation import require

Array = jax.Array

FIRST_LAYER_SCALE = 1e-5  # of networks of any depth, as in timm's V4
_PAPER_V2 = dialect_of("mobilenet_v2", "paper")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings shared by all layers of a network.

    Attributes:
      dialect: padding, normalization constants and initialization.
      dtype: type of the computation; parameters and statistics are float32.
      lowering: how convolutions are computed; see `mnet_jax.ops.depthwise_conv`.
      axis_name: the pmap axis over which batch normalization averages its statistics, or None.
      folded: whether batch normalization is folded into the kernels, so that only a bias is left.
      packed: whether pointwise kernels are stored as panels (`mnet_jax.ops.pack`); requires
        `folded`.
      quantization: how kernels and activations are rounded, or None.
    """

    dialect: Dialect = _PAPER_V2
    dtype: Any = jnp.float32
    lowering: Lowering = "auto"
    axis_name: str | None = None
    folded: bool = False
    packed: bool = False
    quantization: Quantization | None = None

    def at(self, path: str) -> "Setting":
        """Returns the setting of the layer with this path; see `Quantization.at`."""
        if self.quantization is None:
            return self
        return dataclasses.replace(self, quantization=self.quantization.at(path))


class BatchNorm(nn.Module):
    """Batch normalization (arXiv 1502.03167) and an activation, returned as an `ops.Pending`.

    In training, the layer uses the statistics of the batch, and updates the running statistics.
    A single value per channel equals its own mean: the output would be the bias for any input, and
    the gradient zero. Training on a single value therefore raises an error. `init` does not, since
    it keeps no statistics.

    Attributes:
      channels: number of channels of the feature map.
      momentum: fraction of the running statistics that is kept at each step.
      epsilon: constant added to the variance.
      activation: activation after the normalization.
      axis_name: the pmap axis over which the statistics are averaged, or None.
    """

    channels: int
    momentum: float
    epsilon: float
    activation: Activation = "linear"
    axis_name: str | None = None

    def setup(self) -> None:
        shape = (self.channels,)
        self.scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        self.running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        self.running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)

    def rate(self) -> Array:
        """Returns the factor [c] by which inference multiplies each channel."""
        return self.scale * jax.lax.rsqrt(self.running_var.value + self.epsilon)

    def __call__(self, convolved: Convolved, train: bool) -> Pending:
        """Returns the feature map [..., c] with normalization and activation pending (`Pending`).

        Raises:
          ValueError: in training there is a single value per channel.
        """
        running_mean, running_var = self.running_mean, self.running_var
        mean, var = running_mean.value, running_var.value
        if train:
            mean, var = self._statistics(convolved)
            if not self.is_initializing():
                for running, now in ((running_mean, mean), (running_var, var)):
                    kept = self.momentum * running.value
                    running.value = kept + (1 - self.momentum) * jax.lax.stop_gradient(now)
        rate = self.scale * jax.lax.rsqrt(var + self.epsilon)
        norm = jnp.stack([mean, rate, self.bias])
        return Pending(x=convolved.y, norm=norm, activation=self.activation)

    def _statistics(self, convolved: Convolved) -> tuple[Array, Array]:
        """Returns the mean and variance [c] of the batch, over all devices."""
        mean, var = convolved.mean, convolved.var
        assert mean is not None and var is not None
        if self.is_initializing():
            return mean, var
        devices = jax.lax.axis_size(self.axis_name) if self.axis_name else 1
        if math.prod(convolved.y.shape[:-1]) * devices == 1:
            layer = "/".join(self.path[:-1]) or "the layer"
            raise ValueError(
                f"{layer}: got 1 value a channel to normalize in training, of shape "
                f"{convolved.y.shape}, legal: more than 1, by more images or larger ones"
            )
        if self.axis_name:
            square = var + mean * mean
            mean, square = jax.lax.pmean((mean, square), self.axis_name)
            var = jnp.maximum(square - mean * mean, 0)
        return mean, var


class Bias(nn.Module):
    """The bias that is left of a `BatchNorm` after it was folded into the preceding kernel.

    Attributes:
      channels: output channels of the kernel.
      activation: activation after the bias.
    """

    channels: int
    activation: Activation = "linear"

    @nn.compact
    def __call__(self) -> Finish:
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        return Finish(bias=bias, activation=self.activation)


class InputNorm(nn.Module):
    """Batch normalization without a convolution before it: [b, h, w, c] to the same shape.

    If batch normalization is folded, it is reduced to a scale and a bias.

    Attributes:
      setting: settings shared by all layers of a network.
    """

    setting: Setting = Setting()

    @nn.compact
    def pending(self, x: Pending, *, train: bool) -> Pending:
        """Returns the normalized feature map; the normalization may be pending (`Pending`)."""
        y, dialect, setting = x.value(), self.setting.dialect, self.setting
        channels = y.shape[-1]
        if setting.folded:
            require(not train, "train", train, "False, as batch normalization is folded")
            return ScaleAndBias(channels, name="norm")(y)
        norm = BatchNorm(
            channels=channels,
            momentum=dialect.norm_momentum,
            epsilon=dialect.norm_epsilon,
            axis_name=setting.axis_name,
            name="norm",
        )
        return norm(with_statistics(y) if train else Convolved(y), train=train)


class ScaleAndBias(nn.Module):
    """The scale and bias that are left of a `BatchNorm` that no kernel precedes.

    Attributes:
      channels: channels of the feature map.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Pending:
        shape = (self.channels,)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return Pending(x=x, norm=jnp.stack([jnp.zeros_like(scale), scale, bias]))


def layer_scale(module: nn.Module, channels: int) -> Array:
    """Returns the parameter `layer_scale` [c] of a module (arXiv 2103.17239, section 2.1)."""
    init = nn.initializers.constant(FIRST_LAYER_SCALE)
    found: Array = module.param("layer_scale", init, (channels,), jnp.float32)
    return found


def scale_channels(x: Pending, scale: Array) -> Pending:
    """Multiplies the channels of a feature map without activation by a scale [c]."""
    assert x.activation == "linear"
    if x.norm is not None:
        return dataclasses.replace(x, norm=x.norm.at[1:].multiply(scale))
    return dataclasses.replace(x, x=(x.x * over_channels(scale, x.x)).astype(x.x.dtype))


def as_pending(x: Array | Pending, dtype: Any) -> Pending:
    """Returns x as a `Pending`; an array is cast to `dtype` and has nothing pending."""
    return x if isinstance(x, Pending) else Pending(x=x.astype(dtype))


def sow(module: nn.Module, name: str, x: Pending) -> None:
    """Stores x for a caller that requests the activations of a network.

    The collection `intermediates` gets the values of x, and the collection `preactivations` gets x
    without its activation. A collection that is not mutable gets nothing.
    """
    if module.is_mutable_collection("intermediates"):
        module.sow("intermediates", name, x.value())
    # In `init` every collection but `intermediates` is mutable: `preactivations` would be returned.
    if module.is_mutable_collection("preactivations") and not module.is_initializing():
        module.sow("preactivations", name, dataclasses.replace(x, activation="linear").value())
