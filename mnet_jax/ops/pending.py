"""Feature maps whose normalization and activation are still to be applied.

Once its statistics are known, batch normalization is one multiplication and one addition per value.
As an operation of its own, it reads and writes the whole map for almost no arithmetic. Instead, the
next convolution can apply it when it reads the map.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mnet_jax.architectures.spec import Activation
from mnet_jax.ops.activations import activate

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class Pending:
    """`act((x - mean) * scale + bias)`, not yet computed. A pytree.

    Attributes:
      x: output of a convolution, [..., c].
      norm: float32 [3, c], the rows mean, scale and bias; None if x is not normalized.
      activation: applied after the normalization.
    """

    x: Array
    norm: Array | None = None
    activation: Activation = "linear"

    def value(self) -> Array:
        """Returns the normalized, activated map in x's dtype; it normalizes in float32 or wider."""
        if self.norm is None:
            return activate(self.x, self.activation)
        mean, scale, bias = (over_channels(row, self.x) for row in self.norm)
        return activate((self.x - mean) * scale + bias, self.activation).astype(self.x.dtype)


jax.tree_util.register_dataclass(Pending, data_fields=["x", "norm"], meta_fields=["activation"])


@dataclass(frozen=True, kw_only=True)
class Finish:
    """`act(y + bias)`, applied to the output y of a convolution without statistics. A pytree.

    Attributes:
      bias: float32 [n].
      activation: applied after the bias.
    """

    bias: Array
    activation: Activation = "linear"

    def of(self, y: Array) -> Array:
        """Applies it to y [..., n] in float32 or wider; the result has y's dtype."""
        return activate(y + over_channels(self.bias, y), self.activation).astype(y.dtype)


jax.tree_util.register_dataclass(Finish, data_fields=["bias"], meta_fields=["activation"])


def over_channels(values: Array, x: Array) -> Array:
    """Reshapes per-channel values [c] to [1, ..., 1, c], with as many axes as x [..., c].

    JAX would broadcast them by itself unless a program forbids it (`jax_numpy_rank_promotion`).
    """
    return jnp.expand_dims(values, range(x.ndim - 1))


def identity_norm(channels: int) -> Array:
    """Returns the `norm` that leaves a feature map unchanged, [3, channels]."""
    return jnp.zeros((3, channels), jnp.float32).at[1].set(1)
