"""The papers' networks as data. No module here imports JAX."""

from mnet_jax.architectures.dialects import Dialect
from mnet_jax.architectures.mobilenet_v1 import mobilenet_v1
from mnet_jax.architectures.mobilenet_v2 import mobilenet_v2
from mnet_jax.architectures.spec import (
    ConvNorm,
    Head,
    InvertedResidual,
    NetworkSpec,
    Separable,
    walk,
)

__all__ = [
    "ConvNorm",
    "Dialect",
    "Head",
    "InvertedResidual",
    "NetworkSpec",
    "Separable",
    "mobilenet_v1",
    "mobilenet_v2",
    "walk",
]
