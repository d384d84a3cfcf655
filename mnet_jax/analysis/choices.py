"""Options and defaults of the analyses, for command lines that do not import JAX."""

from typing import Literal

Distribution = Literal["gaussian", "orthogonal"]  # of the matrix T in `manifold`

DIMENSIONS = (2, 3, 5, 15, 30)  # numbers of dimensions in V2's Fig. 1
KERNEL_THRESHOLD = 0.01  # a kernel is dead if its norm is at most this share of the layer's largest
