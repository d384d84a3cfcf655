"""Extracts the depthwise kernels and the feature maps of a network."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, walk
from mnet_jax.models import MobileNet, activation_paths
from mnet_jax.validation import require


def depthwise_kernels(model: MobileNet, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the depthwise kernels, float32 [k, k, c], by path of the layer, in network order.

    Args:
      model: any network.
      variables: the network's `params`.
    """
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    return {
        layer.name: np.asarray(params[layer.kernel_path])
        for layer in walk(model.spec, REFERENCE_RESOLUTION)
        if layer.kind == "depthwise"
    }


def feature_maps(
    model: MobileNet, variables: Mapping[str, Any], image: np.ndarray
) -> dict[str, np.ndarray]:
    """Computes the activated output of every convolution, float32 [h, w, c], by the layer's path.

    Args:
      model: any network.
      variables: the network's `params` and `batch_stats`.
      image: [h, w, 3], scaled as the network expects it.

    Raises:
      ValueError: the shape is not [h, w, 3], or the image is too small for the network.
    """
    require(np.ndim(image) == 3, "image", f"shape {np.shape(image)}", "[h, w, 3]")
    apply = partial(model.apply, train=False, mutable=["intermediates"])
    _, state = jax.jit(apply)(variables, image[None])
    found = {
        place.layer: place.of(state["intermediates"]) for place in activation_paths(model.spec)
    }
    return {name: np.asarray(x[0], np.float32) for name, x in found.items() if x.ndim == 4}
