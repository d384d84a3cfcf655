"""The V3 paper's networks for semantic segmentation of Cityscapes (arXiv 1905.02244, section 6.4).

The paper says that RF2 halves the channels of the backbone's last block. Its parameter counts of V3
also need half the expanded channels in the last strided block; those of V2 do not. V2's backbone
ends before its last pointwise layer (arXiv 1801.04381, section 6.3).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from mnet_jax.architectures.dense_tasks import OutputStride, with_reduced_tail
from mnet_jax.architectures.mobilenet_v2 import mobilenet_v2
from mnet_jax.architectures.mobilenet_v3 import mobilenet_v3
from mnet_jax.architectures.segmentation import (
    PAPER_POOL,
    SegmentationSpec,
    deeplabv3,
    lraspp,
)

CLASSES = 19
FULL, HALF = (1024, 2048), (512, 1024)  # rows and columns of an image


@dataclass(frozen=True)
class PublishedSegmenter:
    """A row of Table 7 or 8, with the published numbers.

    Attributes:
      table: number of the table.
      row: number of the row in the table.
      backbone: name of the backbone.
      width: the backbone's width multiplier.
      reduced_tail: whether the backbone's last channels are halved (RF2).
      head: `R-ASPP`, or `LR-ASPP` (SH).
      channels: channels of the head's layers (F).
      output_stride: stride of the backbone's coarsest map.
      params: published parameters, in millions; None in Table 8.
      madds: published multiply-adds at `FULL`, in billions.
    """

    table: Literal[7, 8]
    row: int
    backbone: Literal["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"]
    width: float
    reduced_tail: bool
    head: Literal["R-ASPP", "LR-ASPP"]
    channels: int
    output_stride: OutputStride
    params: float | None
    madds: float

    def spec(self) -> SegmentationSpec:
        """Returns the network."""
        if self.backbone == "mobilenet_v2":
            network = mobilenet_v2(width=self.width)
            bare = dataclasses.replace(network.head, conv=None)
            network = dataclasses.replace(network, head=bare)
        else:
            large = self.backbone == "mobilenet_v3_large"
            network = mobilenet_v3("large" if large else "small", width=self.width)
        if self.reduced_tail:
            v3 = self.backbone != "mobilenet_v2"
            network = with_reduced_tail(network, strided_expansion=v3)
        if self.head == "LR-ASPP":
            return lraspp(
                network, num_classes=CLASSES, channels=self.channels, pool=PAPER_POOL,
                output_stride=self.output_stride,
            )  # fmt: skip
        return deeplabv3(
            network, num_classes=CLASSES, channels=self.channels, rates=(), refines=False,
            dropout=0.0, output_stride=self.output_stride,
        )  # fmt: skip


_V2, _LARGE, _SMALL = "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"
_ROWS: tuple[
    tuple[Any, ...], ...
] = (  # table, row, backbone, width, RF2, head, F, output stride, params, MAdds
    (7, 1, _V2, 1.0, False, "R-ASPP", 256, 16, 2.11, 21.29),
    (7, 2, _V2, 1.0, True, "R-ASPP", 256, 16, 1.15, 13.68),
    (7, 3, _V2, 1.0, True, "LR-ASPP", 256, 16, 1.02, 12.83),
    (7, 4, _V2, 1.0, True, "LR-ASPP", 128, 16, 0.98, 12.57),
    (7, 5, _LARGE, 1.0, False, "R-ASPP", 256, 16, 3.60, 18.43),
    (7, 6, _LARGE, 1.0, True, "R-ASPP", 256, 16, 1.76, 11.24),
    (7, 7, _LARGE, 1.0, True, "LR-ASPP", 256, 16, 1.63, 10.33),
    (7, 8, _LARGE, 1.0, True, "LR-ASPP", 128, 16, 1.51, 9.74),
    (7, 9, _V2, 0.5, True, "LR-ASPP", 128, 16, 0.28, 4.00),
    (7, 10, _V2, 0.35, True, "LR-ASPP", 128, 16, 0.16, 2.54),
    (7, 11, _SMALL, 1.0, True, "LR-ASPP", 128, 16, 0.47, 2.90),
    (8, 1, _LARGE, 1.0, True, "LR-ASPP", 128, 16, None, 9.74),
    (8, 2, _LARGE, 1.0, True, "LR-ASPP", 128, 32, None, 7.74),
    (8, 3, _SMALL, 1.0, True, "LR-ASPP", 128, 16, None, 2.90),
    (8, 4, _SMALL, 1.0, True, "LR-ASPP", 128, 32, None, 2.06),
)
SEGMENTERS = tuple(PublishedSegmenter(*row) for row in _ROWS)
