"""Compares a file, run in its own runtime, with the network from which it was written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np

from mnet_jax.architectures import Layer, walk
from mnet_jax.export.forward import Marks, forward
from mnet_jax.export.network import Network
from mnet_jax.export.runtimes import Runtime, load
from mnet_jax.export.types import ExportError, Format
from mnet_jax.quantization import signal_to_noise

Array = np.ndarray

# Least signal-to-noise ratio of a file's logits in dB. In floating point only the order of sums
# differs: random networks of all kinds have 91 dB or more. In integers, runtimes round values
# halfway between two levels differently, by one level, and later layers amplify this: random
# networks of all kinds have 11 to 47 dB, and those at the low end lose as much by rounding itself.
LEAST_SQNR = {"float": 60.0, "integers": 15.0}
MORE_THAN_ROUNDING = 3.0  # dB: twice the noise
LEAST_LAYER_SQNR = {"float": 50.0, "integers": 10.0}  # of a layer's output, in dB


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
    exact: Array | None = None,
) -> Checked:
    """Runs a file in its own runtime, and compares it with its network.

    Args:
      name: the file's format.
      file: the file.
      network: what it was written from.
      batches: images [b, h, w, 3], as the file takes them; at least one batch.
      exact: for a network in 8 bits, the logits [n, classes] of the network in floating point from
        which it was made, if it is known; see `compare`.

    Returns:
      What was found of a file that passes.

    Raises:
      ExportError: the logits differ by more than rounding explains. The message names the first
        layer whose output differs, if the runtime tells the outputs of layers.
    """
    runtime = load(name, file)
    logits = np.concatenate([runtime.run(batch) for batch in batches])
    least = LEAST_SQNR[_numbers(network)]
    comparison = compare(logits, network.logits_of(batches), least, exact)
    if comparison.passes:
        return Checked(comparison=comparison, logits=logits, runtime=runtime)
    layer = first_wrong_layer(network, runtime, batches[0][:1])
    where = f"; the first layer that differs is {layer}" if layer else ""
    raise ExportError(
        f"{name}: the file's logits have an SQNR of {comparison.sqnr:.1f} dB to the network's, "
        f"legal: {comparison.least_sqnr:.1f} dB or more{where}"
    )


def compare(
    found: Array, wanted: Array, least_sqnr: float, exact: Array | None = None
) -> Comparison:
    """Compares the logits of a file with those of its network.

    Args:
      found: the file's logits [n, classes].
      wanted: the network's logits [n, classes].
      least_sqnr: ratio in dB with which the file counts as right.
      exact: for a network in 8 bits, the logits [n, classes] of the network in floating point from
        which it was made, if it is known. Where rounding to 8 bits changes the logits by more than
        `least_sqnr`, the file may differ by as much.
    """
    least = least_sqnr
    if exact is not None:
        rounding = signal_to_noise(exact, wanted)
        least = min(least, (math.inf if rounding is None else rounding) - MORE_THAN_ROUNDING)
    return Comparison(
        difference=float(np.abs(found - wanted).max()),
        agreement=float(np.mean(found.argmax(-1) == wanted.argmax(-1))),
        sqnr=signal_to_noise(wanted, found) if np.isfinite(found).all() else -math.inf,
        least_sqnr=least,
    )


def first_wrong_layer(network: Network, runtime: Runtime, image: Array) -> str | None:
    """Returns the first layer whose output in a runtime differs from the network's.

    Args:
      network: what the file was written from.
      runtime: the loaded file.
      image: [1, h, w, 3], as the file takes it.

    Returns:
      The layer's name; None if no output differs, or the file does not tell its layers' outputs.
    """
    least = LEAST_LAYER_SQNR[_numbers(network)]
    recorder = _Recorder(network)
    forward(network.spec, network.params, network.scaled(jax.numpy.asarray(image)), recorder)
    layers = walk(network.spec, network.resolution)
    for layer, found in zip(layers, runtime.outputs_of_layers(image), strict=False):
        possible = _fused(recorder.outputs[layer.name])
        if not any(_is_close(found, each, least) for each in possible):
            return layer.name
    return None


class _Recorder(Marks):
    """Rounds tensors as the file does, and records each layer's output before its activation."""

    def __init__(self, network: Network) -> None:
        self.outputs: dict[str, Array] = {}
        self._integers = network.integers

    def activation(self, path: str, x: jax.Array) -> jax.Array:
        if self._integers is None:
            return x
        step, zero = self._integers.affines[path]
        whole = np.clip(np.rint(np.asarray(x) / step) + zero, -128, 127)
        return jax.numpy.asarray((whole - zero) * step, np.float32)

    def kernel(self, layer: Layer, kernel: jax.Array) -> jax.Array:
        if self._integers is None:
            return kernel
        step = self._integers.kernel_steps[layer.name]
        whole = np.clip(np.rint(np.asarray(kernel) / step), -127, 127)
        return jax.numpy.asarray(whole * step, np.float32)

    def linear(self, layer: Layer, y: jax.Array) -> jax.Array:
        self.outputs[layer.name] = np.asarray(y)
        return y

    def sixth(self, path: str, x: jax.Array) -> jax.Array:
        return self.activation(path, super().sixth(path, x))


def _fused(linear: Array) -> tuple[Array, ...]:
    """Returns the possible outputs of an operation that computes `linear`.

    It may compute all or a part of the activation too.
    """
    shifted = linear + 3  # of the hard sigmoid and the hard swish
    clipped = np.clip(shifted, 0, 6)
    relu = np.maximum(linear, 0)
    return linear, relu, np.minimum(relu, 6), shifted, clipped, clipped / 6, linear * clipped / 6


def _is_close(found: Array, wanted: Array, least: float) -> bool:
    """Returns whether two arrays have one shape and an SQNR of `least` dB or more."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return False
    sqnr = signal_to_noise(wanted, found)
    return sqnr is None or sqnr >= least


def _numbers(network: Network) -> Literal["float", "integers"]:
    """Returns the key of a network's limits."""
    return "integers" if network.integers else "float"
