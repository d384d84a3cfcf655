"""Networks in integers equal LiteRT's interpreter: every int8 tensor and the logits."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import litert_files
import numpy as np
import pytest
from flax import traverse_util
from quantized_networks import calibrated, forward, kernel_steps, litert_file, random_params
from small_networks import images_of, mixed, selected

from mnet_jax import architectures
from mnet_jax.architectures import walk
from mnet_jax.quantization import integer

SHAPE = (3, 40, 40, 3)
WHOLE = {
    "whole v1": architectures.mobilenet_v1(width=0.25, num_classes=7),
    "whole v2": architectures.mobilenet_v2(width=0.35, num_classes=7),
    "whole v3": architectures.mobilenet_v3("small", width=0.35, num_classes=7),
}
# All kinds of layers that each network has, in a few blocks.
NETWORKS = {
    "v1": selected(WHOLE["whole v1"], (0, 1)),
    "v2": selected(WHOLE["whole v2"], (0, 1, 2)),
    "v3": selected(WHOLE["whole v3"], (0, 1, 3, 4)),
    "mixed": mixed(),
}


class Case(NamedTuple):
    spec: architectures.NetworkSpec
    params: dict  # flat
    affines: dict
    steps: dict
    images: np.ndarray
    operations: list  # of LiteRT
    network: integer.Network


@functools.cache
def case(name):
    spec = (NETWORKS | WHOLE)[name]
    params, images = random_params(spec), images_of(*SHAPE)
    affines, steps = calibrated(spec, params, images), kernel_steps(spec, params)
    if name == "mixed":  # one step for each kernel
        steps = {layer: step.max() for layer, step in steps.items()}
    model = litert_file(spec, params, affines, steps, SHAPE)
    nested = traverse_util.unflatten_dict(params, sep="/")
    given = steps if name == "mixed" else None
    network = integer.convert(spec, nested, affines, given)
    return Case(spec, params, affines, steps, images, litert_files.run(model, images), network)


networks = pytest.mark.parametrize(
    "name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in WHOLE)]
)


@networks
def test_every_tensor_equals_litert_s(name):
    _, _, affines, _, images, operations, network = case(name)
    found = integer.tensors(network, images)
    assert found.keys() == affines.keys()
    paths = {step: path for path, (step, _) in affines.items()}
    made = [o.output for o in operations if o.kind not in ("PAD", "DEQUANTIZE")]
    compared = {paths[o.steps[0]]: o.value for o in made if o.steps[0] in paths}
    assert compared.keys() == affines.keys()
    for path, value in compared.items():
        np.testing.assert_array_equal(np.ravel(found[path]), value.ravel(), err_msg=path)
        assert len(np.unique(value)) > 2, path


@networks
def test_the_logits_equal_litert_s(name):
    _, _, _, _, images, operations, network = case(name)
    assert operations[-1].kind == "DEQUANTIZE"
    np.testing.assert_array_equal(integer.apply(network, images), operations[-1].output.value)


LAYOUTS = {  # from LiteRT's kernels to ours
    "CONV_2D": lambda kernel: kernel.transpose(1, 2, 3, 0),
    "DEPTHWISE_CONV_2D": lambda kernel: kernel[0],
    "FULLY_CONNECTED": np.transpose,
}


@networks
def test_weights_and_biases_equal_those_of_litert_s_file(name):
    spec, *_, operations, network = case(name)
    theirs = [o for o in operations if o.kind in LAYOUTS]
    for layer, operation in zip(walk(spec, SHAPE[1]), theirs, strict=True):
        last = "preactivation" if layer.activation == "hard_swish" else "output"
        ours = network.operations[f"{layer.name}/{last}_quantizer"]
        _, kernel, bias = (tensor.value for tensor in operation.inputs)
        np.testing.assert_array_equal(LAYOUTS[operation.kind](kernel), ours.kernel)
        np.testing.assert_array_equal(bias, ours.bias)


def test_the_networks_have_all_of_litert_s_operations():
    kinds = {o.kind for name in NETWORKS for o in case(name).operations}
    assert kinds >= {*LAYOUTS, "ADD", "MUL", "MEAN", "HARD_SWISH", "QUANTIZE", "DEQUANTIZE", "PAD"}


@pytest.mark.parametrize("name", ["v2", "v3"])
def test_the_logits_are_near_those_in_float(name):
    spec, params, *_, images, _, network = case(name)

    def keep(_, x):
        return x

    expected = np.asarray(jax.jit(lambda x: forward(spec, params, x, keep, keep))(images))
    noise = np.asarray(integer.apply(network, images)) - expected
    assert np.square(noise).sum() < 0.05 * np.square(expected).sum()


def small_case():
    spec, params, affines, steps, *_ = case("v1")
    return spec, traverse_util.unflatten_dict(params, sep="/"), dict(affines), dict(steps)


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("affines", "block_1/depthwise/output_quantizer", None),
        ("affines", "stem/output_quantizer", (0.0, 0)),
        ("affines", "stem/output_quantizer", (np.nan, 0)),
        ("affines", "head/pooled_quantizer", (0.1, 128)),
        ("affines", "head/pooled_quantizer", (0.1, 0.5)),
        ("kernel_steps", "stem", None),
        ("kernel_steps", "stem", -np.ones(8, np.float32)),
        ("kernel_steps", "stem", np.float32(0)),
        ("kernel_steps", "stem", np.ones(5, np.float32)),
        ("kernel_steps", "stem", np.float32(1e-12)),  # the bias would need more than 32 bits
    ],
)
def test_what_cannot_be_converted_is_refused_in_a_line(argument, name, value):
    spec, params, affines, steps = small_case()
    given = affines if argument == "affines" else steps
    del given[name]
    if value is not None:
        given[name] = value
    with pytest.raises(ValueError, match=rf"^.*{name.partition('/')[0]}.*legal: .*$"):
        integer.convert(spec, params, affines, steps)


def test_quantizers_are_read_from_the_parameters_of_a_network_that_has_them():
    spec, params, affines, steps = small_case()
    flat = traverse_util.flatten_dict(params, sep="/")
    for path, (step, zero) in affines.items():
        flat |= {f"{path}/step": jnp.float32(step), f"{path}/zero": jnp.float32(zero)}
    for layer, step in steps.items():
        flat[f"{layer}/kernel_quantizer/step"] = jnp.asarray(step)
    quantized = traverse_util.unflatten_dict(flat, sep="/")
    network = integer.convert(spec, quantized, *integer.read_quantizers(quantized))
    jax.tree.map(np.testing.assert_array_equal, network, case("v1").network)
    flat["stem/kernel_quantizer/zero"] = jnp.ones(())
    with pytest.raises(ValueError, match=r"^stem/kernel_quantizer/zero: got .*, legal: 0"):
        integer.read_quantizers(traverse_util.unflatten_dict(flat, sep="/"))


def test_channels_without_weights_yield_their_biases():
    """Steps of the size of their largest weights would make the biases overflow."""
    spec, params, affines, _ = small_case()
    classifier = params["head"]["classifier"]
    classifier["kernel"] = classifier["kernel"] * np.float32([0, 1e-30, 1, 1, 1, 1, 1])
    classifier["bias"] = np.full(7, 0.4, np.float32)
    network = integer.convert(spec, params, affines)
    logits = np.asarray(integer.apply(network, case("v1").images))
    step, _ = affines["head/classifier/output_quantizer"]
    np.testing.assert_allclose(logits[:, :2], 0.4, atol=0.5 * step)


def test_a_network_computes_images_of_all_sizes():
    spec, params, affines, steps, *_, network = case("v1")
    images = images_of(2, 33, 47, 3)
    model = litert_file(spec, params, affines, steps, images.shape)
    expected = litert_files.run(model, images)[-1].output.value
    np.testing.assert_array_equal(integer.apply(network, images), expected)
