"""What the analyses leave to choose. Command lines name it, and do so without JAX."""

from typing import Literal

Distribution = Literal["gaussian", "orthogonal"]  # of the manifold's embedding

DIMENSIONS = (2, 3, 5, 15, 30)  # of its spaces, in V2's Fig. 1
KERNEL_THRESHOLD = 0.01  # of a layer's largest kernel norm, below which a kernel is dead
