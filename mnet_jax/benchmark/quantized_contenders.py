"""Contenders for quantization-aware training: a step with simulated quantization, and without.

On a CPU, `ours` computes with native kernels, which take normalization and activation functions
into the convolutions; simulated quantization keeps them apart. The lowering `shifted` computes both
steps by the same program of XLA, so that its two times show what the quantizers cost.
"""

from functools import partial

from mnet_jax import models, ops, quantization
from mnet_jax.benchmark.cases import NetworkCase, Run
from mnet_jax.benchmark.contenders import QAT_BITS
from mnet_jax.benchmark.jax_contenders import batch_of, random_variables, training
from mnet_jax.quantization import Quantization, qat


def ours(case: NetworkCase) -> Run:
    """Trains with simulated quantization, by the lowering with which this library trains."""
    return _quantized(case, ops.best_lowering())


def shifted(case: NetworkCase) -> Run:
    """Trains with simulated quantization, by the lowering `shifted`."""
    return _quantized(case, "shifted")


def shifted_in_float(case: NetworkCase) -> Run:
    """Trains in floating point, by the lowering `shifted`."""
    return training(case, models.MobileNet(spec=case.spec, lowering="shifted").apply)


def _quantized(case: NetworkCase, lowering: ops.Lowering) -> Run:
    model = models.MobileNet(spec=case.spec, lowering=lowering)
    variables, images = random_variables(case.spec), batch_of(case)["image"]
    setting = Quantization(weight_bits=QAT_BITS, activation_bits=QAT_BITS)
    seen = quantization.observe(model, variables, [images])
    model, values = quantization.quantized(model, variables, setting, seen)
    track = partial(qat.update_oscillation, model)
    tracked = qat.oscillation(model, values)
    return training(case, model.apply, variables=values, track=track, tracked=tracked)
