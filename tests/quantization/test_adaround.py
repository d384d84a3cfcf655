"""AdaRound: kernels on the grid, next to where they were, with smaller errors of the outputs."""

import by_hand
import numpy as np
import pytest
from folded_networks import by_hand_folded, flat, folded, rounded_by_hand
from small_networks import images_of

from mnet_jax import quantization
from mnet_jax.architectures import ConvNorm, Head, InvertedResidual, NetworkSpec, walk
from mnet_jax.architectures.dialects import dialect_of
from mnet_jax.quantization import Quantization

BITS = 3
SPEC = NetworkSpec(
    name="every kind of layer", width=1.0, dialect=dialect_of("mobilenet_v2", "paper"),
    stem=ConvNorm(inputs=3, outputs=6, kernel=3, stride=2, activation="relu6"),
    blocks=(
        InvertedResidual(
            inputs=6, outputs=6, expanded=12, squeeze=8, kernel=5, activation="hard_swish",
            shortcut="bottleneck",
        ),
    ),
    head=Head(conv=None, dropout=0.0, num_classes=5),
)  # fmt: skip
IMAGES = images_of(8, 16, 16, 3)


@pytest.fixture(scope="module", params=["tensor", "channel"])
def learned(request):
    """(variables in float, steps of all kernels, variables with learned rounding)."""
    setting = Quantization(
        weight_bits=BITS, edge_bits=BITS, activation_bits=0, granularity=request.param
    )
    model, variables = folded(SPEC)
    rounding, values = quantization.quantized(model, variables, setting)
    found = quantization.adaround(rounding, values, IMAGES, iterations=200)
    return request.param, variables, found


def steps_of(granularity, kernel):
    axes = tuple(range(kernel.ndim - 1)) if granularity == "channel" else None
    return np.abs(kernel).max(axis=axes) / (2 ** (BITS - 1) - 1)


def outputs(layer, x, kernel, bias):
    """The outputs of a layer after its activation, in NumPy."""
    if layer.kind in ("conv", "depthwise"):
        y = by_hand.convolve_padded(x, kernel, layer.stride, layer.pads, layer.dilation)
    else:
        y = x @ np.asarray(kernel, np.float64)
    known = by_hand.ACTIVATIONS | {"hard_sigmoid": by_hand.hard_sigmoid}
    return known[layer.activation](y + bias)


def inputs_of(params, named):
    """The input of every layer of the network, in NumPy."""
    block = named["block_0"]
    pooled = block["filtered"].mean((1, 2))
    reduce = (params[f"block_0/squeeze_excite/reduce/{name}"] for name in ("kernel", "bias"))
    kernel, bias = reduce
    return {
        "stem": IMAGES,
        "block_0/expand": named["stem_output"],
        "block_0/depthwise": block["expanded"],
        "block_0/squeeze_excite/reduce": pooled,
        "block_0/squeeze_excite/expand": np.maximum(pooled @ kernel + bias, 0),
        "block_0/project": block["weighed"],
        "head/classifier": named["head"]["pooled"],
    }


def test_every_weight_is_on_the_grid_next_to_where_it_was(learned):
    granularity, variables, found = learned
    before, after = flat(variables["params"]), flat(found["params"])
    moved = 0
    for layer in walk(SPEC, 16):
        kernel, rounded = before[layer.kernel_path], after[layer.kernel_path]
        step = steps_of(granularity, kernel)
        levels = rounded / step
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
        assert np.abs(levels).max() <= 2 ** (BITS - 1) - 1 + 1e-4
        assert np.all(np.abs(rounded - kernel) < step * (1 + 1e-5)), layer.name
        moved += np.sum(np.abs(levels - np.round(kernel / step)) > 0.5)
    assert moved > 20  # else all would be rounded to nearest
    for name in before.keys() - {layer.kernel_path for layer in walk(SPEC, 16)}:
        np.testing.assert_array_equal(after[name], before[name])


def test_outputs_of_layers_are_nearer_than_those_of_rounding_to_nearest(learned):
    granularity, variables, found = learned
    params, after = flat(variables["params"]), flat(found["params"])
    per_channel = granularity == "channel"
    nearest = flat(rounded_by_hand(SPEC, variables, BITS, per_channel=per_channel)["params"])
    _, named = by_hand_folded(SPEC, variables, IMAGES)
    inputs, ratios = inputs_of(params, named), {}
    for layer in walk(SPEC, 16):
        bias = params[f"{layer.name}/norm/bias" if layer.normalized else f"{layer.name}/bias"]
        expected, ours, theirs = (
            outputs(layer, inputs[layer.name], kernels[layer.kernel_path], bias)
            for kernels in (params, after, nearest)
        )
        ratios[layer.name] = ((ours - expected) ** 2).mean() / ((theirs - expected) ** 2).mean()
    assert max(ratios.values()) < 1 + 1e-4
    assert np.mean(list(ratios.values())) < 0.85
    assert ratios["head/classifier"] < 0.6


def test_illegal_arguments_are_refused():
    model, variables = folded(SPEC)
    with pytest.raises(ValueError, match="model: got 'kernels without quantizers', legal: a quan"):
        quantization.adaround(model, variables, IMAGES)
    rounding, values = quantization.quantized(model, variables, Quantization(activation_bits=0))
    with pytest.raises(ValueError, match="iterations: got 0, legal: a whole number, 1 or more"):
        quantization.adaround(rounding, values, IMAGES, iterations=0)
