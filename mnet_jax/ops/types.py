"""The types of a convolution's options. This module does not import JAX, so configs can use it."""

from typing import Literal

Measured = Literal["grouped", "shifted", "native"]  # the lowerings that a benchmark compares
Lowering = Literal["auto", "grouped", "shifted", "native"]  # see `mnet_jax.ops.depthwise_conv`
Direction = Literal["forward", "backward"]  # the convolution, or its gradients
