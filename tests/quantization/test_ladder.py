"""The ladder and the sensitivity of small networks, against NumPy on independently made logits."""

import dataclasses

import numpy as np
import pytest
from folded_networks import by_hand_folded, flat, folded, rounded_by_hand, with_params
from messages import one_line
from small_networks import images_of, model_and_variables, quick_jit, shortened, small_v1, small_v2

from mnet_jax import quantization
from mnet_jax.architectures import transforms, walk
from mnet_jax.quantization import LadderConfig, Quantization

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SPEC = shortened(small_v2(), 3)  # ReLU6, a shortcut, and pairs that can be equalized
IMAGES = images_of(10, 32, 32, 3)
BATCHES = [IMAGES[:4], IMAGES[4:8], IMAGES[8:]]
CALIBRATION = images_of(6, 32, 32, 3, seed=1)
BITS = (8, 5)
TENSOR = ["per tensor", "bias correction alone", "ReLU for ReLU6", "+ equalization", "+ absorption"]


def decibels(reference, found):
    return 20 * np.log10(np.linalg.norm(reference) / np.linalg.norm(found - reference))


def apply(model, variables):
    return np.asarray(quick_jit(lambda v: model.apply(v, IMAGES, train=False))(variables))


@pytest.fixture(scope="module")
def network():
    return model_and_variables(SPEC)


@pytest.fixture(scope="module")
def reference(network):
    return apply(*network)


@pytest.fixture(scope="module")
def labels(reference):
    """The classes that the network gives, but for three images."""
    found = reference.argmax(-1)
    found[:3] = (found[:3] + 1) % reference.shape[-1]
    return found


@pytest.fixture(scope="module")
def ladder(network, labels):
    config = LadderConfig(bits=BITS, setting=Quantization(edge_bits=5))
    calibration = [CALIBRATION[:3], CALIBRATION[3:]]
    return quantization.measure_ladder(
        *network, BATCHES, config, calibration=calibration, labels=labels
    )


def rung_of(ladder, bits, granularity, name):
    (found,) = [
        one
        for one in ladder.rungs
        if (one.bits, one.granularity, one.name) == (bits, granularity, name)
    ]
    return found


def test_the_rungs_are_in_the_order_of_the_methods(ladder):
    names = [(one.bits, one.granularity, one.name) for one in ladder.rungs]
    wanted = [(32, None, "float"), (32, None, "ReLU for ReLU6")]
    for bits in BITS:
        wanted += [(bits, "tensor", name) for name in [*TENSOR, "+ bias correction"]]
        wanted += [(bits, "channel", name) for name in ("per channel", "+ bias correction")]
    assert names == wanted
    assert ladder.images == len(IMAGES)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("bits", BITS)
def test_a_rung_is_what_its_network_does(network, reference, labels, ladder, granularity, bits):
    setting = Quantization(
        weight_bits=bits, activation_bits=bits, granularity=granularity, edge_bits=5
    )
    model, variables = folded(SPEC)
    seen = quantization.observe(model, variables, [CALIBRATION])
    logits = apply(*quantization.quantized(model, variables, setting, seen))
    rung = rung_of(ladder, bits, granularity, f"per {granularity}")
    np.testing.assert_allclose(rung.sqnr, decibels(reference, logits), atol=0.3)
    classes = logits.argmax(-1)
    # A value on the border of two levels may fall to either side, and with it one image.
    assert abs(rung.agreement - np.mean(classes == reference.argmax(-1))) < 1.5 / len(IMAGES)
    assert abs(rung.accuracy - np.mean(classes == labels)) < 1.5 / len(IMAGES)


def test_the_network_in_float_is_the_measure(reference, labels, ladder):
    exact, relu = ladder.rungs[:2]
    assert (exact.agreement, exact.sqnr, exact.accuracy) == (1, None, 0.7)
    model, variables = folded(quantization.without_relu6(SPEC))
    logits = by_hand_folded(model.spec, variables, IMAGES)[0]
    np.testing.assert_allclose(relu.sqnr, decibels(reference, logits), rtol=1e-3)
    assert relu.agreement == np.mean(logits.argmax(-1) == reference.argmax(-1))
    assert relu.accuracy == np.mean(logits.argmax(-1) == labels)


def test_the_sizes_are_those_of_the_arrays(ladder):
    model, variables = folded(SPEC)
    params = flat(variables["params"])
    weights = sum(a.size for name, a in params.items() if name.endswith("/kernel"))
    others = sum(a.size for a in params.values()) - weights
    assert ladder.rungs[0].size == 4 * (weights + others)
    seen = quantization.observe(model, variables, [CALIBRATION])
    for granularity in ("tensor", "channel"):
        setting = Quantization(weight_bits=5, granularity=granularity, edge_bits=5)
        _, values = quantization.quantized(model, variables, setting, seen)
        extra = {n: a for n, a in flat(values["params"]).items() if "_quantizer/" in n}
        exact = 5 / 8 * weights + 4 * (others + sum(a.size for a in extra.values()))
        size = rung_of(ladder, 5, granularity, f"per {granularity}").size
        assert exact <= size < exact + len(params)  # each kernel takes whole bytes


def test_equalization_mends_what_a_hostile_rescaling_breaks(network):
    spec = quantization.without_relu6(SPEC)
    _, variables = folded(spec)
    rng = np.random.default_rng(0)
    factors = {
        pair.first.name: 10 ** rng.uniform(-2, 2, pair.first.outputs)
        for pair in quantization.pairs(spec)
    }
    model, _ = folded(spec)
    hostile = quantization.rescale(spec, variables, factors)
    found = quantization.measure_ladder(
        model, hostile, [IMAGES], LadderConfig(bits=(8,), granularity=("tensor",))
    )
    assert "ReLU for ReLU6" not in {one.name for one in found.rungs}
    broken, mended = (
        rung_of(found, 8, "tensor", name).sqnr for name in ("per tensor", "+ equalization")
    )
    assert broken + 10 < mended


def test_learned_rounding_and_corrected_biases_each_reduce_the_noise():
    config = LadderConfig(
        bits=(3,), granularity=("channel",), setting=Quantization(edge_bits=3), adaround=200
    )
    spec = shortened(small_v1(), 1)
    found = quantization.measure_ladder(*model_and_variables(spec), [IMAGES], config)
    assert [one.name for one in found.rungs][1:] == [
        "per channel",
        "+ bias correction",
        "+ AdaRound",
    ]
    nearest, corrected, learned = (one.sqnr for one in found.rungs[1:])
    assert nearest < corrected < learned


def test_a_network_without_pairs_says_why_it_is_not_equalized():
    spec = transforms.with_block_activation(shortened(small_v1(), 1), "hard_swish")
    spec = dataclasses.replace(spec, stem=dataclasses.replace(spec.stem, activation="hard_swish"))
    found = quantization.measure_ladder(
        *model_and_variables(spec), [IMAGES], LadderConfig(bits=(8,), granularity=("tensor",))
    )
    assert found.left_out["+ equalization"].startswith("stem: got hard_swish")
    names = [one.name for one in found.rungs]
    assert names == ["float", "per tensor", "+ bias correction"]


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_sensitivity_is_the_noise_of_one_rounded_kernel(network, granularity):
    setting = Quantization(weight_bits=4, granularity=granularity, edge_bits=4)
    found = quantization.measure_sensitivity(*network, BATCHES, setting)
    _, variables = folded(SPEC)
    reference, _ = by_hand_folded(SPEC, variables, IMAGES)
    rounded = rounded_by_hand(SPEC, variables, 4, per_channel=granularity == "channel")
    layers = [*walk(SPEC, 32)]
    assert [one.layer for one in found] == [layer.name for layer in layers]
    for one, layer in zip(found, layers, strict=True):
        path = layer.kernel_path
        alone = with_params(variables, {path: flat(rounded["params"])[path]})
        logits, _ = by_hand_folded(SPEC, alone, IMAGES)
        np.testing.assert_allclose(one.sqnr, decibels(reference, logits), atol=0.1)
        ranges = np.abs(flat(variables["params"])[path]).max(
            axis=tuple(range(len(layer.kernel_shape) - 1))
        )
        np.testing.assert_allclose(one.spread, ranges.max() / ranges.min(), rtol=1e-4)
        np.testing.assert_allclose(
            one.spread_over_median, ranges.max() / np.median(ranges), rtol=1e-4
        )
        assert (one.kind, one.weights) == (layer.kind, np.prod(layer.kernel_shape))
    noise = {kind: 0.0 for kind in quantization.noise_by_kind(found)}
    for one in found:
        noise[one.kind] += 10 ** (-one.sqnr / 10)
    for kind, share in quantization.noise_by_kind(found).items():
        np.testing.assert_allclose(share, noise[kind] / sum(noise.values()))


def test_a_channel_of_zeros_has_no_spread(network):
    model, variables = folded(SPEC)
    path = "block_1/depthwise/conv/kernel"
    kernel = flat(variables["params"])[path] * (
        np.arange(flat(variables["params"])[path].shape[-1]) > 0
    )
    found = quantization.measure_sensitivity(
        model, with_params(variables, {path: kernel}), [IMAGES], Quantization()
    )
    (one,) = [one for one in found if one.layer == "block_1/depthwise"]
    assert one.spread is None and one.spread_over_median > 1


def test_the_ratio_in_decibels_is_that_of_the_energies():
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(0, 1, (50, 9)), rng.normal(0, 0.01, (50, 9))
    wanted = 10 * np.log10((signal**2).sum() / (noise**2).sum())
    np.testing.assert_allclose(quantization.signal_to_noise(signal, signal + noise), wanted)
    assert quantization.signal_to_noise(signal, signal) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bits": (9,)}, "bits: got 9, legal: 2 to 8"),
        ({"bits": (8, 8)}, "bits: got '8 8', legal: one value or more, each once"),
        ({"granularity": ()}, "granularity: got '', legal: one value or more, each once"),
        ({"adaround": -1}, "adaround: got -1, legal: 0 or more"),
    ],
)
def test_illegal_settings_are_refused(given, message):
    one_line(ValueError, lambda: LadderConfig(**given), message)


def test_a_quantized_network_and_no_images_are_refused(network):
    model, variables = network
    rounding = model.clone(quantization=Quantization())
    measure = quantization.measure_ladder
    one_line(ValueError, lambda: measure(rounding, variables, [IMAGES]), "a network in float")
    one_line(ValueError, lambda: measure(model, variables, []), "images: got 'none'")
