"""Kernels in C++ for training on a CPU, compiled on the machine that runs them.

XLA runs a convolution, its normalization and its activation as loops of their own, each of which
reads and writes feature maps that do not fit a cache. The kernels have one pass for them. They
are optional: without them everything computes the same, more slowly.
"""

from mnet_jax.ops.native.calls import supports
from mnet_jax.ops.native.compilation import NativeError, build, is_built, say_unavailable
from mnet_jax.ops.native.differentiation import convolve, finish, invert

__all__ = [
    "NativeError",
    "build",
    "convolve",
    "finish",
    "invert",
    "is_built",
    "say_unavailable",
    "supports",
]
