"""Depthwise convolution: one meaning, two lowerings.

Each channel is filtered alone, so the arithmetic is small (k x k multiply-adds an output) and the
cost is memory. XLA's grouped convolution is good on GPUs and TPUs and 10 to 100 times slower than
memory on CPUs, where `ops.shifted` writes the sum over taps out.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnet_jax.ops import shifted
from mnet_jax.ops.shifted import Axis, Geometry
from mnet_jax.validation import require, require_choice

Lowering = Literal["auto", "grouped", "shifted"]


def depthwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | Sequence[int] = (1, 1),
    padding: str | Sequence[Sequence[int]] = "SAME",
    lowering: Lowering = "auto",
) -> jax.Array:
    """Filters each channel of `x` with its own kernel (V1 paper, arXiv 1704.04861, section 3.1).

    Args:
      x: `[b, h, w, c]`, floating point.
      kernel: `[kh, kw, c]` (channel multiplier 1); it is cast to x's dtype.
      strides: of rows and columns; one integer stands for both.
      padding: "SAME", "VALID", or the zeros ((top, bottom), (left, right)).
      lowering: "grouped" is XLA's grouped convolution, with every derivative. "shifted" is the sum
        over taps; it adds them in float32 or wider whatever x's dtype, and has reverse-mode
        gradients only (of any order). "auto" is "shifted" where the computation is lowered for a
        CPU and "grouped" elsewhere, reverse mode only everywhere.

    Returns:
      `[b, h', w', c]` in x's dtype.

    Raises:
      ValueError: an argument is not as above, shapes disagree, or the output would be empty.
    """
    geometry = _geometry(x, kernel, strides, padding)
    require_choice("lowering", lowering, Lowering)
    kernel = kernel.astype(x.dtype)
    if lowering == "grouped":
        return _grouped(x, kernel, geometry)
    return _convolve_once(x, kernel, geometry, lowering)


def _geometry(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | Sequence[int],
    padding: str | Sequence[Sequence[int]],
) -> Geometry:
    require(x.ndim == 4 and x.size > 0, "x", x.shape, "[b, h, w, c], none of them 0")
    require(jnp.issubdtype(x.dtype, jnp.floating), "x", x.dtype, "a floating point dtype")
    require(kernel.ndim == 3 and kernel.size > 0, "kernel", kernel.shape, "[kh, kw, c], none 0")
    require(kernel.shape[2] == x.shape[3], "kernel", kernel.shape, f"{x.shape[3]} channels, as x")
    pair = tuple(strides) if isinstance(strides, Sequence) else (strides, strides)
    legal = "an integer of at least 1, or two"
    require(len(pair) == 2 and all(int(s) == s >= 1 for s in pair), "strides", strides, legal)
    legal = "SAME, VALID or ((top, bottom), (left, right)) of at least 0"
    pads: Sequence[Sequence[int]]
    if isinstance(padding, str):
        require(padding in ("SAME", "VALID"), "padding", padding, legal)
        pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], pair, padding)
    else:
        require(np.shape(padding) == (2, 2) and np.min(padding) >= 0, "padding", padding, legal)
        pads = padding
    axes = []
    for n, k, s, (low, high) in zip(x.shape[1:3], kernel.shape[:2], pair, pads, strict=True):
        output = (n + low + high - k) // s + 1
        require(
            output >= 1, "padding", padding, f"{k - n} zeros or more for a kernel of {k} on {n}"
        )
        axes.append(Axis(n, int(output), k, int(s), int(low), int(high)))
    return axes[0], axes[1]


def _grouped(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    # Zeros that the kernel does not fit over go in beforehand. As padding of the convolution they
    # become negative padding in its gradient, which XLA gets wrong for groups on a CPU.
    pads = [(min(axis.low, axis.kernel - 1), min(axis.high, axis.kernel - 1)) for axis in geometry]
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
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3],
    )


# Both gradients below are rules of one function, so that x and the kernel are all that the forward
# pass keeps. `platform_dependent` is inside of the rules for the same reason: differentiated from
# outside, a choice between two lowerings keeps what either of them wants.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry, lowering: Lowering) -> jax.Array:
    if lowering == "shifted":
        return shifted.forward(x, kernel, geometry)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(shifted.forward, geometry=geometry),
        default=partial(_grouped, geometry=geometry),
    )


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, lowering: Lowering
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, geometry, lowering), (x, kernel)


def _convolve_backward(
    geometry: Geometry,
    lowering: Lowering,
    residuals: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def grouped(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(partial(_grouped, geometry=geometry), x, kernel)[1](g)

    by_taps = partial(shifted.gradients, geometry=geometry)
    if lowering == "shifted":
        return by_taps(*residuals, g)
    return lax.platform_dependent(*residuals, g, cpu=by_taps, default=grouped)


_convolve.defvjp(_convolve_forward, _convolve_backward)
# Traced once a shape however many layers share it, and one computation outside of a jit too.
_convolve_once = jax.jit(_convolve, static_argnums=(2, 3))
