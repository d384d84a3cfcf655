"""MobileNets as Flax NNX modules: the networks of `models`, with their variables inside.

    from flax.nnx import Rngs
    from mnet_jax import nnx

    network = nnx.mobilenet_v2(num_classes=10, rngs=Rngs(0))
    network.eval()
    logits = network(images)

`flax.nnx.jit`, `flax.nnx.Optimizer`, `flax.nnx.split` and so on work as with any NNX module.

- `module`: any network of `models` as an NNX module;
- `factories`: the papers' networks.
"""

from mnet_jax.nnx.factories import (
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    mobilenet_v3_large,
    mobilenet_v3_small,
    mobilenet_v4,
    mobilenet_v4_conv_large,
    mobilenet_v4_conv_medium,
    mobilenet_v4_conv_small,
    mobilenet_v4_hybrid_large,
    mobilenet_v4_hybrid_medium,
)
from mnet_jax.nnx.module import MobileNet, from_variables

__all__ = [
    "MobileNet",
    "from_variables",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v4",
    "mobilenet_v4_conv_large",
    "mobilenet_v4_conv_medium",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_hybrid_large",
    "mobilenet_v4_hybrid_medium",
]
