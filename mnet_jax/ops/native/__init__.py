"""Native kernels: convolutions in C++ for a CPU, compiled on the machine that runs them.

XLA runs a convolution, its normalization and its activation as separate loops, and each loop
reads and writes feature maps that do not fit a cache. A native kernel does all three in one pass.
The kernels are optional: without them, XLA computes the same results more slowly. README.md in this
directory gives an overview.

- `calls`: each kernel as a function of JAX arrays; primitives that use JAX where no kernel can run;
- `differentiation`: the kernels with their gradients;
- `compilation`: the compiler, the cache, and loading.
"""

from mnet_jax.ops.native.calls import activates, supports
from mnet_jax.ops.native.compilation import NativeError, build, is_built, say_unavailable
from mnet_jax.ops.native.differentiation import convolve, finish, inverted_residual

__all__ = [
    "NativeError",
    "activates",
    "build",
    "convolve",
    "finish",
    "inverted_residual",
    "is_built",
    "say_unavailable",
    "supports",
]
