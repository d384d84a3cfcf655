"""Quantized networks: where they round, to what numbers, and what calibration takes from images."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from small_networks import images_of, mixed, model_and_variables, quick_jit

from mnet_jax import models, quantization
from mnet_jax.architectures import walk
from mnet_jax.quantization import Quantization

IMAGES = images_of(3, 32, 32, 3)
SHAPES = pytest.mark.parametrize("granularity", ["tensor", "channel"])


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def network():
    """Layers of every kind, with both shortcuts."""
    return model_and_variables(mixed())


@pytest.fixture(scope="module")
def seen(network):
    return quantization.observe(*network, [IMAGES[:2], IMAGES[2:]])


def apply(model, variables, images=IMAGES):
    return quick_jit(lambda v: model.apply(v, images, train=False))(variables)


def intermediates(model, variables):
    @quick_jit
    def apply(variables):
        return model.apply(variables, IMAGES, train=False, mutable=["intermediates"])

    return {name: value[0] for name, value in flat(apply(variables)[1]["intermediates"]).items()}


@SHAPES
def test_every_kernel_and_every_activation_has_a_quantizer(network, seen, granularity):
    model, variables = network
    setting = Quantization(granularity=granularity)
    _, found = quantization.quantized(model, variables, setting, seen)
    suffix = "/step"
    steps = {name.removesuffix(suffix): a for name, a in flat(found["params"]).items()}
    for layer in walk(model.spec, 32):
        shape = (layer.outputs,) if granularity == "channel" else ()
        assert steps[f"{layer.name}/kernel_quantizer"].shape == shape
        assert steps[f"{layer.name}/output_quantizer"].shape == ()
        is_swish = layer.activation == "hard_swish"
        assert (f"{layer.name}/preactivation_quantizer" in steps) == is_swish
    others = ("input", "block_2/squeeze_excite/pooled", "block_2/squeeze_excite/output")
    others += ("block_2/sum", "block_5/skip", "head/pooled")
    assert {f"{name}_quantizer" for name in others} <= steps.keys()
    assert all(np.all(step > 0) for name, step in steps.items() if name.endswith("_quantizer"))


def test_quantizers_that_are_off_change_nothing(network, seen):
    model, variables = network
    rounding, found = quantization.quantized(model, variables, Quantization(), seen)
    off = apply(rounding, quantization.switched_off(found))
    np.testing.assert_allclose(off, apply(model, variables), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 3])
def test_activations_have_as_many_values_as_levels(network, seen, bits):
    model, variables = network
    setting = Quantization(activation_bits=bits, edge_bits=2)
    rounding, found = quantization.quantized(model, variables, setting, seen)
    for name, value in intermediates(rounding, found).items():
        distinct = np.unique(value)
        assert len(distinct) <= 2**bits, name
        steps = distinct / np.diff(distinct).min()
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-2, err_msg=name)


@SHAPES
@pytest.mark.parametrize("weights", ["symmetric", "asymmetric"])
def test_a_folded_network_rounds_as_the_network_that_it_was_folded_from(
    network, seen, granularity, weights
):
    model, variables = network
    setting = Quantization(weight_bits=5, granularity=granularity, weight_symmetry=weights)
    rounding, found = quantization.quantized(model, variables, setting, seen)
    infer, params = models.fuse(rounding, found)
    folded = quick_jit(infer)(params, IMAGES)
    expected = apply(rounding, found)
    # A value on the border of two levels may fall to either side.
    assert np.abs(folded - expected).max() < 0.1 * np.abs(expected).max()
    assert np.mean(np.abs(folded - expected)) < 0.01 * np.abs(expected).max()


def test_fewer_bits_are_further_from_the_float_network(network, seen):
    model, variables = network
    expected = apply(model, variables)
    errors = []
    for bits in (8, 6, 4):
        setting = Quantization(weight_bits=bits, activation_bits=bits, edge_bits=bits)
        rounding, found = quantization.quantized(model, variables, setting, seen)
        errors.append(np.mean((apply(rounding, found) - expected) ** 2))
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 1e-2 * np.mean(expected**2)


def test_the_range_of_an_activation_is_that_of_its_values(network, seen):
    model, variables = network
    expected = intermediates(model, variables)
    for name, key in (("pooled", "head/pooled"), ("expand/output", "block_1/expanded")):
        part = f"head/{name}" if name == "pooled" else f"block_1/{name}"
        observed = seen[f"{part}_quantizer"]
        np.testing.assert_allclose(observed.least, expected[key].min(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(observed.most, expected[key].max(), rtol=1e-4)
        assert observed.least <= observed.sample.min() <= observed.sample.max() <= observed.most


def test_the_ends_of_a_network_keep_more_bits():
    setting = Quantization(weight_bits=3, activation_bits=4, edge_bits=8)
    assert setting.at("stem").weight_bits == setting.at("head/classifier").weight_bits == 8
    assert setting.at("input_quantizer").activation_bits == 8
    assert setting.at("stem").activation_bits == 4
    assert setting.at("block_0/expand") == setting


@pytest.mark.parametrize("name", ["weight_bits", "activation_bits"])
def test_illegal_bits_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: got 9, legal: 2 to 8, or 0 for none"):
        Quantization(**{name: 9})


def test_a_quantized_network_trains_under_jit_and_pmap_alike(network, seen):
    model, variables = network
    rounding, found = quantization.quantized(model, variables, Quantization(), seen)

    def loss(params, images):
        values = {**found, "params": params}
        logits, _ = rounding.apply(values, images, train=True, mutable=["batch_stats"])
        return (logits**2).mean()

    gradients = flat(jax.jit(jax.grad(loss))(found["params"], IMAGES))
    on_devices = jax.pmap(jax.grad(loss), in_axes=(None, 0))(found["params"], IMAGES[None])
    for name, gradient in flat(on_devices).items():
        assert np.isfinite(gradient).all(), name
        # A value on the border of two levels may fall to either side.
        error, size = np.linalg.norm(gradient[0] - gradients[name]), np.linalg.norm(gradient)
        assert error < 0.3 * size + 1e-6, name
        if name.endswith("/kernel") or name.endswith("_quantizer/step"):
            assert size > 0, name


def test_features_are_those_of_the_same_layers(network, seen):
    model, variables = network
    rounding, found = quantization.quantized(model, variables, Quantization(), seen)
    maps = quick_jit(lambda v: rounding.apply(v, IMAGES, train=False, method="features"))(found)
    expected = quick_jit(lambda v: model.apply(v, IMAGES, train=False, method="features"))(
        variables
    )
    assert maps.keys() == expected.keys()
    for stride, value in maps.items():
        assert 0 < np.abs(value - expected[stride]).mean() < 0.1 * np.abs(expected[stride]).max()
