"""A feature map whose normalization and activation are still to be applied.

Batch normalization is a product and a sum per channel once the statistics are known. Done by itself
it reads and writes the whole map for next to no arithmetic; the convolution that reads the map can
do it on the way.
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
      x: [..., c], as a convolution left it.
      norm: float32 [3, c], the rows mean, scale and bias; None for x as it is.
      activation: what follows.
    """

    x: Array
    norm: Array | None = None
    activation: Activation = "linear"

    def value(self) -> Array:
        """The feature map, in x's dtype; the arithmetic is in float32 or wider."""
        if self.norm is None:
            return activate(self.x, self.activation)
        mean, scale, bias = (over_channels(row, self.x) for row in self.norm)
        return activate((self.x - mean) * scale + bias, self.activation).astype(self.x.dtype)


jax.tree_util.register_dataclass(Pending, data_fields=["x", "norm"], meta_fields=["activation"])


@dataclass(frozen=True, kw_only=True)
class Finish:
    """`act(y + bias)`, done to what comes out of a convolution that nobody measures. A pytree.

    Attributes:
      bias: float32 [n].
      activation: what follows.
    """

    bias: Array
    activation: Activation = "linear"

    def of(self, y: Array) -> Array:
        """It is done to y [..., n], in y's dtype; the arithmetic is in float32 or wider."""
        return activate(y + over_channels(self.bias, y), self.activation).astype(y.dtype)


jax.tree_util.register_dataclass(Finish, data_fields=["bias"], meta_fields=["activation"])


def over_channels(values: Array, x: Array) -> Array:
    """A value for each channel, [c], in as many axes as x [..., c] has.

    NumPy would add them by itself, but for programs that forbid it (`jax_numpy_rank_promotion`).
    """
    return jnp.expand_dims(values, range(x.ndim - 1))


def identity_norm(channels: int) -> Array:
    """The `norm` that changes nothing."""
    return jnp.zeros((3, channels), jnp.float32).at[1].set(1)
