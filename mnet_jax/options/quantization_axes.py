"""The axes of quantization that are more than a field of the config."""

from dataclasses import fields, replace
from typing import Any, Literal, get_args

from mnet_jax.changes import ABSENT
from mnet_jax.models.types import Quantization
from mnet_jax.options.axis import Axis, Varied
from mnet_jax.quantization.types import Method, QuantizationConfig
from mnet_jax.validation import require

# The axes that only configs with a `quantization` have.
QUANTIZED = (
    "bits",
    *(field.name for field in fields(Quantization)),
    *(
        field.name
        for field in fields(QuantizationConfig)
        if field.name not in ("method", "setting")
    ),
)
# Those of quantization-aware training alone.
OF_TRAINING = ("step_sizes", "qat_epochs", "qat_learning_rate", "dampening")
NONE = "none"  # the value of `quantization` for a network in floating point


def _with_method(config: Varied, method: Method | Literal["none"]) -> Varied:
    if method == "none":
        return replace(config, quantization=None)
    quantization = replace(config.quantization or QuantizationConfig(), method=method)
    return replace(config, quantization=quantization)


def _with_bits(config: Varied, bits: int) -> Varied:
    quantization = config.quantization
    if quantization is None:
        raise ValueError(f"bits: got {bits}, legal: none without --quantization")
    require(2 <= bits <= 8, "bits", bits, "2 to 8")
    setting = replace(quantization.setting, weight_bits=bits, activation_bits=bits)
    return replace(config, quantization=replace(quantization, setting=setting))


def _bits_of(config: Varied) -> Any:
    if config.quantization is None:
        return ABSENT
    setting = config.quantization.setting
    equal = setting.weight_bits == setting.activation_bits
    return setting.weight_bits if equal else ABSENT


QUANTIZATION = Axis(
    name="quantization",
    values=Literal[NONE, *get_args(Method)],
    help="quantization of the trained network: after training (ptq; with equalized ranges, also "
    "with corrected biases, also with learned rounding), or by further training (qat)",
    apply=_with_method,
    read=lambda config: config.quantization.method if config.quantization else NONE,
)
BITS = Axis(
    name="bits",
    values=int,
    help="bits of weights and of activations, 2 to 8",
    apply=_with_bits,
    read=_bits_of,
    determines=("weight_bits", "activation_bits"),
)
