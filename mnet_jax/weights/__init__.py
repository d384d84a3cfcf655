"""Weights of torchvision, timm and Keras as our variables, and back.

    model = models.mobilenet_v4_conv_small(dialect="timm")
    variables = weights.from_timm(weights.read("mobilenetv4.safetensors"), model)
    logits = model.apply(variables, images, train=False)

The logits are the library's own where the model's dialect is the library's; `read` lists the kinds
of files. PyTorch and Keras are needed only for what says so.
"""

from mnet_jax.weights.errors import WeightsError
from mnet_jax.weights.files import read
from mnet_jax.weights.keras import from_keras, to_keras
from mnet_jax.weights.timm import from_timm, to_timm
from mnet_jax.weights.torchvision import from_torchvision, to_torchvision

__all__ = [
    "WeightsError",
    "from_keras",
    "from_timm",
    "from_torchvision",
    "read",
    "to_keras",
    "to_timm",
    "to_torchvision",
]
