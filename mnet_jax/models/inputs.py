"""Weights for RGB images, adapted to images with another number of channels."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mnet_jax.models.network import MobileNet
from mnet_jax.validation import is_whole, require

RGB = 3
STEM_KERNEL = "stem/conv/kernel"


def with_in_channels(
    model: MobileNet, variables: Mapping[str, Any], in_channels: int
) -> tuple[MobileNet, dict[str, Any]]:
    """Returns a network for RGB images and its variables, adapted to `in_channels` channels.

        model, variables, *_ = models.load("runs/latest")
        gray, variables = models.with_in_channels(model, variables, 1)

    For 1 channel the stem's kernel is summed over its input channels: a gray image gets the outputs
    that an RGB image of three equal channels gets. For more channels the kernel is repeated along
    its inputs, cut off and multiplied by 3 / `in_channels`, so that images whose channels are all
    equal get the same outputs. For 2 channels the third is cut off. All other variables are shared.

    Source: timm 1.0.31, `timm/models/_manipulate.py`, `adapt_input_conv`.

    Args:
      model: a network for images of 3 channels; it may be folded, but not packed or quantized.
      variables: its variables.
      in_channels: number of channels of the images.

    Raises:
      ValueError: the model is not as above, or `in_channels` is not 1 or more.
    """
    spec = model.spec
    whole = is_whole(in_channels) and in_channels >= 1
    require(whole, "in_channels", in_channels, "a whole number, 1 or more")
    require(spec.stem.inputs == RGB, "model", f"{spec.stem.inputs} input channels", "3")
    plain = not (model.packed or model.quantization)
    require(plain, "model", spec.name, "one that is neither packed nor quantized")
    if in_channels == RGB:
        return model, dict(variables)
    params = variables["params"]
    conv = params["stem"]["conv"]
    kernel = jnp.asarray(conv["kernel"])  # [kh, kw, 3, n]; a 1x1 stem has [3, n]
    if in_channels == 1:
        kernel = jnp.sum(kernel, axis=-2, keepdims=True)
    else:
        sources = jnp.arange(in_channels) % RGB
        kernel = jnp.take(kernel, sources, axis=-2) * (RGB / in_channels)
    stem = {**params["stem"], "conv": {**conv, "kernel": kernel}}
    adapted = {**variables, "params": {**params, "stem": stem}}
    return model.clone(spec=spec.with_inputs(in_channels)), adapted
