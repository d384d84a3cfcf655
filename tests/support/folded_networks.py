"""Networks with folded normalization in NumPy: their logits, without compiling anything."""

import by_hand
import numpy as np
from flax import traverse_util
from small_networks import model_and_variables

from mnet_jax import quantization
from mnet_jax.architectures import walk


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def nested(values):
    return traverse_util.unflatten_dict(values, sep="/")


def folded(spec, **how):
    """A network with folded normalization and random variables: (model, variables)."""
    model, variables = model_and_variables(spec, **how)
    return model.clone(folded=True), quantization.fold(spec, variables)


def with_params(variables, changed):
    """The variables with some parameters replaced, by path."""
    return {**variables, "params": nested(flat(variables["params"]) | changed)}


def by_hand_folded(spec, variables, images):
    """Logits and named activations of a folded network: normalizations that change nothing."""
    statistics, params = {}, flat(variables["params"])
    for layer in walk(spec, 1024):
        if layer.normalized:
            norm, ones = f"{layer.name}/norm", np.ones(layer.outputs)
            params[f"{norm}/scale"] = ones
            statistics |= {f"{norm}/mean": 0 * ones}
            statistics |= {f"{norm}/var": ones - spec.dialect.norm_epsilon}
    variables = {"params": nested(params), "batch_stats": nested(statistics)}
    return by_hand.network(spec, variables, images)


def rounded_by_hand(spec, variables, bits, *, per_channel=False):
    """The variables with every kernel rounded: symmetric, by the largest absolute value."""
    params, high = flat(variables["params"]), 2 ** (bits - 1) - 1
    for layer in walk(spec, 1024):
        kernel = np.asarray(params[layer.kernel_path], np.float64)
        axes = tuple(range(kernel.ndim - 1)) if per_channel else None
        step = np.abs(kernel).max(axis=axes, keepdims=True) / high
        step = np.where(step > 0, step, 1)
        params[layer.kernel_path] = np.clip(np.round(kernel / step), -high, high) * step
    return {**variables, "params": nested(params)}
