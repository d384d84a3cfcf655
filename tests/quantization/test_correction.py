"""Corrected biases: the mean outputs of a network with rounded kernels are those in float."""

import numpy as np
import pytest
from folded_networks import by_hand_folded, flat, folded, rounded_by_hand, with_params
from small_networks import images_of, mixed

from mnet_jax import quantization
from mnet_jax.architectures import walk
from mnet_jax.quantization import Quantization
from mnet_jax.quantization.correction import mean_after_activation

BITS = 4
SPEC = mixed()
BATCHES = [images_of(2, 32, 32, 3, seed=seed) for seed in (0, 1)]
SETTING = Quantization(
    weight_bits=BITS, edge_bits=BITS, activation_bits=0, granularity="tensor"
)  # kernels alone


@pytest.fixture(scope="module")
def network():
    model, variables = folded(SPEC)
    return variables, *quantization.quantized(model, variables, SETTING)


@pytest.fixture(scope="module")
def measured(network):
    """The float network with statistics of the images instead of batch normalization's."""
    variables, rounding, _ = network
    return quantization.observe_statistics(rounding, variables, BATCHES)


def means(spec, variables, images):
    """The mean over images and positions of every named output without activation."""
    logits, named = by_hand_folded(spec, variables, images)
    linear = {
        name: value
        for name, value in flat(named).items()
        if name.endswith(("/started", "/projected")) and name != "block_5/projected"
    }
    return {
        name: value.reshape(-1, value.shape[-1]).mean(0)
        for name, value in (linear | {"logits": logits}).items()
    }


def errors(variables, rounded, images):
    """How far mean outputs are from those in float, as a share of their spread over channels."""
    expected, found = means(SPEC, variables, images), means(SPEC, rounded, images)
    return {name: np.abs(found[name] - mean).mean() / mean.std() for name, mean in expected.items()}


def rounded(variables, biases):
    """The network with kernels rounded in NumPy and with the biases of other variables."""
    params = flat(biases["params"])
    own = {name: value for name, value in params.items() if name.endswith("/bias")}
    return with_params(rounded_by_hand(SPEC, variables, BITS), own)


def test_correction_with_images_makes_mean_outputs_those_of_the_float_network(network):
    variables, rounding, values = network
    before = errors(variables, rounded(variables, variables), BATCHES[0])
    corrected = quantization.correct_biases(rounding, values, BATCHES[:1])
    after = errors(variables, rounded(variables, corrected), BATCHES[0])
    assert len(after) >= 6
    for name, error in after.items():
        assert error < 1e-3 < before[name] / 10, name
    kept = {name for name in flat(values["params"]) if not name.endswith("/bias")}
    for name in kept:
        assert np.array_equal(flat(corrected["params"])[name], flat(values["params"])[name]), name


@pytest.mark.parametrize("analytic", [True, False])
def test_kernels_that_are_rounded_already_are_compared_with_those_in_float(network, analytic):
    variables, rounding, values = network
    images = [] if analytic else [BATCHES[:1]]
    correct = quantization.correct_biases_analytic if analytic else quantization.correct_biases
    expected = flat(correct(rounding, values, *images)["params"])
    replaced = flat(rounded_by_hand(SPEC, variables, BITS)["params"])
    rounded = with_params(values, {n: np.float32(v) for n, v in replaced.items()})
    found = flat(correct(rounding, rounded, *images, exact=variables)["params"])
    unchanged = flat(correct(rounding, rounded, *images)["params"])
    for name in [name for name in expected if name.endswith("/bias")]:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(unchanged[name], replaced[name], rtol=1e-3, atol=1e-3)
    assert np.abs(found["head/hidden/bias"] - replaced["head/hidden/bias"]).max() > 0.1


def test_corrections_of_several_batches_are_averaged(network):
    _, rounding, values = network
    both = quantization.correct_biases(rounding, values, BATCHES)
    alone = [quantization.correct_biases(rounding, values, [images]) for images in BATCHES]
    for name, value in flat(both["params"]).items():
        expected = np.mean([flat(one["params"])[name] for one in alone], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_measured_statistics_are_the_moments_of_outputs(network, measured):
    variables, *_ = network
    logits, named = by_hand_folded(SPEC, variables, np.concatenate(BATCHES))
    statistics = flat(measured["statistics"])
    outputs = {"head/classifier": logits, "block_3/start": named["block_3"]["started"]}
    outputs |= {f"block_{i}/project": named[f"block_{i}"]["projected"] for i in (1, 2, 3, 4)}
    for name, value in outputs.items():
        rows = value.reshape(-1, value.shape[-1])
        np.testing.assert_allclose(statistics[f"{name}/mean"], rows.mean(0), atol=1e-3)
        np.testing.assert_allclose(statistics[f"{name}/deviation"], rows.std(0), rtol=1e-3)
    assert {f"{layer.name}/mean" for layer in walk(SPEC, 32)} < statistics.keys()


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_mean_after_an_activation_is_the_integral(activation):
    mean, deviation = np.array([[-9.0], [-1], [0], [2], [5], [12]]), np.array([[0.3, 1, 4]])
    nodes = np.linspace(-10, 10, 40_001)  # in standard deviations
    density = np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi) * (nodes[1] - nodes[0])
    x = mean[..., None] + deviation[..., None] * nodes
    expected = (ACTIVATIONS[activation](x) * density).sum(-1)
    mean, deviation = np.broadcast_arrays(mean, deviation)
    found = mean_after_activation(mean.ravel(), deviation.ravel(), activation)
    np.testing.assert_allclose(found, expected.ravel(), rtol=0, atol=1e-5)
    constant = mean_after_activation(np.array([-1.0, 2, 7]), np.zeros(3), activation)
    np.testing.assert_allclose(constant, ACTIVATIONS[activation](np.array([-1.0, 2, 7])))


def test_expected_inputs_are_known_after_normalized_layers(network):
    variables, *_ = network
    found = quantization.expected_inputs(SPEC, variables)
    unknown = {"stem", "block_2/squeeze_excite/expand", "block_2/project", "head/classifier"}
    assert found.keys() == {layer.name for layer in walk(SPEC, 32)} - unknown
    statistics = flat(variables["statistics"])
    added = [statistics[f"block_{i}/project/mean"] for i in (1, 2)]
    np.testing.assert_allclose(found["block_3/start"], added[0] + added[1], rtol=1e-6)
    np.testing.assert_array_equal(found["head/hidden"] > 0, True)


def test_analytic_correction_subtracts_the_expected_error(network):
    variables, rounding, values = network
    corrected = flat(quantization.correct_biases_analytic(rounding, values)["params"])
    expected = quantization.expected_inputs(SPEC, variables)
    params = flat(variables["params"])
    after = flat(rounded_by_hand(SPEC, variables, BITS)["params"])
    subscripts = {"conv": "hwio,i->o", "depthwise": "hwc,c->c"}
    for layer in walk(SPEC, 32):
        bias = f"{layer.name}/norm/bias" if layer.normalized else f"{layer.name}/bias"
        shift = 0
        if layer.name in expected:
            error = after[layer.kernel_path] - params[layer.kernel_path]
            how = subscripts.get(layer.kind, "io,i->o")
            shift = np.einsum(how, error, expected[layer.name])
        np.testing.assert_allclose(
            corrected[bias], params[bias] - shift, rtol=1e-4, atol=1e-4, err_msg=layer.name
        )


def test_analytic_correction_halves_the_error_of_the_logits(network, measured):
    variables, rounding, values = network
    values = {**values, "statistics": measured["statistics"]}
    corrected = quantization.correct_biases_analytic(rounding, values)
    images = np.concatenate(BATCHES)
    before = errors(variables, rounded(variables, variables), images)
    after = errors(variables, rounded(variables, corrected), images)
    assert after["logits"] < before["logits"] / 2


def test_what_cannot_be_corrected_is_refused(network):
    variables, rounding, values = network
    with pytest.raises(ValueError, match="model: got 'kernels without quantizers', legal: a quan"):
        quantization.correct_biases_analytic(rounding.clone(quantization=None), values)
    with pytest.raises(ValueError, match="model: got 'batch normalization', legal: a folded"):
        quantization.correct_biases_analytic(rounding.clone(folded=False), values)
    with pytest.raises(ValueError, match="variables: got 'no layer with an expected input'"):
        quantization.correct_biases_analytic(rounding, {"params": values["params"]})
    with pytest.raises(ValueError, match="batches: got 'no images', legal: one batch or more"):
        quantization.correct_biases(rounding, values, [])
    with pytest.raises(ValueError, match="model: got 'no quantization', legal: a quantized"):
        quantization.correct_biases(rounding.clone(quantization=None), variables, BATCHES)
