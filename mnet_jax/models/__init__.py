"""MobileNets as Linen modules, for any JAX code.

    model = models.mobilenet_v2(width=0.5, num_classes=10)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=False)
    logits = model.apply(variables, images, train=False)

`model.spec` is the resolved architecture; `MobileNet(spec=...)` builds any other.
"""

from mnet_jax.models.factories import mobilenet_v1, mobilenet_v2
from mnet_jax.models.layers import (
    ConvNorm,
    DepthwiseConv,
    DepthwiseSeparable,
    InvertedResidual,
    PointwiseConv,
    Setting,
)
from mnet_jax.models.network import MobileNet

__all__ = [
    "ConvNorm",
    "DepthwiseConv",
    "DepthwiseSeparable",
    "InvertedResidual",
    "MobileNet",
    "PointwiseConv",
    "Setting",
    "mobilenet_v1",
    "mobilenet_v2",
]
