"""The operations that XLA's own lowerings leave slow: depthwise convolution."""

from mnet_jax.ops.depthwise import depthwise_conv

__all__ = ["depthwise_conv"]
