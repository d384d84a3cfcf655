"""How much of an image a position of a feature map sees, by arithmetic on the spec."""

from dataclasses import dataclass

from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, walk
from mnet_jax.architectures.spec import NetworkSpec


@dataclass(frozen=True, kw_only=True)
class Field:
    """What a position of a convolution's output sees of the image.

    Attributes:
      layer: path of the convolution's parameters.
      side: of the square of pixels that it depends on, where no border cuts it.
      step: pixels from a position's square to its neighbour's.
    """

    layer: str
    side: int
    step: int


def fields(spec: NetworkSpec) -> tuple[Field, ...]:
    """The receptive field behind every convolution, in order.

    Source: Araujo, Norris, Sim, "Computing receptive fields of convolutional neural networks",
    Distill (2019). Squeeze-and-excitation sees the whole image and is left out, as is the pool.
    """
    side, step, found = 1, 1, []
    for layer in walk(spec, REFERENCE_RESOLUTION):
        if layer.kind != "dense":
            side += (layer.kernel - 1) * layer.dilation * step
            step *= layer.stride
            found.append(Field(layer=layer.name, side=side, step=step))
    return tuple(found)
