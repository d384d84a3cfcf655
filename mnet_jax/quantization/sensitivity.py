"""The sensitivity of a network to the rounding of each of its kernels alone."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnet_jax.architectures import walk
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, require_quantizable
from mnet_jax.architectures.spec import Kind
from mnet_jax.models.network import MobileNet
from mnet_jax.models.quantizers import kernel_range
from mnet_jax.models.types import Quantization
from mnet_jax.quantization.folding import flat, with_flat
from mnet_jax.quantization.ladder import folded, logits, require_logits, signal_to_noise
from mnet_jax.quantization.ranges import choose, rounded
from mnet_jax.quantization.types import RangeMethod
from mnet_jax.validation import require


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What the rounding of one layer's kernel does to a network.

    The range of a channel is the largest absolute weight of the folded kernel for this output.

    Attributes:
      layer: the layer's name.
      kind: its kind of convolution.
      weights: number of the kernel's weights.
      spread: largest range of a channel over the smallest; None if a channel has only zeros.
      spread_over_median: largest range over the median; None if the median is 0.
      sqnr: signal-to-quantization-noise ratio of the logits in dB if only this kernel is rounded;
        None if there is no noise.
    """

    layer: str
    kind: Kind
    weights: int
    spread: float | None
    spread_over_median: float | None
    sqnr: float | None

    @property
    def noise(self) -> float:
        """Energy of the noise in the logits, relative to that of the logits."""
        return 0.0 if self.sqnr is None else 10 ** (-self.sqnr / 10)


def measure_sensitivity(
    model: MobileNet,
    variables: Mapping[str, Any],
    images: Sequence[np.ndarray],
    quantization: Quantization,
    ranges: RangeMethod = "min-max",
) -> tuple[Sensitivity, ...]:
    """Rounds the kernel of one layer at a time, and measures the noise in the logits.

    Args:
      model: the network in float, folded or not.
      variables: its `params` and `batch_stats`.
      images: batches [b, h, w, 3].
      quantization: how kernels are rounded; activations are not.
      ranges: how the range of a kernel is chosen.

    Returns:
      The sensitivities of all layers in network order.

    Raises:
      ValueError: the model is quantized or packed.
    """
    require_quantizable(model.spec)
    require(len(images) > 0, "images", "none", "one batch or more")
    model, variables = folded(model, variables)
    params, reference = flat(variables, "params"), logits(model, variables, images)
    require_logits(reference)
    found = []
    for layer in walk(model.spec, REFERENCE_RESOLUTION):
        setting, kernel = quantization.at(layer.name), params[layer.kernel_path]
        step, zero = choose(
            kernel,
            kernel_range(setting),
            symmetric=setting.weight_symmetry == "symmetric",
            method=ranges,
            per_channel=setting.granularity == "channel",
        )
        alone = {**params, layer.kernel_path: rounded(kernel, step, zero, kernel_range(setting))}
        noisy = logits(model, with_flat(variables, params=alone), images)
        of_channels = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(0)
        found.append(
            Sensitivity(
                layer=layer.name,
                kind=layer.kind,
                weights=kernel.size,
                spread=_ratio(of_channels.max(), of_channels.min()),
                spread_over_median=_ratio(of_channels.max(), np.median(of_channels)),
                sqnr=signal_to_noise(reference, noisy),
            )
        )
    return tuple(found)


def noise_by_kind(layers: Sequence[Sensitivity]) -> dict[Kind, float]:
    """Returns the shares of the noise that the layers of each kind cause, the largest first.

    Noise is added as if that of different layers were independent. The shares sum to 1, or are all
    0 if there is no noise.
    """
    noise: dict[Kind, float] = defaultdict(float)
    for each in layers:
        noise[each.kind] += each.noise
    total = sum(noise.values()) or 1.0
    shares = sorted(noise.items(), key=lambda item: -item[1])
    return {kind: value / total for kind, value in shares}


def _ratio(a: float, b: float) -> float | None:
    return float(a) / float(b) if b else None
