"""Converts weights of TF-slim's MobileNet V1, V2 and V3, the authors' released code.

A model of dialect `slim` computes what the graph of TF-slim computes, with one exception: in V3's
squeeze-and-excitation TF-slim rounds the slope 1/6 of the hard sigmoid to 0.16667. V3's logits
therefore differ from TF-slim's by up to 3e-4 of the largest logit.

The networks for ImageNet have 1001 classes, of which the first is the background. Pixels are scaled
to -1 to 1.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mnet_jax.architectures import NetworkSpec
from mnet_jax.models import MobileNet
from mnet_jax.validation import one_line
from mnet_jax.weights.arrays import WeightsError
from mnet_jax.weights.conversion import (
    CLASSIFIER,
    Library,
    state_from_variables,
    variables_from_state,
)
from mnet_jax.weights.layouts import SLIM as LAYOUT
from mnet_jax.weights.layouts import Names

SCOPES = {
    "mobilenet_v1": "MobilenetV1",
    "mobilenet_v2": "MobilenetV2",
    "mobilenet_v3_large": "MobilenetV3",
    "mobilenet_v3_small": "MobilenetV3",
}
AVERAGE = "/ExponentialMovingAverage"  # suffix of a variable's average over the training steps
VARIABLES = {
    suffix.removeprefix("/")
    for suffix in (LAYOUT.kernel, LAYOUT.depthwise_kernel, LAYOUT.bias, *LAYOUT.norm)
}


def from_slim(
    arrays: Mapping[str, Any],
    model: MobileNet,
    *,
    fresh_head: jax.Array | None = None,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Converts the variables of a TF-slim network to our variables.

        model = models.mobilenet_v1(dialect="slim", num_classes=1001)
        variables = weights.from_slim(weights.read("frozen_graph.pb"), model)

    Only the variables in the network's scope (`MobilenetV1/`) are used. This scope may be inside
    other scopes. Constants of operations, optimizer state and other networks are ignored. If there
    are averages of the variables (`ExponentialMovingAverage`), they are preferred.

    Args:
      arrays: mapping of names such as `MobilenetV1/Conv2d_0/weights` to arrays: the constants of a
        frozen graph, or the variables of a checkpoint.
      model: the network to convert for.
      fresh_head: PRNG key for a new classifier with the model's classes. The layers after the
        backbone are then ignored and may be absent. If V3's hidden layer before the classifier does
        not fit, it is also initialized from the key, with a warning. None converts all layers, and
        the classes must be the same.
      image_size: (rows, columns) of the model's images. There is a warning if the logits at this
        size differ from TF-slim's. None means any size; the warning then names the sizes at which
        the logits agree.

    Returns:
      {"params": ..., "batch_stats": ...} of float32, shaped as `model.init` shapes them.

    Raises:
      WeightsError: the arrays do not fit the model. The message is one line with the first names
        and shapes of each kind; the attribute `problems` has all of them.
    """
    state = arrays
    if isinstance(arrays, Mapping) and isinstance(model, MobileNet):
        # If nothing is in the scope, all is kept, so that the error lists it.
        state = _variables(arrays, SCOPES.get(model.spec.name, "")) or arrays
    return variables_from_state(state, model, SLIM, fresh_head, image_size)


def to_slim(variables: Mapping[str, Any], model: MobileNet) -> dict[str, np.ndarray]:
    """Converts our variables to arrays by the names of TF-slim's variables.

    Args:
      variables: the model's `params` and `batch_stats`.
      model: the network; there is a warning if it computes something different from TF-slim's.

    Raises:
      WeightsError: TF-slim has no such network, or the variables are not the model's.
    """
    return state_from_variables(variables, model, SLIM)


def _variables(arrays: Mapping[Any, Any], scope: str) -> dict[str, Any]:
    """Returns the variables in a scope, by their names from the scope on."""
    current: dict[str, Any] = {}
    averages: dict[str, Any] = {}
    for name, array in arrays.items():
        _, found, rest = str(name).partition(f"{scope}/")
        variable = f"{found}{rest}".removesuffix(AVERAGE)
        if not found or variable.rpartition("/")[2] not in VARIABLES:
            continue
        group = averages if rest.endswith(AVERAGE) else current
        if variable in group:
            raise WeightsError(f"arrays: hold {one_line(variable)} under several names")
        group[variable] = array
    return current | averages


def _names(spec: NetworkSpec) -> dict[str, Names]:
    """Returns TF-slim's names of layers, including some that the network may not have."""
    scope = SCOPES[spec.name]

    def normalized(layer: str) -> Names:
        return Names(f"{scope}/{layer}", f"{scope}/{layer}/BatchNorm")

    names = {CLASSIFIER: Names(f"{scope}/Logits/Conv2d_1c_1x1")}
    if spec.name == "mobilenet_v1":
        names["stem"] = normalized("Conv2d_0")
        for i in range(len(spec.blocks)):
            for part in ("depthwise", "pointwise"):
                names[f"block_{i}/{part}"] = normalized(f"Conv2d_{i + 1}_{part}")
        return names
    names |= {"stem": normalized("Conv"), "head/conv": normalized("Conv_1")}
    names["head/hidden"] = Names(f"{scope}/Conv_2")
    for i in range(len(spec.blocks)):
        block = "expanded_conv" if i == 0 else f"expanded_conv_{i}"
        for part in ("expand", "depthwise", "project"):
            names[f"block_{i}/{part}"] = normalized(f"{block}/{part}")
        squeeze = f"{scope}/{block}/squeeze_excite"
        names[f"block_{i}/squeeze_excite/reduce"] = Names(f"{squeeze}/Conv")
        names[f"block_{i}/squeeze_excite/expand"] = Names(f"{squeeze}/Conv_1")
    return names


SLIM = Library(
    name="TF-slim",
    networks=tuple(SCOPES),
    dialects={name[: len("mobilenet_vN")]: ("slim",) for name in SCOPES},
    layout=LAYOUT,
    names=_names,
)
