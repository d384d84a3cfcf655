"""Parts of a batch: micro-batches that run one after the other, and normalization groups.

The division of a batch depends on the config and not on the devices, so that a run is the same on
one device and on eight.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

Array: TypeAlias = jax.Array
Tree: TypeAlias = Any


def micro_batch(batch: Mapping[str, Array], index: Array, count: int) -> dict[str, Array]:
    """Returns the images `index`, `index + count`, `index + 2 * count` ... of a batch.

    A micro-batch is strided because each device holds neighbouring images, and should get an equal
    share of every micro-batch.

    Args:
      batch: arrays of [b, ...].
      index: the index of the micro-batch, from 0.
      count: the number of micro-batches; it divides b.
    """

    def part(x: Array) -> Array:
        parts = x.reshape(-1, count, *x.shape[1:])
        return jax.lax.dynamic_index_in_dim(parts, index, axis=1, keepdims=False)

    return {name: part(x) for name, x in batch.items()}


def mean_over(
    function: Callable[[Tree, Mapping[str, Array], Array], tuple[Tree, Tree]],
    carried: Tree,
    batch: Mapping[str, Array],
    key: Array,
    count: int,
) -> tuple[Tree, Tree]:
    """Calls a function on each micro-batch in turn; returns the last carry and the mean value.

    Args:
      function: (carry, micro-batch, key) -> (carry, values); values are floats.
      carried: the initial carry.
      batch: arrays of [b, ...].
      key: a random key; each micro-batch gets its own.
      count: the number of micro-batches; it divides b. With 1, the function gets `batch` and `key`
        unchanged.

    Returns:
      The carry after the last micro-batch, and the values averaged over all micro-batches.
    """
    if count == 1:
        return function(carried, batch, key)

    def one(state: tuple[Tree, Tree], index: Array) -> tuple[tuple[Tree, Tree], None]:
        carried, total = state
        part = micro_batch(batch, index, count)
        carried, values = function(carried, part, jax.random.fold_in(key, index))
        return (carried, jax.tree.map(jnp.add, total, values)), None

    shapes = jax.eval_shape(function, carried, micro_batch(batch, jnp.int32(0), count), key)[1]
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (carried, total), _ = jax.lax.scan(one, (carried, zero), jnp.arange(count))
    return carried, jax.tree.map(lambda x: x / count, total)


def in_groups(apply: Callable[..., Any], groups: int) -> Callable[..., Any]:
    """Wraps a Linen module's `apply` for ghost batch normalization (arXiv 1705.08741).

    Each group of images is normalized by the group's statistics. Each group updates the running
    statistics separately, and the new running statistics are the mean over the groups.

    Args:
      apply: the `apply` of a model whose state is `batch_stats`.
      groups: the number of groups of neighbouring images; it divides the batch. With 1, `apply` is
        returned unchanged.
    """
    if groups == 1:
        return apply

    def grouped(
        variables: Tree, images: Array, *, train: bool, mutable: Any, rngs: Mapping[str, Array]
    ) -> tuple[Array, Tree]:
        def of_group(images: Array, keys: Mapping[str, Array]) -> tuple[Array, Tree]:
            found: tuple[Array, Tree] = apply(
                variables, images, train=train, mutable=mutable, rngs=keys
            )
            return found

        keys = {name: jax.random.split(key, groups) for name, key in rngs.items()}
        logits, updates = jax.vmap(of_group)(images.reshape(groups, -1, *images.shape[1:]), keys)
        means = jax.tree.map(lambda x: jnp.mean(x, axis=0), updates)
        return logits.reshape(-1, *logits.shape[2:]), means

    return grouped
