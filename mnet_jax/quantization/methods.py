"""Post-training quantization: the methods of `QuantizationConfig`, in their order."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from mnet_jax.models.network import MobileNet
from mnet_jax.quantization.calibration import observe, quantized
from mnet_jax.quantization.correction import correct_biases
from mnet_jax.quantization.equalization import absorb_high_biases, equalize
from mnet_jax.quantization.folding import fold, without_relu6
from mnet_jax.quantization.rounding import adaround
from mnet_jax.quantization.types import Method, QuantizationConfig
from mnet_jax.validation import require


def post_training(
    model: MobileNet,
    variables: Mapping[str, Any],
    config: QuantizationConfig,
    batches: Sequence[np.ndarray],
) -> tuple[MobileNet, dict[str, Any]]:
    """Quantizes a network by the method of a config; returns the network and its variables.

    The batch normalization of the result is folded. For all methods but `ptq`, every ReLU6 is
    replaced by ReLU, because channels cannot be equalized through ReLU6.

    Args:
      model: the network in floating point, with batch normalization.
      variables: its `params` and `batch_stats`.
      config: the method, bits, and the choice of ranges.
      batches: images [b, h, w, 3], for the ranges of activations and the means of layers.

    Raises:
      ValueError: the method is `qat`, or no layer of the network can be equalized; the message
        names the first layer and the reason.
    """
    methods = [name for name in get_args(Method) if name != "qat"]
    require(config.method in methods, "method", config.method, ", ".join(methods))
    rank = methods.index(config.method)
    spec = without_relu6(model.spec) if rank else model.spec
    folded = fold(spec, variables)
    if rank:
        folded = absorb_high_biases(spec, equalize(spec, folded))
    model = model.clone(spec=spec, folded=True)
    seen, ranges = observe(model, folded, batches), config.ranges
    model, values = quantized(
        model, folded, config.setting, seen, kernels=ranges, activations=ranges
    )
    if config.method == "ptq-adaround":
        values = adaround(model, values, np.concatenate(batches))
    if rank > methods.index("ptq-equalized"):
        values = correct_biases(model, values, batches, exact=folded)
    return model, {"params": values["params"]}
