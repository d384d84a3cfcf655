"""The activation functions of MobileNets."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from mnet_jax.architectures.spec import Activation, Gate

Array = jax.Array


@jax.custom_jvp
def relu6(x: Array) -> Array:
    """Computes min(max(x, 0), 6); the gradient is 0 at 0 and 6, as in PyTorch and TensorFlow."""
    return jnp.clip(x, 0, 6)


@relu6.defjvp
def _relu6_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    y = relu6(x)
    return y, jnp.where((y > 0) & (y < 6), tangent, 0)  # from y, so that x need not be kept


def activate(x: Array, activation: Activation | Gate) -> Array:
    """Applies the named activation function elementwise."""
    if activation == "linear":
        return x
    functions: dict[str, Callable[[Array], Array]] = {
        "relu": jax.nn.relu,
        "relu6": relu6,
        "hard_swish": jax.nn.hard_swish,
        "gelu": partial(jax.nn.gelu, approximate=False),  # by erf, as in timm
        "hard_sigmoid": jax.nn.hard_sigmoid,
        "sigmoid": jax.nn.sigmoid,
    }
    return functions[activation](x)
