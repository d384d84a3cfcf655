"""Quantization of networks: what 8 bits and fewer cost, and what reduces the loss.

    seen = quantization.observe(model, variables, [images])
    rounding, values = quantization.quantized(model, variables, Quantization(), seen)
    logits = rounding.apply(values, images, train=False)

The methods need a network whose batch normalization is folded, and work alone or after each other,
in this order (arXiv 1906.04721):

    spec = quantization.without_relu6(model.spec)
    folded = quantization.fold(spec, variables)
    folded = quantization.equalize(spec, folded)
    folded = quantization.absorb_high_biases(spec, folded)
    model = models.MobileNet(spec=spec, folded=True)
    seen = quantization.observe(model, folded, [images])
    rounding, values = quantization.quantized(model, folded, Quantization(), seen)
    values = quantization.adaround(rounding, values, images)
    values = quantization.correct_biases(rounding, values, [images], exact=folded)

A quantized network is a `MobileNet` with a `quantization` (`models.types.Quantization`): the same
module, whose layers round their kernels and outputs.

- `folding`: batch normalization folded into kernels, ReLU6 replaced by ReLU;
- `dataflow`: the flow of data, and the layers between which channels can be rescaled;
- `equalization`: cross-layer equalization, exact rescaling, absorption of high biases;
- `calibration`: the steps of a network's quantizers, from its kernels and from images;
- `ranges`: the step and zero of one quantizer, by min-max, percentile or mean squared error;
- `correction`: correction of biases, by arithmetic or with images;
- `rounding`: learned rounding of kernels (AdaRound);
- `ladder`: one network, rounded after each method in turn, and measured;
- `sensitivity`: the noise that each kernel alone causes;
- `methods`: post-training methods in their order, for one network;
- `qat`: quantization-aware training: oscillation, dampening, statistics after training;
- `integer`: networks in integers, computed as LiteRT computes them;
- `integer_operations`: LiteRT's int8 operations;
- `integer_arithmetic`: int8 for real numbers, and products of int32 with real numbers;
- `types`: the options of quantization.

Each name is imported when it is first used, so configs can import `quantization.types` without JAX.
"""

from etils import epy

from mnet_jax.models.types import Quantization
from mnet_jax.quantization.types import LadderConfig, QuantizationConfig

with epy.lazy_api_imports(globals()):
    from mnet_jax.quantization.calibration import (
        Observation,
        activation_steps,
        kernel_steps,
        observe,
        quantized,
        switched_off,
        without_quantizers,
    )
    from mnet_jax.quantization.correction import (
        correct_biases,
        correct_biases_analytic,
        expected_inputs,
        observe_statistics,
    )
    from mnet_jax.quantization.dataflow import Pair, pairs, unpaired
    from mnet_jax.quantization.equalization import (
        absorb_high_biases,
        equalize,
        equalizing_factors,
        rescale,
    )
    from mnet_jax.quantization.folding import fold, without_relu6
    from mnet_jax.quantization.ladder import (
        Ladder,
        Rung,
        measure_ladder,
        signal_to_noise,
        size_in_bytes,
    )
    from mnet_jax.quantization.methods import post_training
    from mnet_jax.quantization.ranges import choose
    from mnet_jax.quantization.rounding import adaround
    from mnet_jax.quantization.sensitivity import Sensitivity, measure_sensitivity, noise_by_kind

__all__ = [
    "Ladder",
    "LadderConfig",
    "Observation",
    "Pair",
    "Quantization",
    "QuantizationConfig",
    "Rung",
    "Sensitivity",
    "absorb_high_biases",
    "activation_steps",
    "adaround",
    "choose",
    "correct_biases",
    "correct_biases_analytic",
    "equalize",
    "equalizing_factors",
    "expected_inputs",
    "fold",
    "kernel_steps",
    "measure_ladder",
    "measure_sensitivity",
    "noise_by_kind",
    "observe",
    "observe_statistics",
    "pairs",
    "post_training",
    "quantized",
    "rescale",
    "signal_to_noise",
    "size_in_bytes",
    "switched_off",
    "unpaired",
    "without_quantizers",
    "without_relu6",
]
