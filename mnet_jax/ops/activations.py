"""The non-linearities of the family, elementwise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mnet_jax.architectures.spec import Activation

Array = jax.Array


@jax.custom_jvp
def relu6(x: Array) -> Array:
    """min(max(x, 0), 6), with gradient zero at both corners as in PyTorch and TensorFlow."""
    return jnp.clip(x, 0, 6)


@relu6.defjvp
def _relu6_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    y = relu6(x)
    return y, jnp.where((y > 0) & (y < 6), tangent, 0)  # the mask needs no input kept alive


def activate(x: Array, activation: Activation) -> Array:
    """Applies the named non-linearity elementwise."""
    if activation == "linear":
        return x
    functions: dict[str, Callable[[Array], Array]] = {
        "relu": jax.nn.relu,
        "relu6": relu6,
        "hard_swish": jax.nn.hard_swish,
    }
    return functions[activation](x)
