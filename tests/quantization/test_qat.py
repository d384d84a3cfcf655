"""Quantization-aware training: oscillation, dampening, statistics, against the paper's formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from small_networks import images_of, mixed, model_and_variables

from mnet_jax import quantization
from mnet_jax.architectures import walk
from mnet_jax.quantization import Quantization, qat

pytestmark = pytest.mark.usefixtures("quickly_compiled")

IMAGES = images_of(4, 32, 32, 3)
SETTING = Quantization(weight_bits=3, activation_bits=0, edge_bits=3)


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def network():
    return quantization.quantized(*model_and_variables(mixed()), SETTING)


def moved(variables, layer, amount):
    """The variables with a layer's kernel moved by an amount, in steps of its quantizer."""
    params = dict(flat(variables["params"]))
    unit = params[f"{layer.name}/kernel_quantizer/step"]
    if layer.normalized:
        norm, statistics = f"{layer.name}/norm", flat(variables["batch_stats"])
        unit = unit * np.sqrt(statistics[f"{norm}/var"] + 1e-5) / params[f"{norm}/scale"]
    params[layer.kernel_path] = params[layer.kernel_path] + amount * unit
    return {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}


def test_a_weight_that_goes_to_and_fro_oscillates(network):
    """Frequencies as arXiv 2203.11086, section 3.2, computes them for one weight."""
    model, variables = network
    assert model.spec.dialect.norm_epsilon == 1e-5
    layer = next(walk(model.spec, 32))
    state = qat.oscillation(model, variables)
    assert state.share() == 0
    expected, path = 0.0, [1, 0, 1, 0, 0, 1]
    directions = []
    for before, now in zip([0, *path], path, strict=False):
        change = np.sign(now - before)
        turned = bool(change and directions and change != directions[-1])
        if change:
            directions.append(change)
        expected = 0.99 * expected + 0.01 * turned
        state = qat.update_oscillation(model, state, moved(variables, layer, float(now)))
    # Integers at the end of the range cannot go further.
    free = np.asarray(qat.oscillation(model, variables).integers[layer.name]) < 3
    assert free.any()
    np.testing.assert_allclose(state.frequency[layer.name][free], expected, rtol=1e-5)
    others = [name for name in state.frequency if name != layer.name]
    assert all(not state.frequency[name].any() for name in others)
    weights = sum(f.size for f in state.frequency.values())
    np.testing.assert_allclose(state.share(), free.sum() / weights, rtol=1e-6)


def test_dampening_is_the_squared_distance_from_the_levels(network):
    model, variables = network
    params, statistics = flat(variables["params"]), flat(variables["batch_stats"])
    expected = 0.0
    for layer in walk(model.spec, 32):
        kernel = np.asarray(params[layer.kernel_path], np.float64)
        unit = np.asarray(params[f"{layer.name}/kernel_quantizer/step"], np.float64)
        if layer.normalized:
            norm = f"{layer.name}/norm"
            unit = unit * np.sqrt(statistics[f"{norm}/var"] + 1e-5) / params[f"{norm}/scale"]
        inside = np.clip(kernel, -3 * unit, 3 * unit)
        expected += ((inside - np.clip(np.round(kernel / unit), -3, 3) * unit) ** 2).sum()
    np.testing.assert_allclose(qat.dampening(model, variables), expected, rtol=1e-4)


def test_dampening_pulls_a_kernel_to_its_level(network):
    model, variables = network

    def penalty(params):
        return qat.dampening(model, {**variables, "params": params})

    gradient = jax.jit(jax.grad(penalty))(variables["params"])
    pulled = jax.tree.map(lambda p, g: p - 0.4 * g, variables["params"], gradient)
    after = float(penalty(pulled))
    np.testing.assert_allclose(after, 0.04 * float(penalty(variables["params"])), rtol=1e-3)
    steps = [value for name, value in flat(gradient).items() if "quantizer" in name]
    assert steps and not any(value.any() for value in steps)


def test_new_statistics_are_the_means_of_the_batches(network):
    model, variables = network
    batches = [IMAGES[:2], IMAGES[2:]]
    found = qat.reestimate_statistics(model, variables, batches)
    # The stem's statistics depend on the images alone: a convolution by the rounded kernel.
    params = flat(variables["params"])
    norm = {name: flat(variables["batch_stats"])[f"stem/norm/{name}"] for name in ("mean", "var")}
    rate = params["stem/norm/scale"] / np.sqrt(norm["var"] + 1e-5)
    step = params["stem/kernel_quantizer/step"]
    kernel = np.clip(np.round(params["stem/conv/kernel"] * rate / step), -3, 3) * step / rate
    (pads,) = {layer.pads for layer in walk(model.spec, 32) if layer.name == "stem"}
    outputs = [
        jax.lax.conv_general_dilated(
            batch, jnp.asarray(kernel, jnp.float32), (2, 2), pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for batch in batches
    ]  # fmt: skip
    means = np.mean([np.mean(y, (0, 1, 2)) for y in outputs], 0)
    variances = np.mean([np.var(y, (0, 1, 2)) for y in outputs], 0)
    stem = found["batch_stats"]["stem"]["norm"]
    np.testing.assert_allclose(stem["mean"], means, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(stem["var"], variances, rtol=1e-3)

    # The integers of every kernel with a step a channel stay those that the statistics come from.
    before, after = (qat.oscillation(model, values).integers for values in (variables, found))
    for layer in walk(model.spec, 32):
        assert np.array_equal(before[layer.name], after[layer.name]), layer.name


def test_new_statistics_need_images(network):
    with pytest.raises(ValueError, match="batches: got 'none', legal: one or more"):
        qat.reestimate_statistics(*network, [])


def test_frozen_parts_keep_their_statistics(network):
    model, variables = network
    found = qat.reestimate_statistics(dataclasses.replace(model, frozen=1), variables, [IMAGES])
    kept = flat(found["batch_stats"]["stem"]), flat(variables["batch_stats"]["stem"])
    for name, value in kept[0].items():
        assert np.array_equal(value, kept[1][name])


def test_without_quantized_kernels_nothing_oscillates(network):
    model, variables = network
    model = model.clone(quantization=Quantization(weight_bits=0))
    variables = quantization.without_quantizers(variables)
    assert qat.oscillation(model, variables).share() == 0
