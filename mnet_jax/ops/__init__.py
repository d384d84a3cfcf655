"""Fast convolutions, and the operations around them.

Each name is imported on first use, so configs can import `ops.types` without JAX.
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
    from mnet_jax.ops.inverted import Folded, inverted_residual
    from mnet_jax.ops.layer import Convolved, measured
    from mnet_jax.ops.native import NativeError
    from mnet_jax.ops.panels import pack, unpack
    from mnet_jax.ops.pending import Finish, Pending, over_channels

__all__ = [
    "Convolved",
    "Finish",
    "Folded",
    "Lowering",
    "NativeError",
    "Pending",
    "activate",
    "best_lowering",
    "depthwise",
    "depthwise_conv",
    "full",
    "inverted_residual",
    "measured",
    "over_channels",
    "pack",
    "pointwise",
    "reads_panels",
    "relu6",
    "unpack",
]
