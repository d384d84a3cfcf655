"""Dead channels: their output is the same for every image.

A ReLU that is never above zero passes on neither its input nor a gradient. This is the V2 paper's
reason for linear bottlenecks (section 3.2). A depthwise layer does not mix channels. If a channel's
input has died, or its kernel or scale has become zero, its standard deviation over the training
images after normalization is close to zero. The statistics of the normalization show this, so no
forward pass is needed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mnet_jax.training.step import Tree

DEVIATION = 1e-3  # of a channel after normalization, where a live channel has about 1
WARNING_SHARE = 0.25
_EPSILON = 1e-3  # added to variances: the largest value of the dialects


def dead_share(values: Tree) -> float:
    """Returns the share of depthwise channels that are dead; 0 if there are no such layers.

    Args:
      values: `params` and `batch_stats`, as in `TrainState.values`.
    """
    deviations = [
        np.abs(np.asarray(params["norm"]["scale"])) * _deviation(np.asarray(stats["norm"]["var"]))
        for params, stats in _depthwise(values["params"], values["batch_stats"])
    ]
    return float(np.mean(np.concatenate(deviations) < DEVIATION)) if deviations else 0.0


def _deviation(variance: np.ndarray) -> np.ndarray:
    """Returns a channel's standard deviation after normalization, before the scale."""
    return np.sqrt(variance / (variance + _EPSILON))


def _depthwise(params: Mapping[str, Any], stats: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yields parameters and statistics of layers with a depthwise kernel [kh, kw, c] and a norm."""
    for name, inner in params.items():
        if not isinstance(inner, Mapping):
            continue
        kernel = inner["conv"].get("kernel") if "conv" in inner and "norm" in inner else None
        if kernel is not None and kernel.ndim == 3:
            yield inner, stats[name]
        elif name in stats:
            yield from _depthwise(inner, stats[name])
