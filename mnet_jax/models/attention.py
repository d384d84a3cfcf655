"""The attention block of V4's hybrids as a Linen module, usable on its own. Feature maps are NHWC.

The products are XLA's (`jax.nn.dot_product_attention`); the convolutions have all lowerings of
`mnet_jax.ops`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnet_jax import ops
from mnet_jax.architectures.dialects import Initializer, dialect_of
from mnet_jax.architectures.spec import AttentionKind
from mnet_jax.models.layers import ConvNorm, DropPath, PointwiseConv, kernel_init
from mnet_jax.models.normalization import (
    InputNorm,
    Setting,
    as_pending,
    layer_scale,
    scale_channels,
    sow,
)
from mnet_jax.ops import Pending

Array = jax.Array

GLOROT: Initializer = "glorot_uniform"
_PAPER_V4 = dialect_of("mobilenet_v4", "paper")


class Attention(nn.Module):
    """The attention block of V4's hybrids; see `architectures.Attention`.

    It maps [b, h, w, c] to the same shape. Its kernels have Glorot's initial values in all dialects
    (as timm has them, because this made the training of the hybrids more stable).

    Attributes:
      heads: number of heads.
      head_channels: channels of a head's query, key and value.
      kind: `mqa` if all heads share keys and values, `mha` if each head has its own.
      downsampling: stride, 1 or 2, of the keys and values.
      kernel: side of the depthwise windows that downsample.
      shortcut: `bottleneck` adds the input to the output.
      layer_scale: whether a learned scale per channel multiplies the output before the shortcut.
      drop_path: probability that an image skips the block in training. See `DropPath`.
      setting: settings shared by all layers of a network.
    """

    heads: int
    head_channels: int
    kind: AttentionKind = "mqa"
    downsampling: int = 1
    kernel: int = 3
    shortcut: Literal["bottleneck", "none"] = "bottleneck"
    layer_scale: bool = False
    drop_path: float = 0.0
    setting: Setting = Setting(dialect=_PAPER_V4)

    def __call__(self, x: Array, train: bool) -> Array:
        return self.pending(x, train=train).value()

    @nn.compact
    def pending(self, x: Array | Pending, *, train: bool) -> Pending:
        """Returns the output; nothing of it is pending (`Pending`)."""
        setting, dtype = self.setting, self.setting.dtype
        given = as_pending(as_pending(x, dtype).value(), dtype)
        normalized = InputNorm(setting, name="input").pending(given, train=train)
        sow(self, "normalized", normalized)
        query = _projection(self.heads * self.head_channels, setting, "query")(normalized)
        sow(self, "queries", query)
        shared = 1 if self.kind == "mqa" else self.heads
        context = {}
        for name in ("key", "value"):
            branch = _Context(
                shared * self.head_channels, self.downsampling, self.kernel, setting, name=name
            )
            small, context[name] = branch(normalized, train=train)
            if self.downsampling > 1:
                sow(self, f"downsampled_{name}s", small)
            sow(self, f"{name}s", context[name])
        attended = attend(
            query.x, context["key"].x, context["value"].x, heads=self.heads, key_heads=shared
        )
        sow(self, "attended", as_pending(attended, dtype))
        y = _projection(given.x.shape[-1], setting, "output")(as_pending(attended, dtype))
        if self.layer_scale and not setting.folded:
            y = scale_channels(y, layer_scale(self, given.x.shape[-1]))
        sow(self, "projected", y)
        if self.shortcut != "bottleneck":
            return y
        kept = DropPath(self.drop_path)(y.x, deterministic=not train)
        return as_pending(given.x + kept, dtype)


def attend(query: Array, key: Array, value: Array, *, heads: int, key_heads: int) -> Array:
    """Computes softmax(q k^T / sqrt(d)) v for each head, over all positions of two maps.

    The softmax is computed in float32 or wider.

    Args:
      query: [b, h, w, heads * d].
      key: [b, h', w', key_heads * d].
      value: [b, h', w', key_heads * d].
      heads: number of heads.
      key_heads: number of keys at a position: `heads`, or 1 for all heads.

    Returns:
      [b, h, w, heads * d].
    """

    # In two steps, through which JAX follows explicit shardings.
    def split(x: Array, count: int) -> Array:
        batch, rows, columns, channels = x.shape
        flat = x.reshape(batch, rows * columns, channels)
        return flat.reshape(batch, rows * columns, count, channels // count)

    found = jax.nn.dot_product_attention(
        split(query, heads), split(key, key_heads), split(value, key_heads)
    )
    return found.reshape(*found.shape[:2], query.shape[-1]).reshape(query.shape)


class _Context(nn.Module):
    """The projection of a feature map to keys or values, after downsampling if there is any."""

    outputs: int
    downsampling: int
    kernel: int
    setting: Setting

    @nn.compact
    def __call__(self, x: Pending, *, train: bool) -> tuple[Pending, Pending]:
        """Returns the map that is projected, and its projection."""
        if self.downsampling > 1:
            downsample = ConvNorm(
                None, self.kernel, self.downsampling, 1, "linear", _with_glorot(self.setting),
                name="downsample",
            )  # fmt: skip
            x = downsample.pending(x, train=train)
        return x, _projection(self.outputs, self.setting, "project")(x)


def _projection(outputs: int, setting: Setting, name: str) -> Callable[[Pending], Pending]:
    """Returns a pointwise convolution without bias, as a submodule of the calling module."""
    convolution = PointwiseConv(
        outputs,
        setting.dtype,
        kernel_init(GLOROT, "pointwise"),
        setting.lowering,
        setting.packed,
        name=name,
    )
    # Panels are only read by kernels that add a bias.
    zero = ops.Finish(bias=jnp.zeros(outputs, jnp.float32)) if setting.packed else None
    return lambda x: Pending(x=convolution.convolve(x, finish=zero).y)


def _with_glorot(setting: Setting) -> Setting:
    dialect = dataclasses.replace(setting.dialect, initializer=GLOROT)
    return dataclasses.replace(setting, dialect=dialect)
