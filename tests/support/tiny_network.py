"""The smallest network that has each part of a MobileNet."""

import dataclasses

from mnet_jax import architectures
from mnet_jax.architectures import ConvNorm, Head, InvertedResidual, NetworkSpec


def make_tiny_spec(num_classes: int = 10, dropout: float = 0.2, count: int = 2) -> NetworkSpec:
    """A stem, one or two inverted residuals, the first with a shortcut, and a last convolution."""
    blocks = (
        InvertedResidual(inputs=8, expanded=16, outputs=8, shortcut="bottleneck"),
        InvertedResidual(inputs=8, expanded=16, outputs=12, stride=2),
    )[:count]
    published = architectures.mobilenet_v2(norm_momentum=0.9)
    return NetworkSpec(
        name="tiny",
        width=1.0,
        dialect=published.dialect,
        stem=ConvNorm(inputs=3, outputs=8, kernel=3),
        blocks=blocks,
        head=Head(
            conv=ConvNorm(inputs=blocks[-1].outputs, outputs=16, kernel=1),
            dropout=dropout,
            num_classes=num_classes,
        ),
    )


def make_short_spec(dropout: float = 0.2) -> NetworkSpec:
    """The tiny network without its second block and last convolution: compiles in half the time."""
    tiny = make_tiny_spec(dropout=dropout)
    head = dataclasses.replace(tiny.head, conv=None)
    return dataclasses.replace(tiny, blocks=tiny.blocks[:1], head=head)
