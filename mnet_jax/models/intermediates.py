"""Paths of a network's activations in what it returns with `mutable=["intermediates"]`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, Role, walk
from mnet_jax.architectures.spec import Activation, NetworkSpec

_NAMES: dict[Role, str] = {  # under which a part of the network sows the activation of a role
    "start": "started",
    "expand": "expanded",
    "depthwise": "filtered",
    "project": "projected",
    "conv": "conv_output",
    "hidden": "hidden_output",
}
# The output of a layer with one of these roles is the output of its part of the network.
_LAST: tuple[Role | None, ...] = (None, "pointwise")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to find the output of a layer, after its normalization and activation.

    Attributes:
      layer: path of the layer's parameters, as `architectures.walk` names it.
      activation: the layer's activation function.
      path: names that lead to the output in the collections `intermediates` and `preactivations`.
    """

    layer: str
    activation: Activation
    path: tuple[str, ...]

    def of(self, collection: Mapping[str, Any]) -> jax.Array:
        """Returns the layer's entry in a collection: [b, h, w, c], or [b, c] for a dense layer."""
        found: Any = collection
        for name in self.path:
            found = found[name]
        return found[0]


def places(spec: NetworkSpec) -> tuple[Place, ...]:
    """Returns the place of every layer whose output is among the intermediates, in order.

    These are all layers but the classifier and the dense layers of squeeze-and-excitation.
    """
    return tuple(_places(spec))


def _places(spec: NetworkSpec) -> Iterator[Place]:
    for layer in walk(spec, REFERENCE_RESOLUTION):
        if layer.role in _LAST:
            path: tuple[str, ...] = (f"{layer.part}_output",)
        elif layer.role in _NAMES:
            path = (layer.part, _NAMES[layer.role])
        else:
            continue
        assert layer.activation != "hard_sigmoid"  # only squeeze-and-excitation has it
        yield Place(layer=layer.name, activation=layer.activation, path=path)
