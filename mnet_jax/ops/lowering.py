"""Depthwise convolution in two lowerings: XLA's grouped convolution and the sum over taps.

Each channel is filtered separately, so there is little arithmetic (k x k multiply-adds per output),
and the cost is memory traffic. XLA's grouped convolution is fast on GPUs and TPUs. On CPUs it takes
10 to 100 times as long as the memory traffic, so `ops.shifted` writes out the sum over taps.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnet_jax.ops import choice, shifted
from mnet_jax.ops.distribution import (
    is_constant,
    match_channel_sharding,
    match_varying_axes,
    sharded_axes,
)
from mnet_jax.ops.forward_mode import without_forward_mode
from mnet_jax.ops.shifted import AxisGeometry, Geometry
from mnet_jax.ops.types import Direction, Lowering
from mnet_jax.validation import require

Platforms = tuple[str, ...] | None  # platforms that use shifted, not grouped; None for all
Function = Callable[..., Any]


def convolve_depthwise(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, lowering: Lowering
) -> jax.Array:
    """Applies a depthwise convolution to x [b, h, w, c] with a kernel [kh, kw, c] of x's dtype.

    Raises:
      ValueError: the lowering does not support the sharding of x.
    """
    x, kernel = match_channel_sharding(*match_varying_axes(x, kernel))
    lowering = _possible(x, lowering)
    if lowering == "grouped":
        return _grouped(x, kernel, geometry)
    platforms: dict[Direction, Platforms] = dict.fromkeys(get_args(Direction))
    if lowering == "auto":
        platforms = {way: choice.shifted_platforms(x, geometry, way) for way in platforms}
    x, kernel = without_forward_mode((x, kernel), lowering)
    return _convolve_once(x, kernel, geometry, platforms["forward"], platforms["backward"])


def _possible(x: jax.Array, lowering: Lowering) -> Lowering:
    """Returns `lowering`; "auto" is replaced if the sharding of x allows only one lowering.

    JAX cannot derive the sharding of a grouped convolution's channels. The windows of the shifted
    lowering wrap around the edges of rows and columns, so rows and columns cannot be sharded.

    Raises:
      ValueError: the lowering does not support the sharding of x.
    """
    _, *window, channels = sharded_axes(x)
    if lowering == "auto" and (channels or any(window)):
        lowering = "shifted" if channels else "grouped"
    if lowering == "grouped":
        legal = "not sharded over channels where lowering is grouped"
        require(not channels, "x", jax.typeof(x).sharding.spec, legal)
    if lowering == "shifted":
        legal = "not sharded over rows or columns where lowering is shifted"
        require(not any(window), "x", jax.typeof(x).sharding.spec, legal)
    return lowering


def geometry_of(
    x: jax.Array,
    size: Sequence[int],
    strides: int | Sequence[int],
    padding: str | Sequence[Sequence[int]],
    dilation: int | Sequence[int],
) -> Geometry:
    """Returns the geometry (rows, columns) of a convolution of x with a kernel of `size` (kh, kw).

    Raises:
      ValueError: as `depthwise_conv`.
    """
    known = x.ndim == 4 and is_constant(x.shape[1:])
    require(known and x.size > 0, "x", x.shape, "[b, h, w, c], none of them 0 and only b a symbol")
    require(jnp.issubdtype(x.dtype, jnp.floating), "x", x.dtype, "a floating point dtype")
    steps, gaps = _pair("strides", strides), _pair("dilation", dilation)
    plain = all(s == 1 or d == 1 for s, d in zip(steps, gaps, strict=True))
    require(plain, "dilation", dilation, "1 where the stride is not")
    reach = [d * (k - 1) + 1 for k, d in zip(size, gaps, strict=True)]
    legal = "SAME, VALID or ((top, bottom), (left, right)) of at least 0"
    pads: Sequence[Sequence[int]]
    if isinstance(padding, str):
        require(padding in ("SAME", "VALID"), "padding", padding, legal)
        pads = lax.padtype_to_pads(x.shape[1:3], reach, steps, padding)
    else:
        require(np.shape(padding) == (2, 2) and np.min(padding) >= 0, "padding", padding, legal)
        pads = padding
    axes = []
    for i, (low, high) in enumerate(pads):
        n = x.shape[1 + i]
        output = (n + low + high - reach[i]) // steps[i] + 1
        legal = f"{reach[i] - n} zeros or more for a kernel that reaches over {reach[i]} on {n}"
        require(output >= 1, "padding", padding, legal)
        axes.append(AxisGeometry(n, int(output), size[i], steps[i], int(low), int(high), gaps[i]))
    return axes[0], axes[1]


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Returns the values for rows and columns; one integer stands for both."""
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    legal = "an integer of at least 1, or two"
    require(len(pair) == 2 and all(int(n) == n >= 1 for n in pair), name, value, legal)
    return int(pair[0]), int(pair[1])


def _grouped(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    # Padding wider than the kernel's reach is added beforehand. If the convolution added it, the
    # gradient would have negative padding, and XLA computes grouped convolutions with negative
    # padding wrongly on a CPU.
    reaches = [axis.dilation * (axis.kernel - 1) for axis in geometry]
    pads = [
        (min(axis.low, reach), min(axis.high, reach))
        for axis, reach in zip(geometry, reaches, strict=True)
    ]
    excess = [
        (axis.low - low, axis.high - high) for axis, (low, high) in zip(geometry, pads, strict=True)
    ]
    if any(map(any, excess)):
        x = jnp.pad(x, ((0, 0), *excess, (0, 0)))
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        [axis.stride for axis in geometry],
        pads,
        rhs_dilation=[axis.dilation for axis in geometry],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3],
    )


# One function with custom gradients covers both lowerings, so the forward pass keeps only x and the
# kernel. `platform_dependent` is inside the custom gradients for the same reason: if JAX
# differentiated `platform_dependent`, the forward pass would keep the residuals of both lowerings.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, forward: Platforms, backward: Platforms
) -> jax.Array:
    by_taps = partial(shifted.forward, geometry=geometry)
    return _shifted_on(forward, by_taps, partial(_grouped, geometry=geometry))(x, kernel)


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, forward: Platforms, backward: Platforms
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, geometry, forward, backward), (x, kernel)


def _convolve_backward(
    geometry: Geometry,
    forward: Platforms,
    backward: Platforms,
    residuals: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def grouped(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(partial(_grouped, geometry=geometry), x, kernel)[1](g)

    by_taps = partial(shifted.gradients, geometry=geometry)
    return _shifted_on(backward, by_taps, grouped)(*residuals, g)


def _shifted_on(platforms: Platforms, by_taps: Function, grouped: Function) -> Function:
    """Returns a function that calls `by_taps` on `platforms` (None: on all), else `grouped`."""
    if platforms is None:
        return by_taps
    ways = dict.fromkeys(platforms, by_taps)
    return partial(lax.platform_dependent, **ways, default=grouped) if ways else grouped


_convolve.defvjp(_convolve_forward, _convolve_backward)
# Jitted, so that layers of equal shapes are traced once, and a call outside of any jit is compiled
# as one computation.
_convolve_once = jax.jit(_convolve, static_argnums=(2, 3, 4))
