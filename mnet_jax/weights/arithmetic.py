"""Comparison of a network with a library's network that has the same weights."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mnet_jax.architectures import FACTORIES, NetworkSpec, walk
from mnet_jax.architectures.dialects import Dialect, DialectName

Size = tuple[int, int]

FAR = 1024  # pixels: a multiple of every network's stride; every map is larger than its kernel


def variants_of(spec: NetworkSpec, dialect: DialectName) -> list[NetworkSpec]:
    """Returns the published networks with a spec's name, width, classes and input channels.

    V3 has two such networks, the normal and the minimalistic one; other versions have one.
    """
    options: list[dict[str, Any]] = [{}]
    if spec.name.startswith("mobilenet_v3"):
        options.append({"minimalistic": True})
    return [
        FACTORIES[spec.name](
            width=spec.width,
            num_classes=spec.head.num_classes,
            in_channels=spec.stem.inputs,
            dialect=dialect,
            **option,
        )
        for option in options
    ]


def describe_differences(
    spec: NetworkSpec, networks: Sequence[NetworkSpec], image_size: Size | None
) -> str:
    """Describes how the computations of a network and of a library differ; empty if they agree.

    The network is compared with each of the library's networks. Differences in strides and dilation
    are ignored, since networks that differ in these can share weights. A reduced tail is not
    compared either; the shapes of the weights show it.

    Args:
      spec: the network.
      networks: the library's networks of this name and width.
      image_size: (rows, columns) of the images, since some paddings are equal at some sizes. None
        means any size.
    """
    ours = _arithmetic(spec)
    known = [(network.dialect, _arithmetic(network)) for network in networks]
    if any(theirs == ours for _, theirs in known):
        return ""
    constants = {theirs["dialect"] for _, theirs in known}
    if ours["dialect"] in constants:
        different = [key for key in ours if all(ours[key] != theirs[key] for _, theirs in known)]
        return f"different {', '.join(different) or 'activations'}; the logits will not agree"
    dialects = ", ".join(dict.fromkeys(dialect.name for dialect, _ in known))
    message = f"dialect {spec.dialect.name}, legal: {dialects}; the logits will not agree"
    fitting = [dialect for dialect, theirs in known if _without_padding(theirs, ours)]
    if image_size is not None:
        agree = pads_alike(spec, fitting, image_size)
        return "" if agree else f"{message} at {image_size[0]} x {image_size[1]} pixels"
    period = math.prod(layer.stride for layer in walk(spec, FAR))
    remainders = [r for r in range(period) if pads_alike(spec, fitting, (FAR + r, FAR + r))]
    if not remainders:
        return message
    legal = " or ".join(map(str, remainders))
    return f"{message} unless the images' sides leave {legal} when divided by {period}"


def pads_alike(spec: NetworkSpec, dialects: Iterable[Dialect], image_size: Size) -> bool:
    """Returns whether one of the dialects pads every map as the spec's own dialect does.

    Args:
      spec: the network.
      dialects: the dialects to compare with the network's own.
      image_size: (rows, columns) of the images.
    """
    return any(
        _pads(spec, image_size) == _pads(replace(spec, dialect=dialect), image_size)
        for dialect in dialects
    )


def _pads(spec: NetworkSpec, image_size: Size) -> list[tuple[Size, ...]]:
    """Returns the zeros around each layer's input: ((top, bottom), (left, right))."""
    return [layer.pads for layer in walk(spec, image_size)]


def _arithmetic(spec: NetworkSpec) -> dict[str, Any]:
    """Returns the properties, besides strides and weight shapes, that determine the logits."""
    dialect, head = spec.dialect, spec.head
    parts = [spec.stem, *spec.blocks, head.conv, head.hidden]

    def each(name: str) -> tuple[Any, ...]:
        return tuple(getattr(part, name, None) for part in parts)

    return {
        "dialect": (dialect.norm_epsilon, dialect.padding, dialect.depthwise_padding),
        "activation": each("activation"),
        "bottleneck": each("bottleneck"),
        "shortcut": each("shortcut"),
        "heads": each("heads"),
    }


def _without_padding(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Returns whether two results of `_arithmetic` are equal, except for padding."""
    epsilons = {one["dialect"][0], other["dialect"][0]}
    return len(epsilons) == 1 and one | {"dialect": other["dialect"]} == other
