"""Initializers of kernels, by dialect."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnet_jax.architectures.dialects import Initializer
from mnet_jax.architectures.spec import Kind

Array = jax.Array
KernelInit = Callable[[Array, tuple[int, ...], Any], Array]


def kernel_init(initializer: Initializer, kind: Kind) -> KernelInit:
    """Returns the kernel initializer of a dialect for a kind of layer.

    Kernels are [kh, kw, in, out] for `conv`, [kh, kw, c] for `depthwise`, [in, out] for the others.
    """
    if initializer == "truncated_normal_0.09":
        return nn.initializers.truncated_normal(stddev=0.09)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        window = math.prod(shape[:2]) if kind in ("conv", "depthwise") else 1
        outputs = shape[-1]
        if initializer == "variance_scaling":
            fan_in = window * (1 if kind == "depthwise" else shape[-2])
            # The standard deviation of a standard normal that is truncated at -2 and 2.
            deviation = 1 / (0.87962566103423978 * math.sqrt(fan_in))
            return deviation * jax.random.truncated_normal(key, -2, 2, shape, dtype)
        if initializer == "glorot_uniform":
            inputs = outputs if kind == "depthwise" else shape[-2]
            fan_out = window * (1 if kind == "depthwise" else outputs)
            limit = math.sqrt(6 / (window * inputs + fan_out))
            return jax.random.uniform(key, shape, dtype, -limit, limit)
        per_group = initializer == "normal_group_fan_out"
        if kind == "dense" and per_group:
            limit = 1 / math.sqrt(outputs)
            return jax.random.uniform(key, shape, dtype, -limit, limit)
        fan_out = window * (1 if kind == "depthwise" and per_group else outputs)
        deviation = 0.01 if kind == "dense" else math.sqrt(2 / fan_out)
        return deviation * jax.random.normal(key, shape, dtype)

    return init
