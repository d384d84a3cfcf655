"""timm's names: V1, V2, V3 and V4's convolutional models.

A model of dialect `timm` computes what they compute. The weights that timm calls
`tf_mobilenetv3...` were trained in TensorFlow: they have the same names, and their models are
those of dialect `slim`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mnet_jax.architectures import (
    ConvNorm,
    FusedInvertedResidual,
    InvertedResidual,
    NetworkSpec,
    Separable,
)
from mnet_jax.architectures.spec import Block
from mnet_jax.models import MobileNet
from mnet_jax.weights.conversion import (
    CLASSIFIER,
    Library,
    state_from_variables,
    variables_from_state,
)
from mnet_jax.weights.layouts import TORCH, Names

STAGES = {  # blocks of each stage: the two numbers of timm's `blocks.2.0`
    "mobilenet_v1": (1, 2, 2, 6, 2),
    "mobilenet_v2": (1, 2, 3, 4, 3, 3, 1),
    "mobilenet_v3_large": (1, 2, 3, 4, 2, 3),
    "mobilenet_v3_small": (1, 2, 3, 2, 3),
    "mobilenet_v4_conv_small": (2, 2, 6, 6),
    "mobilenet_v4_conv_medium": (1, 2, 8, 11),
    "mobilenet_v4_conv_large": (1, 2, 11, 13),
}


def from_timm(
    state_dict: Mapping[str, Any],
    model: MobileNet,
    *,
    fresh_head: jax.Array | None = None,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Our variables from a timm state dict.

        model = models.mobilenet_v4_conv_small(dialect="timm")
        variables = weights.from_timm(weights.read("mobilenetv4.safetensors"), model)

    Args:
      state_dict: timm's names to NumPy, JAX or PyTorch arrays.
      model: the network that they are for; of dialect `slim` for timm's `tf_mobilenetv3...`.
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
    return variables_from_state(state_dict, model, TIMM, fresh_head, image_size)


def to_timm(variables: Mapping[str, Any], model: MobileNet) -> dict[str, np.ndarray]:
    """The state dict that timm's `load_state_dict` takes once its arrays are tensors.

    PyTorch's counters of training steps (`num_batches_tracked`), which we do not keep, are 0.

    Args:
      variables: the model's `params` and `batch_stats`.
      model: the network; a warning says so where it computes something else than the library's.

    Raises:
      WeightsError: timm has no such network, or the variables are not the model's.
    """
    return state_from_variables(variables, model, TIMM)


def _names(spec: NetworkSpec) -> dict[str, Names]:
    """Stem, stages of blocks, and from V3 on the last convolution as a stage of its own."""
    version = spec.name[: len("mobilenet_vN")]
    stages = STAGES[spec.name]
    names = {"stem": Names("conv_stem", "bn1")}
    places = [(s, i) for s, count in enumerate(stages) for i in range(count)]
    for i, (block, (stage, index)) in enumerate(zip(spec.blocks, places, strict=True)):
        universal = version == "mobilenet_v4"
        for part, (kernel, norm) in _parts(block, universal).items():
            prefix = f"blocks.{stage}.{index}"
            layer = f"block_{i}/{part}" if part else f"block_{i}"
            names[layer] = Names(f"{prefix}.{kernel}", norm and f"{prefix}.{norm}")
    if spec.head.hidden:
        names["head/conv"] = Names(f"blocks.{len(stages)}.0.conv", f"blocks.{len(stages)}.0.bn1")
        norm = "norm_head" if spec.head.hidden.normalized else None
        names["head/hidden"] = Names("conv_head", norm)
    else:
        names["head/conv"] = Names("conv_head", "bn2")
    names[CLASSIFIER] = Names("classifier", matrix=True)
    return names


def _parts(block: Block, universal: bool) -> dict[str, tuple[str, str | None]]:
    """Our layers of a block to timm's convolution and normalization in it."""
    if isinstance(block, ConvNorm):
        return {"": ("conv", "bn1")}
    if isinstance(block, Separable):
        return {"depthwise": ("conv_dw", "bn1"), "pointwise": ("conv_pw", "bn2")}
    if isinstance(block, FusedInvertedResidual):
        return {"expand": ("conv_exp", "bn1"), "project": ("conv_pwl", "bn2")}
    assert isinstance(block, InvertedResidual)
    if universal:
        parts = {"start": "dw_start", "expand": "pw_exp", "depthwise": "dw_mid"}
        parts["project"] = "pw_proj"
        return {ours: (f"{theirs}.conv", f"{theirs}.bn") for ours, theirs in parts.items()}
    squeeze: dict[str, tuple[str, str | None]] = {
        "squeeze_excite/reduce": ("se.conv_reduce", None),
        "squeeze_excite/expand": ("se.conv_expand", None),
    }
    if not block.expands:
        return squeeze | {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
    return squeeze | {
        "expand": ("conv_pw", "bn1"),
        "depthwise": ("conv_dw", "bn2"),
        "project": ("conv_pwl", "bn3"),
    }


TIMM = Library(
    name="timm",
    networks=tuple(STAGES),
    dialects={
        "mobilenet_v1": ("timm",),
        "mobilenet_v2": ("timm",),
        "mobilenet_v3": ("timm", "slim"),
        "mobilenet_v4": ("timm",),
    },
    layout=TORCH,
    names=_names,
)
