"""Whether a network computes what a library's network computes from the same weights."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mnet_jax.architectures import FACTORIES, NetworkSpec, walk
from mnet_jax.architectures.dialects import Dialect, DialectName

Size = tuple[int, int]

FAR = 1024  # a multiple of every network's stride, where every map is larger than its kernel


def variants_of(spec: NetworkSpec, dialect: DialectName) -> list[NetworkSpec]:
    """The published networks of a spec's name, width and classes; V3 has a minimalistic one too."""
    options: list[dict[str, Any]] = [{}]
    if spec.name.startswith("mobilenet_v3"):
        options.append({"minimalistic": True})
    return [
        FACTORIES[spec.name](
            width=spec.width, num_classes=spec.head.num_classes, dialect=dialect, **option
        )
        for option in options
    ]


def disagreement(
    spec: NetworkSpec, dialects: tuple[DialectName, ...], image_size: Size | None
) -> str:
    """What a network does that none of a library's networks does; empty if there is one.

    Strides, dilation and a reduced tail are another use of the same weights, and pass.

    Args:
      spec: the network.
      dialects: those of ours that compute what the library does.
      image_size: rows and columns that the network is for: some paddings are the same at some
        sizes. None is any size.
    """
    ours = _arithmetic(spec)
    known = [(v.dialect, _arithmetic(v)) for name in dialects for v in variants_of(spec, name)]
    if any(theirs == ours for _, theirs in known):
        return ""
    constants = {theirs["dialect"] for _, theirs in known}
    if ours["dialect"] in constants:
        different = [key for key in ours if all(ours[key] != theirs[key] for _, theirs in known)]
        return f"other {', '.join(different) or 'activations'}; the logits will not agree"
    told = f"dialect {spec.dialect.name}, legal: {', '.join(dialects)}; the logits will not agree"
    fitting = [dialect for dialect, theirs in known if _without_padding(theirs, ours)]
    if image_size is not None:
        agree = pads_alike(spec, fitting, image_size)
        return "" if agree else f"{told} at {image_size[0]} x {image_size[1]} pixels"
    period = math.prod(layer.stride for layer in walk(spec, FAR))
    remainders = [r for r in range(period) if pads_alike(spec, fitting, (FAR + r, FAR + r))]
    if not remainders:
        return told
    legal = " or ".join(map(str, remainders))
    return f"{told} unless the images' sides leave {legal} when divided by {period}"


def pads_alike(spec: NetworkSpec, dialects: Iterable[Dialect], image_size: Size) -> bool:
    """Whether one of some dialects pads a network's every map as its own does, at a size."""
    return any(
        _pads(spec, image_size) == _pads(replace(spec, dialect=dialect), image_size)
        for dialect in dialects
    )


def _pads(spec: NetworkSpec, image_size: Size) -> list[tuple[Size, ...]]:
    """Zeros before and after the rows and the columns that each layer sees."""
    return [layer.pads for layer in walk(spec, image_size)]


def _arithmetic(spec: NetworkSpec) -> dict[str, Any]:
    """What a network does besides what the shapes of its weights and its strides tell."""
    dialect, head = spec.dialect, spec.head
    parts = [spec.stem, *spec.blocks, head.conv, head.hidden]

    def each(name: str) -> tuple[Any, ...]:
        return tuple(getattr(part, name, None) for part in parts)

    return {
        "dialect": (dialect.norm_epsilon, dialect.padding, dialect.depthwise_padding),
        "activation": each("activation"),
        "bottleneck": each("bottleneck"),
        "shortcut": each("shortcut"),
    }


def _without_padding(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two networks' arithmetic differs in nothing but the padding."""
    epsilons = {one["dialect"][0], other["dialect"][0]}
    return len(epsilons) == 1 and one | {"dialect": other["dialect"]} == other
