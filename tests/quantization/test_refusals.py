"""Networks that cannot be quantized yet are refused in one line, whichever function is called."""

from functools import partial

import pytest
from messages import one_line
from small_networks import images_of, model_and_variables, small_hybrid

from mnet_jax import models, quantization
from mnet_jax.architectures import transforms
from mnet_jax.quantization import Quantization, integer

HYBRID = small_hybrid()
PLAIN = transforms.with_attention(HYBRID, "none")
REST = {  # what else of the hybrids has no quantizers
    "gelu": (transforms.with_activation(transforms.with_layer_scale(PLAIN, False), "gelu"), "gelu"),
    "layer scale": (PLAIN, "a layer scale"),
}
KERNELS = Quantization(activation_bits=0)


def calls(spec):
    """The functions that take a network and its variables, by name."""
    model, variables = model_and_variables(spec)
    images = [images_of(1, 64, 64, 3)]
    return {
        "fold, equalize": lambda: quantization.equalize(spec, quantization.fold(spec, variables)),
        "pairs": lambda: quantization.pairs(spec),
        "observe": lambda: quantization.observe(model, variables, images),
        "quantized": lambda: quantization.quantized(model, variables, KERNELS),
        "sensitivity": lambda: quantization.measure_sensitivity(model, variables, images, KERNELS),
        "size": lambda: quantization.size_in_bytes(spec, KERNELS),
        "integers": lambda: integer.convert(spec, variables["params"], {}),
        "network": partial(
            models.MobileNet(spec=spec, quantization=KERNELS).apply, variables, *images, train=False
        ),
    }


@pytest.mark.parametrize("name", calls(HYBRID))
def test_attention_is_refused_with_its_layer(name):
    line = one_line(ValueError, calls(HYBRID)[name])
    assert line.startswith("quantization of block_4/input: got 'a layer of attention', legal: ")


@pytest.mark.parametrize("name", REST)
def test_what_has_no_quantizers_is_refused_with_its_layer(name):
    spec, given = REST[name]
    line = one_line(ValueError, calls(spec)["pairs"])
    assert line.startswith("quantization of ") and f": got {given!r}, legal: " in line
