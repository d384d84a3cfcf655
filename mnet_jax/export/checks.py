"""Compares a file, run in its own runtime, with the network from which it was written."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from flax import traverse_util

from mnet_jax.architectures import Layer, walk
from mnet_jax.export.forward import Marks, forward
from mnet_jax.export.network import Network
from mnet_jax.export.runtimes import Rounded, Runtime, load
from mnet_jax.export.types import FORMATS, ExportError, Format
from mnet_jax.quantization import integer, signal_to_noise
from mnet_jax.quantization.dataflow import layer_inputs, quantizers

Array = np.ndarray

# Least signal-to-noise ratio of a file's logits in dB. In floating point only the order of sums
# differs: random networks of all kinds have 91 dB or more. In integers, runtimes round values
# halfway between two levels differently, by one level, and later layers amplify this: random
# networks of all kinds have 8 to 47 dB. So a file in integers is compared operation by operation,
# and its logits only show whether the runtime computes the operations as it does one by one.
LEAST_SQNR, LEAST_INTEGER_SQNR = 60.0, 5.0
LEAST_LAYER_SQNR = 50.0  # of a layer's output in floating point, in dB
MOST_STEPS = 1  # by which runtimes round the output of an operation in integers differently
IMAGES_BY_OPERATION = 4  # images on which operations are compared


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The logits of a file beside those of its network.

    Attributes:
      difference: the largest absolute difference of logits.
      agreement: share of the images that get the same class, 0 to 1.
      sqnr: signal-to-noise ratio of the file's logits in dB; None if there is no difference.
      least_sqnr: the ratio with which the file counts as right.
    """

    difference: float
    agreement: float
    sqnr: float | None
    least_sqnr: float

    @property
    def passes(self) -> bool:
        """Whether the file computes what the network computes."""
        return self.sqnr is None or self.sqnr >= self.least_sqnr


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A file that was run and computes what its network computes.

    Attributes:
      comparison: its logits beside the network's.
      logits: its logits of all images [n, classes].
      runtime: the loaded file.
    """

    comparison: Comparison
    logits: Array
    runtime: Runtime


def check(
    name: Format,
    file: bytes,
    network: Network,
    batches: Sequence[Array],
) -> Checked:
    """Runs a file in its own runtime, and compares it with its network.

    Args:
      name: the file's format.
      file: the file.
      network: what it was written from.
      batches: images [b, h, w, 3], as the file takes them; at least one batch.

    Returns:
      What was found of a file that passes.

    Raises:
      ExportError: the logits differ by more than rounding explains, or in 8 bits an operation does.
        The message names the operation or, in floating point, the first layer whose output differs
        if the runtime tells the outputs of layers.
    """
    runtime = load(name, file)
    by_operation = network.integers is not None and FORMATS[name].integers
    if by_operation:
        wrong = wrong_operation(network, runtime, batches[0][:IMAGES_BY_OPERATION])
        if wrong:
            raise ExportError(f"{name}: the file does not compute the network: {wrong}")
    logits = np.concatenate([runtime.run(batch) for batch in batches])
    least = LEAST_INTEGER_SQNR if network.integers else LEAST_SQNR
    comparison = compare(logits, network.logits_of(batches), least)
    if comparison.passes:
        return Checked(comparison=comparison, logits=logits, runtime=runtime)
    layer = None if by_operation else first_wrong_layer(network, runtime, batches[0][:1])
    where = f"; the first layer that differs is {layer}" if layer else ""
    raise ExportError(
        f"{name}: the file's logits have an SQNR of {comparison.sqnr:.1f} dB to the network's, "
        f"legal: {comparison.least_sqnr:.1f} dB or more{where}"
    )


def compare(found: Array, wanted: Array, least_sqnr: float) -> Comparison:
    """Compares the logits of a file with those of its network.

    Args:
      found: the file's logits [n, classes].
      wanted: the network's logits [n, classes].
      least_sqnr: ratio in dB with which the file counts as right.
    """
    return Comparison(
        difference=float(np.abs(found - wanted).max()),
        agreement=float(np.mean(found.argmax(-1) == wanted.argmax(-1))),
        sqnr=signal_to_noise(wanted, found) if np.isfinite(found).all() else -math.inf,
        least_sqnr=least_sqnr,
    )


def first_wrong_layer(network: Network, runtime: Runtime, image: Array) -> str | None:
    """Returns the first layer whose output in a runtime differs from the network's.

    Args:
      network: the network in floating point from which the file was written.
      runtime: the loaded file.
      image: [1, h, w, 3], as the file takes it.

    Returns:
      The layer's name; None if no output before the first attention differs, or the file does not
      tell its layers' outputs.
    """
    recorder = _Recorder()
    forward(network.spec, network.params, network.scaled(jax.numpy.asarray(image)), recorder)
    # In an attention block the runtimes order layers differently.
    layers = itertools.takewhile(
        lambda layer: layer.has_kernel, walk(network.spec, network.resolution)
    )
    for layer, found in zip(layers, runtime.outputs_of_layers(image), strict=False):
        possible = _fused(recorder.outputs[layer.name])
        if not any(_is_close(found, each) for each in possible):
            return layer.name
    return None


class _Recorder(Marks):
    """Records each layer's output before its activation."""

    def __init__(self) -> None:
        self.outputs: dict[str, Array] = {}

    def linear(self, layer: Layer, y: jax.Array) -> jax.Array:
        self.outputs[layer.name] = np.asarray(y)
        return y


def wrong_operation(network: Network, runtime: Runtime, images: Array) -> str | None:
    """Returns what is wrong with an operation of a file in 8 bits.

    Each operation is compared on the inputs that it has in the file with the arithmetic of
    `quantization.integer`, so differences of earlier operations do not matter.

    Args:
      network: the network in 8 bits from which the file was written.
      runtime: the loaded file.
      images: [b, h, w, 3], as the file takes them.

    Returns:
      The first operation that is missing, or whose output differs by more than `MOST_STEPS`, and by
      how much; None if there is none. Gates of squeeze-and-excitation may differ by more.
    """
    assert network.integers is not None
    params = traverse_util.unflatten_dict(dict(network.params), sep="/")
    kernel_steps = network.integers.kernel_steps
    exact = integer.convert(network.spec, params, network.integers.affines, kernel_steps)
    scaled = network.scaled(jax.numpy.asarray(images))
    shapes = jax.eval_shape(integer.tensors, exact, scaled[:1])
    tensors = {
        path: Rounded(shapes[path].shape, network.integers.affines[path])
        for path in quantizers(network.spec)
    }
    found = [runtime.integers(image[None], tensors) for image in images]
    if missing := [path for path in tensors if path not in found[0]]:
        return f"{_operation(missing[0])} has no int8 output of the right shape and step"
    given = {path: np.concatenate([each[path] for each in found]) for path in tensors}
    wanted = integer.tensors(exact, scaled, given)
    gates = _steps_of_gates(network)
    for path in tensors:
        steps = np.abs(np.asarray(wanted[path], np.int32) - given[path]).max()
        legal = MOST_STEPS + gates.get(path, 0)
        if steps > legal:
            return f"{_operation(path)} differs by {steps} steps, legal: at most {legal}"
    return None


def _steps_of_gates(network: Network) -> dict[str, int]:
    """Returns the steps by which the outputs of hard sigmoids may differ in addition.

    A hard sigmoid adds 3 to its input. `quantization.integer` adds it to the bias before the bias
    is rounded, ONNX's operation after that, so they differ by up to one unit of the accumulator.
    """
    integers, inputs = network.integers, layer_inputs(network.spec)
    assert integers is not None
    found = {}
    for layer in walk(network.spec, network.resolution):
        if layer.activation == "hard_sigmoid":
            path = f"{layer.name}/output_quantizer"
            input_step, _ = integers.affines[inputs[layer.name].quantizer]
            unit = input_step * np.max(integers.kernel_steps[layer.name])
            found[path] = math.ceil(unit / (6 * integers.affines[path][0]))
    return found


def _operation(path: str) -> str:
    """Returns the name of an operation from the path of the quantizer of its output."""
    return path.removesuffix("_quantizer").removesuffix("/output")


def _fused(linear: Array) -> tuple[Array, ...]:
    """Returns the possible outputs of an operation that computes `linear`.

    It may compute all or a part of the activation too.
    """
    shifted = linear + 3  # of the hard sigmoid and the hard swish
    clipped = np.clip(shifted, 0, 6)
    relu = np.maximum(linear, 0)
    return linear, relu, np.minimum(relu, 6), shifted, clipped, clipped / 6, linear * clipped / 6


def _is_close(found: Array, wanted: Array) -> bool:
    """Returns whether an array has the shape of another, and an SQNR of `LEAST_LAYER_SQNR`."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return False
    sqnr = signal_to_noise(wanted, found)
    return sqnr is None or sqnr >= LEAST_LAYER_SQNR
