"""Dead units: channels that are never or always active, and kernels whose norm is almost zero.

The V2 paper's reason for linear bottlenecks is that a ReLU loses information for good when it
zeroes a channel of a feature map with few channels (arXiv 1801.04381, section 3.2).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax.analysis.choices import KERNEL_THRESHOLD
from mnet_jax.analysis.features import depthwise_kernels
from mnet_jax.architectures.spec import Activation
from mnet_jax.models import MobileNet, activation_paths
from mnet_jax.validation import require

Array = jax.Array
CEILING = 6.0  # of ReLU6


@dataclass(frozen=True, kw_only=True, eq=False)
class Activity:
    """How often the channels after an activation function are active, over many images.

    Attributes:
      layer: path of the parameters of the layer before the activation function.
      activation: the activation function.
      positions: number of positions of feature maps over which the shares are taken.
      active: share of positions where a channel is above zero, float64 [c].
      clipped: share of positions where ReLU6 clips a channel at 6, float64 [c]; 0 for other
        activation functions.
    """

    layer: str
    activation: Activation
    positions: int
    active: np.ndarray
    clipped: np.ndarray

    @property
    def never_active(self) -> np.ndarray:
        """Whether each channel is active nowhere, bool [c]."""
        return self.active == 0

    @property
    def always_active(self) -> np.ndarray:
        """Whether each channel is active everywhere, bool [c]; a ReLU changes no such channel."""
        return self.active == 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernels:
    """The depthwise kernels of a layer.

    Attributes:
      layer: path of the layer's parameters.
      norms: Euclidean norm of each channel's kernel, float64 [c].
    """

    layer: str
    norms: np.ndarray

    def dead(self, threshold: float = KERNEL_THRESHOLD) -> np.ndarray:
        """Returns which kernels are dead, bool [c]: norm at most `threshold` x the layer's largest.

        The threshold is relative because the batch normalization after the layer cancels the
        scale of the layer's kernels.
        """
        return self.norms <= threshold * self.norms.max()


class ActivityMeasurement(NamedTuple):
    """The activity of a network's channels and the norms of its depthwise kernels.

    Attributes:
      activities: one for each activation function after a convolution or a dense layer.
      kernels: one for each depthwise layer.
    """

    activities: tuple[Activity, ...]
    kernels: tuple[Kernels, ...]


def measure_activity(
    model: MobileNet, variables: Mapping[str, Any], batches: Iterable[np.ndarray]
) -> ActivityMeasurement:
    """Counts how often channels are active, and measures the depthwise kernels.

    Args:
      model: any network.
      variables: the network's `params` and `batch_stats`.
      batches: images [b, h, w, 3], scaled as the network expects them.

    Raises:
      ValueError: there are no images.
    """
    watched = [place for place in activation_paths(model.spec) if place.activation != "linear"]

    @jax.jit
    def count(variables: Any, images: Array) -> list[Array]:
        _, state = model.apply(variables, images, train=False, mutable=["intermediates"])
        return [_counts(place.of(state["intermediates"])) for place in watched]

    total: list[np.ndarray] = []
    for images in batches:
        found = [np.asarray(counts, np.int64) for counts in count(variables, images)]
        total = [a + b for a, b in zip(total, found, strict=True)] if total else found
    require(bool(total) or not watched, "batches", "", "one batch or more")
    activities = tuple(
        Activity(
            layer=place.layer,
            activation=place.activation,
            positions=int(positions[0]),
            active=active / positions,
            clipped=clipped / positions if place.activation == "relu6" else 0.0 * active,
        )
        for place, (positions, active, clipped) in zip(watched, total, strict=True)
    )
    return ActivityMeasurement(activities, kernel_norms(model, variables))


def _counts(x: Array) -> Array:
    """Returns counts of each channel's values, [3, c]: all, positive, and clipped by ReLU6."""
    x = x.reshape(-1, x.shape[-1])
    counted = (jnp.ones_like(x, bool), x > 0, x >= CEILING)
    return jnp.stack([kind.sum(axis=0) for kind in counted])


def kernel_norms(model: MobileNet, variables: Mapping[str, Any]) -> tuple[Kernels, ...]:
    """Computes the norm of every depthwise kernel, layer by layer."""
    return tuple(
        Kernels(layer=name, norms=np.sqrt((kernel.astype(np.float64) ** 2).sum(axis=(0, 1))))
        for name, kernel in depthwise_kernels(model, variables).items()
    )
