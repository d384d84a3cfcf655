"""Post-training quantization: all methods in their order, for one network."""

from collections.abc import Iterable, Mapping
from typing import Any

from jax.typing import ArrayLike

from mnet_jax.models.network import MobileNet
from mnet_jax.quantization.calibration import observe, quantized
from mnet_jax.quantization.types import QuantizationConfig


def post_training(
    model: MobileNet,
    variables: Mapping[str, Any],
    config: QuantizationConfig,
    batches: Iterable[ArrayLike],
) -> tuple[MobileNet, dict[str, Any]]:
    """Returns a quantized network and its variables, by the method of a config.

    Args:
      model: the network in floating point.
      variables: its `params` and `batch_stats`.
      config: the method, bits, and the choice of ranges.
      batches: images [b, h, w, 3] for calibration.
    """
    seen = observe(model, variables, batches)
    ranges = config.ranges
    return quantized(model, variables, config.setting, seen, kernels=ranges, activations=ranges)
