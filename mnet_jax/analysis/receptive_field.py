"""Receptive fields of a network's convolutions, computed from its spec."""

from dataclasses import dataclass

from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, walk
from mnet_jax.architectures.spec import NetworkSpec


@dataclass(frozen=True, kw_only=True)
class Field:
    """The receptive field of a convolution's output.

    Attributes:
      layer: path of the convolution's parameters.
      side: side of the square of pixels that one output position depends on, away from borders.
      step: distance in pixels between the squares of neighbouring positions.
    """

    layer: str
    side: int
    step: int


def fields(spec: NetworkSpec) -> tuple[Field, ...]:
    """Computes the receptive field of every convolution, in network order.

    Squeeze-and-excitation and pooling are left out: they see the whole image.

    Source: Araujo, Norris, Sim, "Computing receptive fields of convolutional neural networks",
    Distill (2019).
    """
    side, step, found = 1, 1, []
    for layer in walk(spec, REFERENCE_RESOLUTION):
        if layer.kind != "dense":
            side += (layer.kernel - 1) * layer.dilation * step
            step *= layer.stride
            found.append(Field(layer=layer.name, side=side, step=step))
    return tuple(found)
