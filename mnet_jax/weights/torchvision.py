"""Converts weights of torchvision's V2 and V3.

A model of dialect `torchvision` computes what torchvision's model computes, at every width.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mnet_jax.architectures import InvertedResidual, NetworkSpec
from mnet_jax.models import MobileNet
from mnet_jax.weights.conversion import (
    CLASSIFIER,
    Library,
    state_from_variables,
    variables_from_state,
)
from mnet_jax.weights.layouts import TORCH, Names


def from_torchvision(
    state_dict: Mapping[str, Any],
    model: MobileNet,
    *,
    fresh_head: jax.Array | None = None,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Converts a torchvision state dict to our variables.

        model = models.mobilenet_v2(dialect="torchvision")
        variables = weights.from_torchvision(weights.read("mobilenet_v2.pth"), model)

    Args:
      state_dict: mapping of torchvision's names to NumPy, JAX or PyTorch arrays.
      model: the network to convert for; if its `in_channels` is not the weights' 3, the stem's
        kernel is summed or repeated (`models.with_in_channels`).
      fresh_head: PRNG key for a new classifier with the model's classes. A hidden layer before the
        classifier is converted if it fits; otherwise it is also initialized from the key, with a
        warning. All other layers after the state dict's backbone are ignored, whatever their names,
        and may be absent. None converts all layers, and the classes must be the same.
      image_size: (rows, columns) of the model's images. There is a warning if the logits at this
        size differ from torchvision's. None means any size; the warning then names the sizes at
        which the logits agree.

    Returns:
      {"params": ..., "batch_stats": ...} of float32, shaped as `model.init` shapes them.

    Raises:
      WeightsError: the state dict does not fit the model. The message is one line with the first
        names and shapes of each kind; the attribute `problems` has all of them.
    """
    return variables_from_state(state_dict, model, TORCHVISION, fresh_head, image_size)


def to_torchvision(variables: Mapping[str, Any], model: MobileNet) -> dict[str, np.ndarray]:
    """Converts our variables to a torchvision state dict.

    Convert the arrays to tensors for torchvision's `load_state_dict`. PyTorch's step counters
    (`num_batches_tracked`), which we do not keep, are 0.

    Args:
      variables: the model's `params` and `batch_stats`.
      model: the network; there is a warning if it computes something different from torchvision's.

    Raises:
      WeightsError: torchvision has no such network, or the variables are not the model's.
    """
    return state_from_variables(variables, model, TORCHVISION)


def names_of(spec: NetworkSpec) -> dict[str, Names]:
    """Returns torchvision's names: stem, blocks and last convolution are numbered in `features`."""
    version3 = spec.name != "mobilenet_v2"
    names = {"stem": Names("features.0.0", "features.0.1")}
    for i, block in enumerate(spec.blocks):
        assert isinstance(block, InvertedResidual)
        prefix = f"features.{i + 1}.{'block' if version3 else 'conv'}"
        parts = [*["expand"] * block.expands, "depthwise"]
        for position, part in enumerate(parts):
            pair = (f"{prefix}.{position}.0", f"{prefix}.{position}.1")
            names[f"block_{i}/{part}"] = Names(*pair)
        last = len(parts)
        if block.squeeze:
            names[f"block_{i}/squeeze_excite/reduce"] = Names(f"{prefix}.{last}.fc1")
            names[f"block_{i}/squeeze_excite/expand"] = Names(f"{prefix}.{last}.fc2")
            last += 1
        nested = (f"{prefix}.{last}.0", f"{prefix}.{last}.1")
        flat = (f"{prefix}.{last}", f"{prefix}.{last + 1}")  # V2's projection
        names[f"block_{i}/project"] = Names(*(nested if version3 else flat))
    last = len(spec.blocks) + 1
    names["head/conv"] = Names(f"features.{last}.0", f"features.{last}.1")
    names["head/hidden"] = Names("classifier.0", matrix=True)
    names[CLASSIFIER] = Names("classifier.3" if version3 else "classifier.1", matrix=True)
    return names


TORCHVISION = Library(
    name="torchvision",
    networks=("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    dialects={"mobilenet_v2": ("torchvision",), "mobilenet_v3": ("torchvision",)},
    layout=TORCH,
    names=names_of,
)
