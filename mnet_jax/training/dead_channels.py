"""Channels that have died: whatever the image, they say the same.

A ReLU that is never above zero passes nothing on, and no gradient back: the V2 paper's reason for
linear bottlenecks (section 3.2). A depthwise layer keeps channels apart, so that one whose input
has died, or whose kernel or scale has come to zero, shows in what its normalization has recorded:
after it, over the training images, the channel hardly deviates. That costs no forward pass.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mnet_jax.training.step import Tree

DEVIATION = 1e-3  # of a channel after its normalization, in whose units others have about 1
WARNING_SHARE = 0.25
_EPSILON = 1e-3  # added to variances: the largest of the dialects'


def dead_share(values: Tree) -> float:
    """The share of all depthwise channels that are dead; 0 in a network without such layers.

    Args:
      values: `params` and `batch_stats`, as `TrainState.values`.
    """
    deviations = [
        np.abs(np.asarray(params["norm"]["scale"])) * _deviation(np.asarray(stats["norm"]["var"]))
        for params, stats in _depthwise(values["params"], values["batch_stats"])
    ]
    return float(np.mean(np.concatenate(deviations) < DEVIATION)) if deviations else 0.0


def _deviation(variance: np.ndarray) -> np.ndarray:
    """What normalization makes of a channel's standard deviation."""
    return np.sqrt(variance / (variance + _EPSILON))


def _depthwise(params: Mapping[str, Any], stats: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Parameters and statistics of layers with a depthwise kernel [kh, kw, c] and a norm."""
    for name, inner in params.items():
        if not isinstance(inner, Mapping):
            continue
        kernel = inner["conv"].get("kernel") if "conv" in inner and "norm" in inner else None
        if kernel is not None and kernel.ndim == 3:
            yield inner, stats[name]
        elif name in stats:
            yield from _depthwise(inner, stats[name])
