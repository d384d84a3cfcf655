"""How arrays lie on several devices, as far as JAX's types say so.

On the explicit axes of a mesh (`jax.make_mesh`'s default) an array's type says over which of them
each of its own axes is sharded, and in `jax.shard_map` over which manual axes its values vary. What
JAX cannot derive of either has to be said. On automatic axes and on one device types say nothing,
and every function here returns what it is given.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

Array = jax.Array


def sharded_axes(x: Array) -> tuple[bool, ...]:
    """Of each axis of x, whether its type says that it is sharded."""
    return tuple(map(bool, jax.typeof(x).sharding.spec))


def is_distributed(kind: jax.core.ShapedArray) -> bool:
    """Whether the type of an array (`jax.typeof`) says anything of several devices."""
    return any(kind.sharding.spec) or bool(_varying_axes(kind))


def is_constant(shape: Sequence[Any]) -> bool:
    """Whether all sizes are known, none a symbol of `jax.export.symbolic_shape`."""
    return all(isinstance(n, int) for n in shape)


def alike(*arrays: Array) -> tuple[Array, ...]:
    """The arrays, each varying over all manual axes that any of them varies over.

    A custom gradient has to return a cotangent that varies exactly as its argument does. With this
    before it they all vary alike, and JAX itself sums the cotangents of those that did not.
    """
    axes = [_varying_axes(jax.typeof(x)) for x in arrays]
    union = frozenset().union(*axes)
    return tuple(_vary(x, union - own) for x, own in zip(arrays, axes, strict=True))


def alike_in_channels(x: Array, kernel: Array) -> tuple[Array, Array]:
    """x [..., c] and kernel [..., c], both sharded over channels if either is."""
    channels = [jax.typeof(array).sharding.spec[-1] for array in (x, kernel)]
    if channels[0] == channels[1]:
        return x, kernel
    channel = channels[0] or channels[1]
    return _with_channels(x, channel), _with_channels(kernel, channel)


def reshape(x: Array, shape: Sequence[int]) -> Array:
    """x of another shape, if sharded then over its first and last axes only, and so is the result.

    JAX does not derive this where several axes merge.
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
    """The manual axes that an array varies over; newer versions of JAX have them elsewhere."""
    found = kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying
    return frozenset(found)


def _vary(x: Array, axes: frozenset[str]) -> Array:
    if not axes:
        return x
    if hasattr(lax, "pcast"):
        return lax.pcast(x, tuple(axes), to="varying")
    return lax.pvary(x, tuple(axes))  # type: ignore[attr-defined]  # of older versions of JAX
