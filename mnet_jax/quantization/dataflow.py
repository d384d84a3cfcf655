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
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from mnet_jax.architectures import InvertedResidual, Layer, NetworkSpec, walk
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION

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
    """Returns the tensor that each layer reads, by the layer's name, in network order."""
    shortcuts = {
        f"block_{i}": block.shortcut
        for i, block in enumerate(spec.blocks)
        if isinstance(block, InvertedResidual)
    }
    found: dict[str, Tensor] = {}
    x, skip = Tensor(quantizer="input_quantizer"), None
    layers = walk(spec, REFERENCE_RESOLUTION)
    for part, members in itertools.groupby(layers, key=lambda layer: layer.part):
        if part == "head":
            _read_by_head(x, members, found)
            break
        shortcut, entering = shortcuts.get(part, "none"), x
        x = _read_by_block(x, skip, members, found)
        # What a shortcut between expansions adds to the next block's is the projection's input.
        skip = found[f"{part}/project"] if shortcut == "expansion" else None
        if shortcut == "bottleneck":
            x = entering.plus(x, f"{part}/sum_quantizer")
    return found


def _read_by_block(
    x: Tensor, skip: Tensor | None, layers: Iterable[Layer], found: dict[str, Tensor]
) -> Tensor:
    """Records which tensor each layer of a block reads; returns the output of the last layer.

    Args:
      x: the block's input.
      skip: tensor that is added to the output of the expansion, if any.
      layers: the block's layers.
      found: gets the tensor that each layer reads, by the layer's name.
    """
    for layer in layers:
        if skip and layer.role not in ("start", "expand"):
            x, skip = x.plus(skip, f"{layer.part}/skip_quantizer"), None
        squeeze = f"{layer.part}/squeeze_excite"
        if layer.role == "squeeze_excite/reduce":
            pooled = dataclasses.replace(x, quantizer=f"{squeeze}/pooled_quantizer")
            found[layer.name], reduced = pooled, _output(layer)
        elif layer.role == "squeeze_excite/expand":
            found[layer.name] = reduced
            x = dataclasses.replace(x, quantizer=f"{squeeze}/output_quantizer", gated=True)
        else:
            found[layer.name], x = x, _output(layer)
    return x


def _read_by_head(x: Tensor, layers: Iterable[Layer], found: dict[str, Tensor]) -> None:
    """Records which tensor each layer of the head reads; for the arguments see `_read_by_block`."""
    is_map = True
    for layer in layers:
        if is_map and layer.kind == "dense":
            x, is_map = dataclasses.replace(x, quantizer="head/pooled_quantizer"), False
        found[layer.name], x = x, _output(layer)


def _output(layer: Layer) -> Tensor:
    return Tensor(quantizer=f"{layer.name}/output_quantizer", terms=(layer,))


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
