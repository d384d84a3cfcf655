"""Operations on sharded arrays. They read the sharding from the arrays' types.

With explicit mesh axes (the default of `jax.make_mesh`), the type of an array contains the sharding
of each of its axes. Within `jax.shard_map`, the type contains the manual mesh axes over which the
values vary. JAX derives the types of most results, but not of all: for reshaped arrays, for
example, the functions of this module specify the sharding. With automatic mesh axes or on one
device, types contain no sharding, and the functions leave arrays unchanged.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

Array = jax.Array


def sharded_axes(x: Array) -> tuple[bool, ...]:
    """Returns for each axis of x whether it is sharded, according to the type of x."""
    return tuple(map(bool, jax.typeof(x).sharding.spec))


def is_distributed(kind: jax.core.ShapedArray) -> bool:
    """Whether an array of this type (`jax.typeof`) is sharded, or varies over manual mesh axes."""
    return any(kind.sharding.spec) or bool(_varying_axes(kind))


def is_constant(shape: Sequence[Any]) -> bool:
    """Whether all sizes are integers, and none is a symbol of `jax.export.symbolic_shape`."""
    return all(isinstance(n, int) for n in shape)


def match_varying_axes(*arrays: Array) -> tuple[Array, ...]:
    """Makes all arrays vary over every manual mesh axis over which at least one of them varies.

    A custom gradient must return cotangents that vary over the same axes as its arguments. If this
    function is applied first, the arguments all vary over the same axes. JAX itself then sums the
    cotangent of each argument over the axes that this function added to the argument.
    """
    axes = [_varying_axes(jax.typeof(x)) for x in arrays]
    union = frozenset().union(*axes)
    return tuple(_vary(x, union - own) for x, own in zip(arrays, axes, strict=True))


def match_channel_sharding(x: Array, kernel: Array) -> tuple[Array, Array]:
    """Shards both x [..., c] and kernel [..., c] over channels if one of them already is."""
    channels = [jax.typeof(array).sharding.spec[-1] for array in (x, kernel)]
    if channels[0] == channels[1]:
        return x, kernel
    channel = channels[0] or channels[1]
    return _with_channels(x, channel), _with_channels(kernel, channel)


def reshape(x: Array, shape: Sequence[int]) -> Array:
    """Reshapes x; the first and last axes of the result are sharded like those of x.

    JAX cannot derive the sharding of a reshape that merges several axes.
    """
    sharding = jax.typeof(x).sharding
    if not any(sharding.spec):
        return x.reshape(shape)
    first, *_, last = sharding.spec
    spec = PartitionSpec(first, *[None] * (len(shape) - 2), last)
    return lax.reshape(x, shape, out_sharding=NamedSharding(sharding.mesh, spec))


def _with_channels(x: Array, channel: str | tuple[str, ...]) -> Array:
    spec = jax.typeof(x).sharding.spec
    return jax.sharding.reshard(x, PartitionSpec(*spec[:-1], channel))


def _varying_axes(kind: jax.core.ShapedArray) -> frozenset[str]:
    """Returns the manual mesh axes over which an array of this type varies."""
    # The name of the attribute depends on JAX's version.
    found = kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying
    return frozenset(found)


def _vary(x: Array, axes: frozenset[str]) -> Array:
    if not axes:
        return x
    if hasattr(lax, "pcast"):
        return lax.pcast(x, tuple(axes), to="varying")
    return lax.pvary(x, tuple(axes))  # type: ignore[attr-defined]  # in older versions of JAX
