"""Fast convolutions, with the normalization, bias and activation before or after them.

Each name is imported on first use, so configs can import `ops.types` without JAX.

- `convolution`: convolutions that normalize their input and compute batch statistics;
- `inverted`: a whole inverted residual as one operation;
- `activations`: ReLU6, h-swish and the others;
- `layer`: one layer (normalization, activation, convolution) in JAX operations;
- `native`: C++ kernels for layers and inverted residuals on CPUs;
- `lowering`: depthwise convolution in the lowerings `shifted` and `grouped`;
- `shifted`: depthwise convolution as a sum over taps;
- `choice`: the choice of a lowering from a table of measurements;
- `forward_mode`: errors for forward-mode derivatives of lowerings that have none;
- `panels`: pointwise kernels in the order in which `native` reads them;
- `quantizer`: uniform quantization, simulated in floating point;
- `distribution`: operations on arrays that are sharded over devices;
- `types`: the `Literal` types of options.
"""

from etils import epy

from mnet_jax.ops.types import Lowering

with epy.lazy_api_imports(globals()):
    from mnet_jax.ops.activations import activate, relu6
    from mnet_jax.ops.convolution import (
        best_lowering,
        depthwise,
        depthwise_conv,
        full,
        pointwise,
        reads_panels,
    )
    from mnet_jax.ops.inverted import FoldedConv, inverted_residual
    from mnet_jax.ops.layer import Convolved, Finish, Pending, over_channels, with_statistics
    from mnet_jax.ops.native import NativeError
    from mnet_jax.ops.panels import pack, unpack

__all__ = [
    "Convolved",
    "Finish",
    "FoldedConv",
    "Lowering",
    "NativeError",
    "Pending",
    "activate",
    "best_lowering",
    "depthwise",
    "depthwise_conv",
    "full",
    "inverted_residual",
    "over_channels",
    "pack",
    "pointwise",
    "reads_panels",
    "relu6",
    "unpack",
    "with_statistics",
]
