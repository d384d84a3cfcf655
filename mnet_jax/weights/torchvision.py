"""torchvision's names: V2 and V3.

A model of dialect `torchvision` computes what they compute, at every width.
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
    """Our variables from a torchvision state dict.

        model = models.mobilenet_v2(dialect="torchvision")
        variables = weights.from_torchvision(weights.read("mobilenet_v2.pth"), model)

    Args:
      state_dict: torchvision's names to NumPy, JAX or PyTorch arrays.
      model: the network that they are for.
      fresh_head: PRNG key for a new classifier of the model's classes; the layers that the state
        dict has behind its backbone are then ignored, whatever their names, and may be absent. A
        hidden layer before the classifier is drawn too, with a warning, if the state dict's does
        not fit. None takes all of the state dict, whose classes must be the model's.
      image_size: rows and columns that the model will see: a warning says so if the logits there
        are not the library's. None is any size, and the warning names those that are excepted.

    Returns:
      {"params": ..., "batch_stats": ...} of float32, shaped as `model.init` shapes them.

    Raises:
      WeightsError: the state dict does not fit the model; one line with the first names and
        shapes of each kind, and all of them as its `problems`.
    """
    return variables_from_state(state_dict, model, TORCHVISION, fresh_head, image_size)


def to_torchvision(variables: Mapping[str, Any], model: MobileNet) -> dict[str, np.ndarray]:
    """The state dict that torchvision's `load_state_dict` takes once its arrays are tensors.

    PyTorch's counters of training steps (`num_batches_tracked`), which we do not keep, are 0.

    Args:
      variables: the model's `params` and `batch_stats`.
      model: the network; a warning says so where it computes something else than the library's.

    Raises:
      WeightsError: torchvision has no such network, or the variables are not the model's.
    """
    return state_from_variables(variables, model, TORCHVISION)


def _names(spec: NetworkSpec) -> dict[str, Names]:
    """A sequence `features` of stem, blocks and last convolution; numbers name the parts."""
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
        flat = (f"{prefix}.{last}", f"{prefix}.{last + 1}")  # as V2 lays the projection
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
    names=_names,
)
