"""The architectures of the MobileNet papers as data. No module here imports JAX.

- `spec`: a network as frozen dataclasses;
- `mobilenet_v1`: arXiv 1704.04861, Table 1;
- `mobilenet_v2`: arXiv 1801.04381, Table 2;
- `mobilenet_v3`: arXiv 1905.02244, Tables 1 and 2;
- `mobilenet_v4`: arXiv 2404.10518, appendix D;
- `dialects`: the conventions in which reference implementations differ;
- `shapes`: the layers of a network and their shapes at a resolution;
- `flow`: the operations of a network, and what flows from which to which;
- `transforms`: the variations that the papers study, for any spec;
- `dense_tasks`: variations for segmentation and detection: dilation, and fewer channels at the end;
- `segmentation`: networks for segmentation: a backbone and a head, LR-ASPP or DeepLabV3;
- `cityscapes`: the V3 paper's networks for segmentation, arXiv 1905.02244, Tables 7 and 8.
"""

from collections.abc import Callable
from functools import partial

from mnet_jax.architectures.dialects import Dialect
from mnet_jax.architectures.mobilenet_v1 import mobilenet_v1
from mnet_jax.architectures.mobilenet_v2 import mobilenet_v2
from mnet_jax.architectures.mobilenet_v3 import mobilenet_v3
from mnet_jax.architectures.mobilenet_v4 import mobilenet_v4
from mnet_jax.architectures.segmentation import SegmentationSpec, deeplabv3, lraspp
from mnet_jax.architectures.shapes import Layer, unnormalizable_layer, variable_shapes, walk
from mnet_jax.architectures.spec import (
    Attention,
    ConvNorm,
    FusedInvertedResidual,
    Head,
    Hidden,
    InvertedResidual,
    NetworkSpec,
    Separable,
)

# The factory of each network, by the name in its spec.
FACTORIES: dict[str, Callable[..., NetworkSpec]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": partial(mobilenet_v3, "large"),
    "mobilenet_v3_small": partial(mobilenet_v3, "small"),
    "mobilenet_v4_conv_small": partial(mobilenet_v4, "conv_small"),
    "mobilenet_v4_conv_medium": partial(mobilenet_v4, "conv_medium"),
    "mobilenet_v4_conv_large": partial(mobilenet_v4, "conv_large"),
    "mobilenet_v4_hybrid_medium": partial(mobilenet_v4, "hybrid_medium"),
    "mobilenet_v4_hybrid_large": partial(mobilenet_v4, "hybrid_large"),
}

__all__ = [
    "FACTORIES",
    "Attention",
    "ConvNorm",
    "Dialect",
    "FusedInvertedResidual",
    "Head",
    "Hidden",
    "InvertedResidual",
    "Layer",
    "NetworkSpec",
    "SegmentationSpec",
    "Separable",
    "deeplabv3",
    "lraspp",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "mobilenet_v4",
    "unnormalizable_layer",
    "variable_shapes",
    "walk",
]
