"""Correction of the shift that rounded kernels cause in a layer's mean output.

If a kernel W is rounded to W + e, a layer's outputs change by e x. The mean of this error over
images, e E[x], is a constant for each channel, which the bias can compensate (arXiv 1906.04721,
section 4.2). E[x] is either derived from batch normalization or measured with images.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from scipy.stats import norm

from mnet_jax.architectures import Layer, NetworkSpec, walk
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION
from mnet_jax.architectures.spec import Activation
from mnet_jax.models.network import MobileNet
from mnet_jax.models.quantizers import MOMENTS, WANTED, kernel_range
from mnet_jax.models.types import Quantization
from mnet_jax.quantization import ranges
from mnet_jax.quantization.calibration import switched_off, without_quantizers
from mnet_jax.quantization.dataflow import layer_inputs
from mnet_jax.quantization.equalization import bias_path, constant_output
from mnet_jax.quantization.folding import STATISTICS, flat, with_flat
from mnet_jax.validation import require

Array = jax.Array
Variables = Mapping[str, Any]


def correct_biases_analytic(
    model: MobileNet, variables: Variables, *, exact: Variables | None = None
) -> dict[str, Any]:
    """Corrects biases without images, from the statistics of batch normalization.

    Layers whose expected input is unknown (see `expected_inputs`) keep their bias.

    Args:
      model: a folded quantized network.
      variables: its variables, with `statistics`.
      exact: variables with the kernels in float; needed if those of `variables` have been replaced
        by rounded ones, as `adaround` does.

    Raises:
      ValueError: the model is not folded or has no rounded kernels, or no layer has an expected
        input.
    """
    require_rounded_kernels(model)
    expected = expected_inputs(model.spec, variables)
    legal = "layers after a normalized layer, and the statistics of `fold`"
    require(bool(expected), "variables", "no layer with an expected input", legal)
    params, wanted = flat(variables, "params"), flat(exact or variables, "params")
    for layer in walk(model.spec, REFERENCE_RESOLUTION):
        if layer.name in expected:
            rounded = rounded_kernel(model, params, layer)
            error = rounded - wanted[layer.kernel_path]
            shift = constant_output(layer, error, expected[layer.name])
            params[bias_path(layer)] = (params[bias_path(layer)] - shift).astype(np.float32)
    return with_flat(variables, params=params)


def expected_inputs(spec: NetworkSpec, variables: Variables) -> dict[str, np.ndarray]:
    """Returns the expected input [c] of each layer whose expected input is known, by layer name.

    The values of a normalized layer before the activation are assumed to be normally distributed,
    with the mean and standard deviation that batch normalization gives them (section 4.2.1). The
    expected value is not known for the image, for products of squeeze-and-excitation, and for
    outputs of layers without normalization.

    Args:
      spec: the network.
      variables: the variables of the folded network, with `statistics`.
    """
    statistics = flat(variables, STATISTICS)

    found = {}
    for name, x in layer_inputs(spec).items():
        known = all(f"{term.name}/mean" in statistics for term in x.terms)
        if x.terms and known and not x.gated:
            found[name] = np.sum([_mean_output(term, statistics) for term in x.terms], axis=0)
    return found


def _mean_output(layer: Layer, statistics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the expected output [c] of a layer with statistics, after its activation."""
    activation = layer.activation
    assert activation != "hard_sigmoid" and activation != "sigmoid"  # the gated has no known mean
    mean, deviation = (statistics[f"{layer.name}/{part}"] for part in ("mean", "deviation"))
    return mean_after_activation(mean, deviation, activation)


def mean_after_activation(
    mean: np.ndarray, deviation: np.ndarray, activation: Activation
) -> np.ndarray:
    """Returns the mean of f(x) for a normally distributed x.

    For ReLU and ReLU6 this is equation 19 of arXiv 1906.04721.

    Args:
      mean: mean of x, [c].
      deviation: standard deviation of x, [c]; 0 is allowed.
      activation: the function f.
    """
    mean = np.asarray(mean, np.float64)
    deviation = np.maximum(np.asarray(deviation, np.float64), 1e-12)

    def moments(low: float, high: float) -> tuple[np.ndarray, ...]:
        """The integrals of 1, x and x^2 times the density, from `low` to `high`."""
        ends = [(end - mean) / deviation for end in (low, high)]
        area = norm.cdf(ends[1]) - norm.cdf(ends[0])
        first = mean * area + deviation * (norm.pdf(ends[0]) - norm.pdf(ends[1]))
        edges = [
            end * norm.pdf(at) if np.isfinite(end) else 0.0
            for end, at in zip((low, high), ends, strict=True)
        ]
        second = mean * first + deviation**2 * area + deviation * (edges[0] - edges[1])
        return area, first, second

    if activation == "linear":
        return mean
    if activation == "relu":
        return moments(0, np.inf)[1]
    if activation == "relu6":
        return moments(0, 6)[1] + 6 * moments(6, np.inf)[0]
    assert activation == "hard_swish", activation
    _, first, second = moments(-3, 3)  # h-swish: x (x + 3) / 6 from -3 to 3, then x
    return (second + 3 * first) / 6 + moments(3, np.inf)[1]


def correct_biases(
    model: MobileNet,
    variables: Variables,
    batches: Iterable[Array | np.ndarray],
    *,
    exact: Variables | None = None,
) -> dict[str, Any]:
    """Corrects each layer's bias so that the layer's mean output is that in the float network.

    The outputs are those before activations, and the means are over images and positions (arXiv
    1906.04721, appendix D). Layers are corrected in network order: each receives the outputs of
    corrected layers. With one batch, the means become those of the float network. With several
    batches, each bias gets the average of the batches' corrections.

    Args:
      model: a quantized network, folded or not.
      variables: its variables.
      batches: images [b, h, w, 3].
      exact: variables of the network in float; needed if kernels of `variables` have been replaced
        by rounded ones, as `adaround` does.

    Raises:
      ValueError: the model is not quantized, or there are no images.
    """
    require(model.quantization is not None, "model", "no quantization", "a quantized network")
    off = switched_off(variables)
    if exact is not None:
        kept = flat(without_quantizers(exact), "params")
        off = {**exact, "params": with_flat(off, params=flat(off, "params") | kept)["params"]}
    total = _mean_over_batches(_corrections, model, (variables, off), batches)
    params = flat(variables, "params")
    for layer in walk(model.spec, REFERENCE_RESOLUTION):
        shift = total[f"{layer.name}/preactivation"]
        params[bias_path(layer)] = (params[bias_path(layer)] + shift).astype(np.float32)
    return with_flat(variables, params=params)


def observe_statistics(
    model: MobileNet, variables: Variables, batches: Iterable[Array | np.ndarray]
) -> dict[str, Any]:
    """Returns the variables with `statistics` that are measured with images, for all layers.

    The measured statistics replace those of batch normalization, which describe the training
    images.

    Args:
      model: a folded network, in float.
      variables: its variables.
      batches: images [b, h, w, 3].

    Raises:
      ValueError: there are no images.
    """
    model = model.clone(quantization=Quantization(weight_bits=0, activation_bits=0))
    total = _mean_over_batches(_moments, model, without_quantizers(variables), batches)
    found = {}
    for layer in walk(model.spec, REFERENCE_RESOLUTION):
        mean, square = (total[f"{layer.name}/preactivation/{part}"] for part in ("mean", "square"))
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        found[f"{layer.name}/mean"] = mean.astype(np.float32)
        found[f"{layer.name}/deviation"] = deviation.astype(np.float32)
    return with_flat(variables, **{STATISTICS: found})


def rounded_kernel(model: MobileNet, params: Mapping[str, np.ndarray], layer: Layer) -> np.ndarray:
    """Returns the rounded kernel of a layer in a folded network.

    Args:
      model: the quantized network.
      params: the network's parameters, by path.
      layer: the layer.
    """
    step, zero = kernel_quantizer(params, layer.name)
    assert model.quantization is not None
    bounds = kernel_range(model.quantization.at(layer.name))
    return ranges.rounded(params[layer.kernel_path], step, zero, bounds)


def kernel_quantizer(params: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the step and zero of the quantizer of a layer's kernel."""
    step = np.abs(params[f"{name}/kernel_quantizer/step"])
    return step, params.get(f"{name}/kernel_quantizer/zero", np.zeros_like(step))


def require_rounded_kernels(model: MobileNet) -> None:
    """Raises ValueError unless a network is folded and has quantizers of kernels."""
    require(model.folded, "model", "batch normalization", "a folded network")
    bits = model.quantization.weight_bits if model.quantization else 0
    require(bits > 0, "model", "kernels without quantizers", "a quantized network")


@partial(jax.jit, static_argnames="model")
def _corrections(
    model: MobileNet, both: tuple[Variables, Variables], images: Array
) -> dict[str, Array]:
    """Returns the change that each layer's bias needs, keyed by `L/preactivation`.

    Args:
      model: the quantized network.
      both: the variables of the quantized network, and those of the network in float, in which all
        quantizers are off.
      images: [b, h, w, 3].
    """
    variables, exact = both
    _, state = model.apply(exact, images, train=False, mutable=[MOMENTS])
    wanted = _moment(state, "mean")
    tree = traverse_util.unflatten_dict({f"{n}/mean": m for n, m in wanted.items()}, sep="/")
    shifted = {**variables, WANTED: tree}
    _, state = model.apply(shifted, images, train=False, mutable=[MOMENTS])
    return {name: wanted[name] - mean for name, mean in _moment(state, "mean").items()}


@partial(jax.jit, static_argnames="model")
def _moments(model: MobileNet, variables: Variables, images: Array) -> dict[str, Array]:
    """Returns the means of each layer's values before the activation, and of their squares."""
    _, state = model.apply(variables, images, train=False, mutable=[MOMENTS])
    means, variances = _moment(state, "mean"), _moment(state, "variance")
    squares = {f"{name}/square": variances[name] + means[name] ** 2 for name in means}
    return {f"{name}/mean": mean for name, mean in means.items()} | squares


def _moment(state: Mapping[str, Any], name: str) -> dict[str, Array]:
    """Returns a moment of each layer's values before the activation, by `L/preactivation`."""
    values = traverse_util.flatten_dict(state[MOMENTS], sep="/")
    return {
        path.removesuffix(f"/{name}"): found[0]
        for path, found in values.items()
        if path.endswith(f"/{name}")
    }


def _mean_over_batches(
    function: Any, model: MobileNet, variables: Any, batches: Iterable[Array | np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the mean of a function's results over batches, weighted by the batches' sizes."""
    total: dict[str, np.ndarray] = {}
    count = 0
    for images in batches:
        count += len(images)
        for name, value in jax.device_get(function(model, variables, images)).items():
            total[name] = total.get(name, 0) + len(images) * value.astype(np.float64)
    require(count > 0, "batches", "no images", "one batch or more")
    return {name: value / count for name, value in total.items()}
