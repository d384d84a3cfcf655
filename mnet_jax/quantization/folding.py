"""Preparation of a trained network: batch normalization folded, ReLU6 replaced by ReLU.

The other methods take and return the variables of a folded network. Beside `params`, these
variables have the collection `statistics`: the mean and standard deviation of the values of each
normalized layer before its activation, as batch normalization describes them. Methods that need no
images read the statistics (arXiv 1906.04721, sections 4.1.3 and 4.2). Methods that rescale or shift
channels update the statistics.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from flax import traverse_util

from mnet_jax.architectures import NetworkSpec, walk
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION
from mnet_jax.models.fusing import fold_layer

STATISTICS = "statistics"  # the collection of means and standard deviations before activations

Part = TypeVar("Part")


def fold(spec: NetworkSpec, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Folds batch normalization into kernels and biases.

        folded = quantization.fold(model.spec, variables)
        logits = model.clone(folded=True).apply(folded, images, train=False)

    Args:
      spec: the network.
      variables: its `params` and `batch_stats`.

    Returns:
      `params` of NumPy arrays, with the names of the model's parameters but without
      `L/norm/scale`; and `statistics`, with `L/mean` and `L/deviation` [c] for each normalized
      layer L: the bias and the absolute scale of its normalization, times the layer scale if there
      is one.

    Raises:
      ValueError: the variables are not those of the network, or are folded already.
    """
    params, statistics = flat(variables, "params"), flat(variables, "batch_stats")
    found: dict[str, np.ndarray] = {}
    for layer in walk(spec, REFERENCE_RESOLUTION):
        before = dict(params)
        fold_layer(params, statistics, layer, spec.dialect.norm_epsilon)
        if layer.normalized:
            scale = before[layer.layer_scale_path] if layer.scaled else np.float32(1)
            found[f"{layer.name}/mean"] = before[f"{layer.name}/norm/bias"] * scale
            found[f"{layer.name}/deviation"] = np.abs(before[f"{layer.name}/norm/scale"] * scale)
    return {
        "params": traverse_util.unflatten_dict(params, sep="/"),
        STATISTICS: traverse_util.unflatten_dict(found, sep="/"),
    }


def flat(variables: Mapping[str, Any], collection: str) -> dict[str, np.ndarray]:
    """Returns the variables of a collection by path, as NumPy arrays; {} if there are none."""
    values = traverse_util.flatten_dict(variables.get(collection, {}), sep="/")
    return {name: np.asarray(value) for name, value in values.items()}


def with_flat(
    variables: Mapping[str, Any], **collections: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns the variables with the given collections replaced.

    The given collections are flat, with paths as keys; those of the result are nested.
    """
    replaced = {
        name: traverse_util.unflatten_dict(dict(values), sep="/")
        for name, values in collections.items()
        if values or name in variables
    }
    return {**variables, **replaced}


def without_relu6(spec: NetworkSpec) -> NetworkSpec:
    """Replaces every ReLU6 of a network by ReLU (arXiv 1906.04721, section 5.1).

    The network's variables remain valid, but the network's function changes where a value exceeds
    6. Cross-layer equalization needs this replacement, because ReLU6 does not commute with a
    scaling of channels.
    """
    head = spec.head
    return dataclasses.replace(
        spec,
        stem=_with_relu(spec.stem),
        blocks=tuple(_with_relu(block) for block in spec.blocks),
        head=dataclasses.replace(
            head,
            conv=head.conv and _with_relu(head.conv),
            hidden=head.hidden and _with_relu(head.hidden),
        ),
    )


def _with_relu(part: Part) -> Part:
    """Returns a block or layer whose activations are ReLU where they were ReLU6."""
    names = ("activation", "bottleneck")
    relus: dict[str, Any] = {n: "relu" for n in names if getattr(part, n, None) == "relu6"}
    return dataclasses.replace(part, **relus)  # type: ignore[type-var]
