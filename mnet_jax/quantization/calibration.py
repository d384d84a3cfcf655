"""The steps of a network's quantizers, chosen from its kernels and from the activations of images.

A quantized network is a `MobileNet` with a `quantization`. The parameters of a quantizer are its
`step` and its `zero`, the integer that stands for 0. Quantizers of symmetric kernels have no
`zero`. `L/kernel_quantizer` rounds the kernel of layer L, `L/output_quantizer` the layer's output,
and so on. A step of 0 switches a quantizer off.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import ArrayLike

from mnet_jax.architectures import Layer, walk
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, require_quantizable
from mnet_jax.models.fusing import normalization_rate
from mnet_jax.models.network import MobileNet
from mnet_jax.models.quantizers import OBSERVED, activation_range, kernel_range
from mnet_jax.models.types import Quantization
from mnet_jax.quantization.ranges import choose
from mnet_jax.quantization.types import RangeMethod
from mnet_jax.validation import require

Array = jax.Array
Variables = Mapping[str, Any]

# An image's activation of more than 2 * `SAMPLES` values is sampled: at least `SAMPLES` are kept.
SAMPLES = 2048


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The values that one quantizer received.

    Attributes:
      least: the smallest value.
      most: the largest value.
      sample: fewer than 2 * `SAMPLES` values of each image, float32 [n].
    """

    least: float
    most: float
    sample: np.ndarray


def quantized(
    model: MobileNet,
    variables: Variables,
    quantization: Quantization,
    seen: Mapping[str, Observation] = MappingProxyType({}),
    *,
    kernels: RangeMethod = "min-max",
    activations: RangeMethod = "min-max",
) -> tuple[MobileNet, dict[str, Any]]:
    """Returns the quantized form of a network, and the variables of the quantized network.

        seen = quantization.observe(model, variables, [images])
        rounding, values = quantization.quantized(model, variables, Quantization(), seen)
        logits = rounding.apply(values, images, train=False)

    Args:
      model: the network; its batch normalization may be folded.
      variables: its `params` and `batch_stats`. Existing quantizers are replaced.
      quantization: bits, granularity and symmetry.
      seen: the values of the activations, from `observe`; needed if activations are quantized.
      kernels: how the ranges of kernels are chosen.
      activations: how the ranges of activations are chosen.

    Raises:
      ValueError: the model's kernels are packed, or activations are to be quantized and were not
        observed.
    """
    require_quantizable(model.spec)
    require(not model.packed, "model", "packed kernels", "kernels that are not packed")
    observed = bool(seen) or not quantization.activation_bits
    require(observed, "seen", "no activations", "what `observe` returns, or 0 activation bits")
    model = model.clone(quantization=quantization)
    params = kernel_steps(model, variables, kernels)
    if quantization.activation_bits:
        params |= activation_steps(quantization, seen, activations)
    params |= traverse_util.flatten_dict(without_quantizers(variables)["params"], sep="/")
    return model, {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}


def kernel_steps(
    model: MobileNet, variables: Variables, method: RangeMethod = "min-max"
) -> dict[str, Array]:
    """Returns the steps (and zeros) of all kernels, by path.

    The kernels are those of inference, with batch normalization folded in.

    Args:
      model: a quantized network.
      variables: its `params` and `batch_stats`.
      method: how the ranges are chosen.
    """
    assert model.quantization is not None
    found: dict[str, Array] = {}
    if not model.quantization.weight_bits:
        return found
    for layer in walk(model.spec, REFERENCE_RESOLUTION):
        setting = model.quantization.at(layer.name)
        step, zero = choose(
            folded_kernel(model, variables, layer),
            kernel_range(setting),
            symmetric=setting.weight_symmetry == "symmetric",
            method=method,
            per_channel=setting.granularity == "channel",
        )
        found[f"{layer.name}/kernel_quantizer/step"] = jnp.asarray(step)
        if setting.weight_symmetry == "asymmetric":
            found[f"{layer.name}/kernel_quantizer/zero"] = jnp.asarray(zero)
    return found


def activation_steps(
    quantization: Quantization,
    seen: Mapping[str, Observation],
    method: RangeMethod = "min-max",
) -> dict[str, Array]:
    """Returns the steps and zeros of the quantizers of activations, by path.

    Args:
      quantization: bits and symmetry.
      seen: the values of the activations, from `observe`.
      method: how the ranges are chosen.
    """
    found: dict[str, Array] = {}
    for name, values in seen.items():
        setting = quantization.at(name)
        ends = np.array([values.least, values.most])
        step, zero = choose(
            ends if method == "min-max" else values.sample,
            activation_range(setting),
            symmetric=setting.activation_symmetry == "symmetric",
            method=method,
        )
        found |= {f"{name}/step": jnp.asarray(step), f"{name}/zero": jnp.asarray(zero)}
    return found


def folded_kernel(model: MobileNet, variables: Variables, layer: Layer) -> np.ndarray:
    """Returns the kernel that a layer has in inference, with any normalization folded in."""
    params, statistics = (
        traverse_util.flatten_dict(variables.get(name, {}), sep="/")
        for name in ("params", "batch_stats")
    )
    kernel = np.asarray(params[layer.kernel_path])
    if model.folded or not layer.normalized:
        return kernel
    rate = normalization_rate(params, statistics, layer, model.spec.dialect.norm_epsilon)
    return kernel * np.asarray(rate)  # the last axis is that of the outputs


def observe(
    model: MobileNet, variables: Variables, batches: Iterable[ArrayLike]
) -> dict[str, Observation]:
    """Returns the `Observation` of each quantizer of activations, by the quantizer's path.

    The network runs in floating point; the observed values are those that a quantizer would round.

    Args:
      model: the network, quantized or not.
      variables: its `params` and `batch_stats`.
      batches: images [b, h, w, 3].
    """
    found: dict[str, list[tuple[Array, Array, Array]]] = {}

    for images in batches:
        for name, summary in jax.device_get(_summaries(model, variables, images)).items():
            found.setdefault(name, []).append(summary)
    return {
        name: Observation(
            least=float(min(least for least, _, _ in parts)),
            most=float(max(most for _, most, _ in parts)),
            sample=np.concatenate([sample.ravel() for _, _, sample in parts]),
        )
        for name, parts in found.items()
    }


def observed_values(model: MobileNet, variables: Variables, images: Array) -> dict[str, Array]:
    """Returns the values [b, ...] that each quantizer of activations would round, by its path.

    The network runs in floating point, without quantizers. For the arguments see `observe`.
    """
    model = model.clone(quantization=Quantization(weight_bits=0))
    variables = without_quantizers(variables)
    # The quantizers are parameters that `variables` lack: they are initialized, switched off.
    mutable, rngs = [OBSERVED, "params"], {"params": jax.random.key(0)}
    _, state = model.apply(variables, images, train=False, mutable=mutable, rngs=rngs)
    values = traverse_util.flatten_dict(state[OBSERVED], sep="/")
    return {name.removesuffix("/value"): x for name, (x,) in values.items()}


@partial(jax.jit, static_argnames="model")
def _summaries(
    model: MobileNet, variables: Variables, images: Array
) -> dict[str, tuple[Array, Array, Array]]:
    """Returns the least, the largest and some of the values of each quantizer, by its path."""
    values = observed_values(model, variables, images)
    return {name: (jnp.min(x), jnp.max(x), _sample(x)) for name, x in values.items()}


def without_quantizers(variables: Variables) -> dict[str, Any]:
    """Returns the variables without the parameters of quantizers."""
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    kept = {name: value for name, value in params.items() if "_quantizer/" not in name}
    return {**variables, "params": traverse_util.unflatten_dict(kept, sep="/")}


def switched_off(variables: Variables) -> dict[str, Any]:
    """Returns the variables with every quantizer switched off: all steps 0."""
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    off = {
        name: jnp.zeros_like(value) if name.endswith("_quantizer/step") else value
        for name, value in params.items()
    }
    return {**variables, "params": traverse_util.unflatten_dict(off, sep="/")}


def _sample(x: Array) -> Array:
    """Returns evenly spaced values of each image, [b, n] with n < 2 * `SAMPLES`."""
    flat = x.reshape(x.shape[0], -1)
    distance = max(flat.shape[1] // SAMPLES, 1)
    while math.gcd(distance, x.shape[-1]) > 1:  # else some channels would never be sampled
        distance += 1
    return flat[:, ::distance]
