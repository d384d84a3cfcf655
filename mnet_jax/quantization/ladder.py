"""The ladder of post-training quantization: one network, rounded after each method in turn.

    steps = quantization.measure_ladder(model, variables, [images], LadderConfig(bits=(8, 4)))
    for rung in steps.rungs:
        print(rung.bits, rung.name, rung.agreement, rung.sqnr)

With one step for a kernel, each rung adds a method to those before it: ReLU for ReLU6,
equalization, absorption of high biases (arXiv 1906.04721), correction of biases, learned rounding
(arXiv 2004.10568). Because ReLU can cost a network more than rounding does, one more rung corrects
the biases of the network as it is. With one step for each channel, only the last two methods are
applied: equalization makes channels alike that then need not be alike.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mnet_jax import ops
from mnet_jax.architectures import NetworkSpec, walk
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, require_quantizable
from mnet_jax.models.network import MobileNet
from mnet_jax.models.types import Granularity, Quantization
from mnet_jax.quantization.calibration import Observation, observe, quantized
from mnet_jax.quantization.correction import correct_biases
from mnet_jax.quantization.equalization import absorb_high_biases, equalize
from mnet_jax.quantization.folding import fold, without_relu6
from mnet_jax.quantization.rounding import adaround
from mnet_jax.quantization.types import CORRECTED_ALONE, LadderConfig
from mnet_jax.validation import require

Array = jax.Array
Variables = Mapping[str, Any]
Images = Sequence[np.ndarray]

FLOAT = "float"
ROUNDED: dict[Granularity, str] = {"tensor": "per tensor", "channel": "per channel"}
RELU = "ReLU for ReLU6"  # the only method that changes the network's function in float
EQUALIZED, ABSORBED = "+ equalization", "+ absorption"
CORRECTED, LEARNED = "+ bias correction", "+ AdaRound"
FLOAT_BITS = 32
_WORD = 4  # bytes of a bias, a step and a zero


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A network after some methods.

    Attributes:
      name: the last method.
      granularity: of the kernels' steps; None if nothing is rounded.
      bits: of kernels and activations; `FLOAT_BITS` if nothing is rounded.
      agreement: share of the images that get the class of the network in float, 0 to 1.
      sqnr: signal-to-quantization-noise ratio of the logits in dB; None if there is no noise.
      accuracy: share of the images that get their label; None without labels.
      size: bytes of the network; see `size_in_bytes`.
    """

    name: str
    granularity: Granularity | None
    bits: int
    agreement: float
    sqnr: float | None
    accuracy: float | None
    size: int


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The rungs of one network.

    Attributes:
      images: number of images on which the rungs are measured.
      rungs: the network in float, then the rungs for each number of bits, in order.
      left_out: why a method is not among the rungs, by the method's name.
    """

    images: int
    rungs: tuple[Rung, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A folded network in float, the last method applied to it, and the values in it."""

    name: str
    model: MobileNet
    variables: Variables
    seen: Mapping[str, Observation]


def measure_ladder(
    model: MobileNet,
    variables: Variables,
    images: Images,
    config: LadderConfig | None = None,
    *,
    calibration: Images = (),
    labels: np.ndarray | None = None,
) -> Ladder:
    """Quantizes a network after training by one method after the other, and measures each.

    The network in float is the given one: also where ReLU has replaced its ReLU6. A program is
    compiled for each activation function and number of bits, and serves all methods.

    Args:
      model: the network in float, folded or not. The lowering `auto` becomes the best one.
      variables: its `params` and `batch_stats`.
      images: the images that are compared: batches [b, h, w, 3], none larger than the first.
      config: which rungs; by default 8, 6 and 4 bits without AdaRound.
      calibration: batches from which ranges, biases and rounding are chosen; by default `images`.
        Each size of batches is compiled.
      labels: the images' classes [n], if they are classes of the network.

    Raises:
      ValueError: the model is quantized or packed, or there are no images.
    """
    config = config or LadderConfig()
    plain, variables = folded(model, variables)
    count = sum(map(len, images))
    require_quantizable(model.spec)
    require(count > 0, "images", "none", "one batch or more")
    batches = [jnp.asarray(batch) for batch in calibration or images]
    chain, left_out = _networks(plain, variables, batches, config)
    seen, reference = chain[0].seen, logits(plain, variables, images)
    require_logits(reference)

    def measured(name: str, granularity: Granularity | None, bits: int, found: np.ndarray) -> Rung:
        setting = config.quantization(bits, granularity) if granularity else None
        hits = None if labels is None else float(np.mean(found.argmax(-1) == labels))
        return Rung(
            name=name,
            granularity=granularity,
            bits=bits,
            agreement=float(np.mean(found.argmax(-1) == reference.argmax(-1))),
            sqnr=signal_to_noise(reference, found),
            accuracy=hits,
            size=size_in_bytes(plain.spec, setting, activations=len(seen)),
        )

    rungs = [measured(FLOAT, None, FLOAT_BITS, reference)]
    rungs += [
        measured(each.name, None, FLOAT_BITS, logits(each.model, each.variables, images))
        for each in chain
        if each.name == RELU
    ]
    for bits in config.bits:
        for granularity in config.granularity:
            for name, rounding, values in _rounded(chain, batches, config, bits, granularity):
                rungs.append(measured(name, granularity, bits, logits(rounding, values, images)))
    return Ladder(images=count, rungs=tuple(rungs), left_out=left_out)


def folded(model: MobileNet, variables: Variables) -> tuple[MobileNet, dict[str, Any]]:
    """Returns a network in float with its batch normalization folded, and its variables.

    Args:
      model: the network, folded or not. The lowering `auto` becomes the best one.
      variables: its variables.

    Raises:
      ValueError: the model is quantized or packed.
    """
    require(model.quantization is None, "model", "a quantized network", "a network in float")
    require(not model.packed, "model", "packed kernels", "kernels that are not packed")
    if model.lowering == "auto":
        model = model.clone(lowering=ops.best_lowering())
    if model.folded:
        return model, {**variables}
    return model.clone(folded=True), fold(model.spec, variables)


def logits(model: MobileNet, variables: Variables, images: Images) -> np.ndarray:
    """Returns the logits [n, classes] of all images.

    Args:
      model: the network.
      variables: its variables.
      images: batches [b, h, w, 3], of which none is larger than the first.
    """
    variables, size = jax.device_put(variables), len(images[0])
    found = []
    for batch in images:
        missing = [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)]  # of a last batch, if shorter
        found.append(_logits(model, variables, np.pad(batch, missing))[: len(batch)])
    return np.concatenate(found)


@partial(jax.jit, static_argnames="model")
def _logits(model: MobileNet, variables: Variables, images: Array) -> Array:
    return jnp.asarray(model.apply(variables, images, train=False))


def require_logits(found: np.ndarray) -> None:
    """Raises ValueError unless logits are finite and not all 0, so that noise has a meaning."""
    legal = "a network whose logits are finite and not all 0"
    require(bool(np.isfinite(found).all() and found.any()), "model", "other logits", legal)


def signal_to_noise(reference: np.ndarray, found: np.ndarray) -> float | None:
    """Returns 10 log10 of the sum of squares of the reference over that of the difference, in dB.

    None if there is no difference.
    """
    signal, noise = (np.sum(np.square(x, dtype=float)) for x in (reference, found - reference))
    return 10 * math.log10(signal / noise) if noise else None


def size_in_bytes(
    spec: NetworkSpec, quantization: Quantization | None, *, activations: int = 0
) -> int:
    """Returns the bytes of a folded network's weights.

    Each weight of a kernel takes its bits (a kernel is padded to whole bytes), each bias, step and
    zero four bytes.

    Args:
      spec: the network.
      quantization: its bits; None for float32.
      activations: number of quantizers of activations.
    """
    size = 0
    require_quantizable(spec)
    for layer in walk(spec, REFERENCE_RESOLUTION):
        setting = quantization.at(layer.name) if quantization else None
        bits = (setting.weight_bits if setting else 0) or FLOAT_BITS
        size += math.ceil(math.prod(layer.kernel_shape) * bits / 8) + _WORD * layer.outputs
        if setting and setting.weight_bits:
            steps = layer.outputs if setting.granularity == "channel" else 1
            size += _WORD * steps * (1 + (setting.weight_symmetry == "asymmetric"))
    if quantization and quantization.activation_bits:
        size += _WORD * activations * (1 + (quantization.activation_symmetry == "asymmetric"))
    return size


def _networks(
    model: MobileNet, variables: Variables, calibration: Sequence[Array], config: LadderConfig
) -> tuple[list[_Network], dict[str, str]]:
    """Returns the network in float after each method that changes it before it is rounded.

    Also returns why a method is left out, by the method's name.
    """

    def after(name: str, model: MobileNet, variables: Variables) -> _Network:
        seen = observe(model, variables, calibration)
        return _Network(name=name, model=model, variables=variables, seen=seen)

    chain = [after(FLOAT, model, variables)]
    if "tensor" not in config.granularity:
        return chain, {}
    spec = without_relu6(model.spec)
    if spec != model.spec:
        model = model.clone(spec=spec)
        chain.append(after(RELU, model, variables))
    try:
        variables = equalize(spec, variables)
    except ValueError as error:
        return chain, {EQUALIZED: str(error)}
    chain.append(after(EQUALIZED, model, variables))
    try:
        absorbed = absorb_high_biases(spec, variables)
    except ValueError as error:
        return chain, {ABSORBED: str(error)}
    chain.append(after(ABSORBED, model, absorbed))
    return chain, {}


def _rounded(
    chain: Sequence[_Network],
    calibration: Sequence[Array],
    config: LadderConfig,
    bits: int,
    granularity: Granularity,
) -> Iterator[tuple[str, MobileNet, Variables]]:
    """Yields the name, the model and the variables of each rounded network."""
    for each in chain if granularity == "tensor" else chain[:1]:
        rounding, values = quantized(
            each.model,
            each.variables,
            config.quantization(bits, granularity),
            each.seen,
            kernels=config.ranges,
            activations=config.ranges,
        )
        rounding, values = _with_a_step_for_each_channel(rounding, values)
        yield ROUNDED[granularity] if each.name == FLOAT else each.name, rounding, values
        if each.name == FLOAT and granularity == "tensor" and len(chain) > 1:
            yield CORRECTED_ALONE, rounding, correct_biases(rounding, values, calibration)
    yield CORRECTED, rounding, correct_biases(rounding, values, calibration)
    if config.adaround:
        images = np.concatenate(calibration)
        learned = adaround(rounding, values, images, iterations=config.adaround)
        corrected = correct_biases(rounding, learned, calibration, exact=each.variables)
        yield LEARNED, rounding, corrected


def _with_a_step_for_each_channel(
    model: MobileNet, variables: Variables
) -> tuple[MobileNet, dict[str, Any]]:
    """Repeats the steps of kernels for each channel, so that both granularities share a program."""
    setting = model.quantization
    assert setting is not None
    if setting.granularity == "channel":
        return model, {**variables}
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    for layer in walk(model.spec, REFERENCE_RESOLUTION):
        for name in ("step", "zero"):
            path = f"{layer.name}/kernel_quantizer/{name}"
            if path in params:
                params[path] = jnp.broadcast_to(params[path], (layer.outputs,))
    model = model.clone(quantization=replace(setting, granularity="channel"))
    return model, {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}
