"""Networks in integers equal LiteRT's interpreter: every int8 tensor and the logits."""

import functools

import jax
import jax.numpy as jnp
import litert_files
import numpy as np
import pytest
from flax import traverse_util
from quantized_networks import forward, random_params
from small_networks import selected

from mnet_jax import architectures
from mnet_jax.architectures import walk
from mnet_jax.quantization import integer
from mnet_jax.quantization.integer_operations import Convolution

RESOLUTION = 40
FACTORIES = {
    "v1": functools.partial(architectures.mobilenet_v1, width=0.25),
    "v2": functools.partial(architectures.mobilenet_v2, width=0.35),
    "v3": functools.partial(architectures.mobilenet_v3, "small", width=0.35),
    "v2 of torchvision": functools.partial(
        architectures.mobilenet_v2, width=0.35, dialect="torchvision"
    ),
}
# Blocks with all kinds of layers: every kernel, stride and activation, with and without a shortcut
# and squeeze-and-excitation.
SOME = {"v1": (0, 1, 2), "v2": (0, 1, 2), "v3": (0, 1, 2, 3, 4), "v2 of torchvision": (0, 1)}
