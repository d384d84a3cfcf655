"""Measures how much of a bottleneck's information is lost in an activation function.

The V2 paper (arXiv 1801.04381, section 3.2) claims that a ReLU loses the information of a feature
map with few channels, and keeps it if the map was embedded into many channels. This module measures
both on a network's own activations: how much information a ReLU directly after each bottleneck
would keep, and how much the activation function of the following expansion keeps. Information
counts as kept if an affine map can reconstruct it, since the next layer is an affine map.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, walk
from mnet_jax.architectures.spec import Activation, NetworkSpec
from mnet_jax.models import ActivationPath, MobileNet, activation_paths
from mnet_jax.ops import activate
from mnet_jax.validation import require, require_choice

Array = jax.Array
_CUT = 1e-5  # relative to the largest eigenvalue of the correlations; below are rounding errors


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """How much of the information in a bottleneck is left after an activation function.

    Attributes:
      layer: path of the projection's parameters, such as `block_3/project`.
      channels: number of the bottleneck's channels.
      positions: number of measured positions, over all images.
      rank: effective rank of the bottleneck, 1 to `channels`: the exponential of the entropy of
        the singular values of the bottleneck's deviations from its mean. Source: Roy and Vetterli,
        "The effective rank", EUSIPCO 2007.
      activated_rank: effective rank of the bottleneck after the activation function under test.
      recovered: share of the bottleneck's variance that an affine map of the activation function's
        output reconstructs, on images to which the map was not fitted. 1 is everything; after a fit
        to too few images the value can be below 0.
      expanded_channels: number of channels of the following expansion; None if there is none.
      recovered_expanded: like `recovered`, for the expansion that follows. An affine map of the
        expansion's output, after its activation, reconstructs the output of this bottleneck's block
        (after the shortcut, if there is one). None if no expansion follows.
    """

    layer: str
    channels: int
    positions: int
    rank: float
    activated_rank: float
    recovered: float
    expanded_channels: int | None
    recovered_expanded: float | None


def measure_bottlenecks(
    model: MobileNet,
    variables: Mapping[str, Any],
    batches: Iterable[np.ndarray],
    *,
    activation: Activation = "relu",
) -> tuple[Bottleneck, ...]:
    """Measures every bottleneck of a network on images.

    The affine maps are fitted to half of each batch's images and evaluated on the other half.

    Args:
      model: a network with bottlenecks (V2, V3, V4), not one from `models.fuse`.
      variables: the network's `params` and `batch_stats`.
      batches: images [b, h, w, 3] with b at least 2, scaled as the network expects them.
      activation: the activation function to test after each bottleneck. Only the measurement uses
        it. The network itself runs unchanged, also if it has another activation function there.

    Raises:
      ValueError: there are no bottlenecks, or no images.
    """
    require_choice("activation", activation, Activation)
    pairs = _pairs(model.spec)
    require(bool(pairs), "model", model.spec.name, "a network with bottlenecks: V2, V3 or V4")
    moments: dict[str, list[_Moments]] = {}

    @jax.jit
    def measure(variables: Any, images: Array) -> Any:
        collections = ["intermediates", "preactivations"]
        _, state = model.apply(variables, images, train=False, mutable=collections)
        return {
            name: [_moments(inputs[half::2], targets[half::2]) for half in (0, 1)]
            for pair in pairs
            for name, (inputs, targets) in pair.fits_of(state, activation).items()
        }

    for images in batches:
        require(len(images) > 1, "batches", f"a batch of {len(images)}", "2 images or more")
        for name, halves in measure(variables, images).items():
            found = [_Moments(*(np.asarray(x, np.float64) for x in half)) for half in halves]
            before = moments.get(name)
            moments[name] = [a + b for a, b in zip(before, found, strict=True)] if before else found
    require(bool(moments), "batches", "", "one batch or more")
    return tuple(_bottleneck(pair, moments) for pair in pairs)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The projection of a block and, if there is one, the pointwise expansion of the next block."""

    project: ActivationPath
    channels: int  # of the bottleneck
    output: str  # of the block, among the intermediates
    expand: ActivationPath | None

    def fits_of(
        self, state: Mapping[str, Any], activation: Activation
    ) -> dict[str, tuple[Array, Array]]:
        """Returns (inputs, targets) of the affine fits, both [b, h, w, c], by layer."""
        before = self.project.of(state["preactivations"])
        fits = {self.project.layer: (activate(before, activation), before)}
        if self.expand:
            sown = state["intermediates"]
            fits[self.expand.layer] = (self.expand.of(sown), sown[self.output][0])
        return fits


def _pairs(spec: NetworkSpec) -> list[_Pair]:
    every = {place.layer: place for place in activation_paths(spec)}
    pairs = []
    for layer, following in itertools.pairwise(walk(spec, REFERENCE_RESOLUTION)):
        if layer.role == "project":
            expands = following.role == "expand" and following.kind == "pointwise"
            pairs.append(
                _Pair(
                    project=every[layer.name],
                    channels=layer.outputs,
                    output=f"{layer.part}_output",
                    expand=every[following.name] if expands else None,
                )
            )
    return pairs


class _Moments(NamedTuple):
    """Moments of rows of i inputs and t targets, sufficient for covariances and least squares.

    Attributes:
      count: number of rows, [].
      mean: [i + t].
      scatter: sums of products of the deviations from the mean, [i + t, i + t].
    """

    count: Any
    mean: Any
    scatter: Any

    def __add__(self, other: Any) -> "_Moments":
        """Combines two samples' moments (Chan, Golub, LeVeque, "Updating formulae", 1979)."""
        count, apart = self.count + other.count, other.mean - self.mean
        between = np.outer(apart, apart) * (self.count * other.count / count)
        return _Moments(
            count,
            self.mean + apart * (other.count / count),
            self.scatter + other.scatter + between,
        )


def _moments(inputs: Array, targets: Array) -> _Moments:
    inputs, targets = (x.reshape(-1, x.shape[-1]).astype(jnp.float32) for x in (inputs, targets))
    rows = jnp.concatenate([inputs, targets], axis=1)
    mean = rows.mean(axis=0)
    rows = rows - mean
    return _Moments(jnp.float32(len(rows)), mean, jnp.dot(rows.T, rows, precision="highest"))


def _bottleneck(pair: _Pair, moments: Mapping[str, list[_Moments]]) -> Bottleneck:
    fitted, judged = moments[pair.project.layer]
    both, channels = fitted + judged, pair.channels
    wide = moments[pair.expand.layer] if pair.expand else None
    return Bottleneck(
        layer=pair.project.layer,
        channels=channels,
        positions=round(float(both.count)),
        rank=_effective_rank(both.scatter[-channels:, -channels:]),
        activated_rank=_effective_rank(both.scatter[:-channels, :-channels]),
        recovered=_recovered(fitted, judged, channels),
        expanded_channels=None if wide is None else len(wide[0].mean) - channels,
        recovered_expanded=None if wide is None else _recovered(wide[0], wide[1], channels),
    )


def _effective_rank(scatter: np.ndarray) -> float:
    values = np.sqrt(np.clip(np.linalg.eigvalsh(scatter), 0, None))
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _recovered(fitted: _Moments, judged: _Moments, targets: int) -> float:
    """Returns the share of the targets' variance in `judged` that the fit to `fitted` explains."""
    inputs = fitted.scatter[:-targets, :-targets]
    size = np.sqrt(np.diag(inputs))
    scale = np.divide(1, size, out=np.zeros_like(size), where=size > 0)
    inverse = np.linalg.pinv(inputs * np.outer(scale, scale), rcond=_CUT, hermitian=True)
    weights = scale[:, None] * (inverse @ (scale[:, None] * fitted.scatter[:-targets, -targets:]))
    # The residual is a linear function of inputs and targets.
    residual = np.concatenate([-weights, np.eye(targets)])
    missed = (residual * (judged.scatter @ residual)).sum()
    missed += judged.count * (((judged.mean - fitted.mean) @ residual) ** 2).sum()
    whole = np.trace(judged.scatter[-targets:, -targets:])
    return float(1 - missed / whole) if whole else 1.0  # constant targets are recovered fully
