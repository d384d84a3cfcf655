"""The flow of data between the layers of a network, and the pairs of layers that can be rescaled.

Suppose that the outputs of a layer reach other layers only through functions f with
f(s x) = s f(x) for s > 0. Then a channel can be divided by s in the layer's kernel and multiplied
by s in the kernels that read the channel, and the network still computes the same function (arXiv
1906.04721, section 4.1). ReLU, the identity, the mean over space and dropout are such functions.
ReLU6 and h-swish are not. If a shortcut adds two tensors, the channels of neither can be rescaled
alone.

Nothing here imports JAX.
"""

import dataclasses
from dataclasses import dataclass

from mnet_jax.architectures import Layer, NetworkSpec, walk
from mnet_jax.architectures.flow import compute
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, require_quantizable

HOMOGENEOUS = ("linear", "relu")  # activations f with f(s x) = s f(x) for s > 0


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """The input of a layer.

    Attributes:
      quantizer: path of the quantizer that rounds it.
      terms: the layers whose outputs, each after its activation, are added; empty for the image.
      gated: whether squeeze-and-excitation has multiplied channels by a gate. The gate does not
        change if these channels are rescaled: the first layer of squeeze-and-excitation also reads
        them, so its kernel is rescaled inversely.
    """

    quantizer: str
    terms: tuple[Layer, ...] = ()
    gated: bool = False

    def plus(self, other: "Tensor", quantizer: str) -> "Tensor":
        """Returns the sum of two tensors."""
        gated = self.gated or other.gated
        return Tensor(quantizer=quantizer, terms=self.terms + other.terms, gated=gated)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Layers between which channels can be rescaled.

    Attributes:
      first: the layer whose output channels are divided.
      followers: the layers whose input channels are multiplied: all that read the output of
        `first`. With squeeze-and-excitation, they are the first layer of squeeze-and-excitation and
        the projection.
    """

    first: Layer
    followers: tuple[Layer, ...]


def layer_inputs(spec: NetworkSpec) -> dict[str, Tensor]:
    """Returns the tensor that each layer reads, by the layer's name, in network order.

    Raises:
      ValueError: the network has layers that cannot be quantized, such as attention.
    """
    require_quantizable(spec)
    recorder = _Recorder()
    compute(spec, REFERENCE_RESOLUTION, Tensor(quantizer="input_quantizer"), recorder)
    return recorder.inputs


class _Recorder:
    """Operations that record which tensor each layer reads.

    Attributes:
      inputs: these tensors, by the layer's name.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}

    def layer(self, layer: Layer, x: Tensor) -> Tensor:
        self.inputs[layer.name] = x
        return Tensor(quantizer=f"{layer.name}/output_quantizer", terms=(layer,))

    def attend(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        raise NotImplementedError(layer.name)  # refused by `require_quantizable`

    def mean(self, path: str, x: Tensor) -> Tensor:
        return dataclasses.replace(x, quantizer=path)

    def add(self, path: str, left: Tensor, right: Tensor) -> Tensor:
        return left.plus(right, path)

    def scale(self, path: str, x: Tensor, gate: Tensor) -> Tensor:
        return dataclasses.replace(x, quantizer=path, gated=True)


def quantizers(spec: NetworkSpec) -> tuple[str, ...]:
    """Returns the paths of all quantizers of activations, in the order of computation."""
    recorder = _Quantizers()
    compute(spec, REFERENCE_RESOLUTION, recorder.paths[0], recorder)
    return tuple(recorder.paths)


class _Quantizers:
    """Operations that record the quantizers of their outputs; a tensor is its quantizer's path.

    Attributes:
      paths: the paths in the order of computation.
    """

    def __init__(self) -> None:
        self.paths = ["input_quantizer"]

    def layer(self, layer: Layer, x: str) -> str:
        if layer.activation == "hard_swish":
            self._put(f"{layer.name}/preactivation_quantizer")
        return self._put(f"{layer.name}/output_quantizer")

    def attend(self, layer: Layer, query: str, key: str, value: str) -> str:
        raise NotImplementedError(layer.name)  # refused by `require_quantizable`

    def mean(self, path: str, x: str) -> str:
        return self._put(path)

    def add(self, path: str, left: str, right: str) -> str:
        return self._put(path)

    def scale(self, path: str, x: str, gate: str) -> str:
        return self._put(path)

    def _put(self, path: str) -> str:
        self.paths.append(path)
        return path


def pairs(spec: NetworkSpec) -> tuple[Pair, ...]:
    """Returns the pairs of layers between which channels can be rescaled, in network order."""
    refused, inputs = unpaired(spec), layer_inputs(spec)
    layers = {layer.name: layer for layer in walk(spec, REFERENCE_RESOLUTION)}
    found = []
    for name, first in layers.items():
        if name not in refused:
            readers = (layers[n] for n, tensor in inputs.items() if tensor.terms == (first,))
            found.append(Pair(first=first, followers=tuple(readers)))
    return tuple(found)


def unpaired(spec: NetworkSpec) -> dict[str, str]:
    """Returns the names of the layers whose outputs cannot be rescaled, each with the reason."""
    reasons = {}
    inputs = layer_inputs(spec).values()
    for layer in walk(spec, REFERENCE_RESOLUTION):
        containing = [tensor for tensor in inputs if layer in tensor.terms]
        added = [term.name for x in containing for term in x.terms if term != layer]
        if layer.role == "classifier":
            reasons[layer.name] = "got the logits, legal: outputs that another layer reads"
        elif layer.activation not in HOMOGENEOUS:
            hint = "; see without_relu6" if layer.activation == "relu6" else ""
            legal = ", ".join(HOMOGENEOUS)
            reasons[layer.name] = f"got {layer.activation} after it, legal: {legal}{hint}"
        elif added:
            legal = "outputs without a shortcut"
            reasons[layer.name] = f"got outputs to which {added[0]}'s are added, legal: {legal}"
    return reasons
