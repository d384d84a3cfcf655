"""Converts weights of timm's V1 to V4 models.

A model of dialect `timm` computes what timm's model computes. The weights that timm calls
`tf_mobilenetv3...` were trained in TensorFlow. Their state dicts have the names of timm's other V3
models, but they need a model of dialect `slim`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mnet_jax.architectures import (
    Attention,
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
from mnet_jax.weights.timm_names import ROWS, stages_of, timm_variants

LAYER_SCALE = "layer_scale.gamma"


def from_timm(
    state_dict: Mapping[str, Any],
    model: MobileNet,
    *,
    fresh_head: jax.Array | None = None,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Converts a timm state dict to our variables.

        model = models.MobileNet(spec=weights.timm_spec("mobilenetv4_conv_small"))
        variables = weights.from_timm(weights.read("mobilenetv4.safetensors"), model)

    Args:
      state_dict: mapping of timm's names to NumPy, JAX or PyTorch arrays.
      model: the network to convert for; its dialect is `slim` for timm's `tf_mobilenetv3...`. If
        its `in_channels` is not the weights' 3, the stem's kernel is summed or repeated
        (`models.with_in_channels`).
      fresh_head: PRNG key for a new classifier with the model's classes. A hidden layer before the
        classifier is converted if it fits; otherwise it is also initialized from the key, with a
        warning. All other layers after the state dict's backbone are ignored, whatever their names,
        and may be absent. None converts all layers, and the classes must be the same.
      image_size: (rows, columns) of the model's images. There is a warning if the logits at this
        size differ from timm's. None means any size; the warning then names the sizes at which the
        logits agree.

    Returns:
      {"params": ..., "batch_stats": ...} of float32, shaped as `model.init` shapes them.

    Raises:
      WeightsError: the state dict does not fit the model. The message is one line with the first
        names and shapes of each kind; the attribute `problems` has all of them.
    """
    return variables_from_state(state_dict, model, TIMM, fresh_head, image_size)


def to_timm(variables: Mapping[str, Any], model: MobileNet) -> dict[str, np.ndarray]:
    """Converts our variables to a timm state dict.

    Convert the arrays to tensors for timm's `load_state_dict`. PyTorch's step counters
    (`num_batches_tracked`), which we do not keep, are 0.

    Args:
      variables: the model's `params` and `batch_stats`.
      model: the network; there is a warning if it computes something different from timm's.

    Raises:
      WeightsError: timm has no such network, or the variables are not the model's.
    """
    return state_from_variables(variables, model, TIMM)


def _names(spec: NetworkSpec) -> dict[str, Names]:
    """Returns timm's names of all layers; from V3 on, `head/conv` is in the last stage."""
    version = spec.name[: len("mobilenet_vN")]
    names = {"stem": Names("conv_stem", "bn1")}
    places = [(s, i) for s, count in enumerate(stages_of(spec)) for i in range(count)]
    for i, (block, (stage, index)) in enumerate(zip(spec.blocks, places, strict=False)):
        universal = version == "mobilenet_v4"
        for part, own in _parts(block, universal).items():
            prefix = f"blocks.{stage}.{index}."
            kernel, norm, scale = (
                name and prefix + name for name in (own.kernel, own.norm, own.scale)
            )
            layer = f"block_{i}/{part}" if part else f"block_{i}"
            names[layer] = Names(kernel, norm, scale=scale)
    if spec.head.hidden:
        stage, index = places[-1]
        prefix = f"blocks.{stage}.{index}"
        names["head/conv"] = Names(f"{prefix}.conv", f"{prefix}.bn1")
        norm = "norm_head" if spec.head.hidden.normalized else None
        names["head/hidden"] = Names("conv_head", norm)
    else:
        names["head/conv"] = Names("conv_head", "bn2")
    names[CLASSIFIER] = Names("classifier", matrix=True)
    return names


def _parts(block: Block, universal: bool) -> dict[str, Names]:
    """Maps our layers of a block to timm's names of their arrays, which follow the block's name."""
    if isinstance(block, ConvNorm):
        return {"": Names("conv", "bn1")}
    if isinstance(block, Separable):
        return {"depthwise": Names("conv_dw", "bn1"), "pointwise": Names("conv_pw", "bn2")}
    if isinstance(block, FusedInvertedResidual):
        return {"expand": Names("conv_exp", "bn1"), "project": Names("conv_pwl", "bn2")}
    if isinstance(block, Attention):
        return _attention_parts()
    assert isinstance(block, InvertedResidual)
    if universal:
        parts = {"start": "dw_start", "expand": "pw_exp", "depthwise": "dw_mid"}
        names = {ours: Names(f"{theirs}.conv", f"{theirs}.bn") for ours, theirs in parts.items()}
        return names | {"project": Names("pw_proj.conv", "pw_proj.bn", scale=LAYER_SCALE)}
    squeeze = {
        "squeeze_excite/reduce": Names("se.conv_reduce"),
        "squeeze_excite/expand": Names("se.conv_expand"),
    }
    if not block.expands:
        return squeeze | {"depthwise": Names("conv_dw", "bn1"), "project": Names("conv_pw", "bn2")}
    return squeeze | {
        "expand": Names("conv_pw", "bn1"),
        "depthwise": Names("conv_dw", "bn2"),
        "project": Names("conv_pwl", "bn3"),
    }


def _attention_parts() -> dict[str, Names]:
    parts = {"input": Names(None, "norm"), "query": Names("attn.query.proj")}
    for name in ("key", "value"):
        parts[f"{name}/downsample"] = Names(f"attn.{name}.down_conv", f"attn.{name}.norm")
        parts[f"{name}/project"] = Names(f"attn.{name}.proj")
    return parts | {"output": Names("attn.output.proj", scale=LAYER_SCALE)}


TIMM = Library(
    name="timm",
    networks=tuple(ROWS),
    dialects={
        "mobilenet_v1": ("timm",),
        "mobilenet_v2": ("timm",),
        "mobilenet_v3": ("timm", "slim"),
        "mobilenet_v4": ("timm",),
    },
    layout=TORCH,
    names=_names,
    variants=timm_variants,
)
