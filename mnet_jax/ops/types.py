"""The closed choices of convolutions. Nothing here imports JAX, so a config can name them."""

from typing import Literal

Measured = Literal["grouped", "shifted", "native"]  # the lowerings that a benchmark compares
Lowering = Literal["auto", "grouped", "shifted", "native"]  # see `mnet_jax.ops.depthwise_conv`
Direction = Literal["forward", "backward"]  # the convolution, or its gradients
