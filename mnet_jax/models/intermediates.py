"""Where a network's activations lie among what it returns with `mutable=["intermediates"]`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, Layer, walk
from mnet_jax.architectures.spec import (
    Activation,
    ConvNorm,
    NetworkSpec,
    Separable,
)

_NAMES = {
    "start": "started",
    "expand": "expanded",
    "depthwise": "filtered",
    "project": "projected",
    "conv": "conv_output",
    "hidden": "hidden_output",
}


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
        if layer.name == "head/classifier" or "squeeze_excite" in layer.name:
            continue
        block, _, part = layer.name.rpartition("/")
        # What a block ends with is the block's output, where no shortcut is added to it.
        path = (block, _NAMES[part]) if block and part in _NAMES else (f"{block or part}_output",)
        yield Place(layer=layer.name, activation=_activation(spec, layer), path=path)


def _activation(spec: NetworkSpec, layer: Layer) -> Activation:
    name, _, part = layer.name.partition("/")
    if name == "head":
        assert spec.head.conv or spec.head.hidden
        following = spec.head.conv if part == "conv" else spec.head.hidden
        assert following
        return following.activation
    block = spec.stem if name == "stem" else spec.blocks[int(name.removeprefix("block_"))]
    if part == "project":
        assert not isinstance(block, ConvNorm | Separable)
        return block.bottleneck
    return "linear" if part == "start" else block.activation
