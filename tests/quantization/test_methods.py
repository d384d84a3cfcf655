"""All methods in their order: each mends what the one before leaves."""

import numpy as np
import pytest
from small_networks import images_of, model_and_variables, quick_jit, small_v1, small_v2

from mnet_jax import quantization
from mnet_jax.architectures.transforms import with_activation
from mnet_jax.models import MobileNet
from mnet_jax.quantization import Quantization, QuantizationConfig

pytestmark = pytest.mark.usefixtures("quickly_compiled")

IMAGES = images_of(32, 32, 32, 3)
PER_TENSOR = Quantization(granularity="tensor", activation_bits=8)


def logits_of(model, variables):
    return quick_jit(lambda v: model.apply(v, IMAGES, train=False))(variables)


@pytest.fixture(scope="module")
def hostile():
    """V2 with ReLU, whose channels differ so much in range that one step serves none."""
    spec = quantization.without_relu6(small_v2())
    model, variables = model_and_variables(spec)
    rng = np.random.default_rng(0)
    variables = {**variables, "params": {**variables["params"]}}
    for part in [name for name in variables["params"] if name.startswith("block")]:
        layers = dict(variables["params"][part])
        for role in ("expand", "depthwise"):
            if role in layers:
                norm = dict(layers[role]["norm"])
                wild = np.exp(rng.normal(0, 2, norm["scale"].shape)).astype(np.float32)
                norm |= {"scale": norm["scale"] * wild, "bias": norm["bias"] * wild}
                layers[role] = {**layers[role], "norm": norm}
        variables["params"][part] = layers
    return model, variables


def test_each_method_is_closer_to_the_float_network(hostile):
    model, variables = hostile
    expected, errors = logits_of(model, variables), {}
    for method in ("ptq", "ptq-equalized", "ptq-corrected", "ptq-adaround"):
        config = QuantizationConfig(method=method, setting=PER_TENSOR)
        found = quantization.post_training(model, variables, config, [IMAGES[:16], IMAGES[16:]])
        assert found[0].folded and found[0].quantization == PER_TENSOR
        errors[method] = np.mean((logits_of(*found) - expected) ** 2) / np.mean(expected**2)
    assert errors["ptq-equalized"] < 0.3 * errors["ptq"]
    assert errors["ptq-corrected"] < errors["ptq-equalized"]
    assert errors["ptq-adaround"] < errors["ptq-equalized"]


def test_a_network_without_a_pair_is_refused_by_its_first_layer():
    spec = with_activation(small_v1(), "hard_swish")
    model, variables = model_and_variables(spec)
    config = QuantizationConfig(method="ptq-equalized")
    with pytest.raises(ValueError, match=r"stem: .*hard_swish.*legal: .*relu"):
        quantization.post_training(model, variables, config, [IMAGES])


def test_training_is_no_post_training():
    config = QuantizationConfig(method="qat")
    with pytest.raises(ValueError, match="method: got 'qat', legal: ptq, ptq-equalized"):
        quantization.post_training(MobileNet(spec=small_v2()), {}, config, [])
