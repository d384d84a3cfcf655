"""Where a network's activations lie among what it returns with `mutable=["intermediates"]`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, Role, walk
from mnet_jax.architectures.spec import Activation, NetworkSpec

_NAMES: dict[Role, str] = {  # of a layer's activation, among those of its part of the network
    "start": "started",
    "expand": "expanded",
    "depthwise": "filtered",
    "project": "projected",
    "conv": "conv_output",
    "hidden": "hidden_output",
}
# Nothing is added to the output of these: it is that of their part.
_LAST: tuple[Role | None, ...] = (None, "pointwise")


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a layer with weights gives, its normalization and activation included.

    Attributes:
      layer: path of its parameters, as `architectures.walk` names it.
      activation: the non-linearity that follows it.
      path: of names in the collections `intermediates` and `preactivations`.
    """

    layer: str
    activation: Activation
    path: tuple[str, ...]

    def of(self, collection: Mapping[str, Any]) -> jax.Array:
        """The activation, [b, h, w, c], or [b, c] of a dense layer."""
        found: Any = collection
        for name in self.path:
            found = found[name]
        return found[0]


def places(spec: NetworkSpec) -> tuple[Place, ...]:
    """Every layer whose output is among the intermediates, in order.

    These are all but the classifier and the dense layers of squeeze-and-excitation.
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
        assert layer.activation != "hard_sigmoid"  # which only a squeeze-and-excitation has
        yield Place(layer=layer.name, activation=layer.activation, path=path)
