"""The kernels as functions of JAX arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax.architectures.spec import Activation
from mnet_jax.ops.shifted import Geometry

Array = jax.Array
Outputs = tuple[Array, Array, Array]

_ACTIVATIONS = {"linear": 0, "relu": 1, "relu6": 2, "hard_swish": 3}
KERNEL_SIZES = (3, 5)  # of a depthwise convolution


def supports(geometry: Geometry) -> bool:
    """Whether there is a depthwise kernel for it."""
    rows, columns = geometry
    square = (rows.kernel, rows.stride) == (columns.kernel, columns.stride)
    plain = rows.dilation == columns.dilation == 1
    return square and plain and rows.kernel in KERNEL_SIZES


def forward(
    x: Array,
    norm: Array,
    kernel: Array,
    *,
    activation: Activation,
    geometry: Geometry | None,
    statistics: bool,
) -> Outputs:
    """The convolution of `act((x - mean) * scale + bias)`.

    Args:
      x: float32 [..., c]; [b, h, w, c] if depthwise.
      norm: float32 [3, c]: mean, scale, bias.
      kernel: float32 [c, n], or depthwise [k, k, c].
      activation: act.
      geometry: of a depthwise convolution that is `supported`; None for a pointwise one.
      statistics: whether the last two results are wanted; they are undefined otherwise.

    Returns:
      y [..., n], and its mean and biased variance over all axes but the last, [n] each.
    """
    shape: tuple[int, ...] = (*x.shape[:-1], kernel.shape[-1])
    if geometry:
        shape = (x.shape[0], *(axis.output for axis in geometry), x.shape[-1])
    channels = _f32(shape[-1])
    call = _call("forward", geometry, (_f32(*shape), channels, channels))
    return call(
        x, norm, kernel, statistics=np.bool_(statistics), **_attributes(activation, geometry)
    )


def backward(
    x: Array,
    norm: Array,
    kernel: Array,
    gradient: Array,
    y: Array,
    pull: Array,
    *,
    activation: Activation,
    geometry: Geometry | None,
) -> Outputs:
    """The gradients of x, norm and kernel, given `gradient + a + b * (y - mean)` as that of y.

    Args:
      x: as `forward`.
      norm: as `forward`.
      kernel: as `forward`.
      gradient: shaped as y.
      y: what `forward` returned.
      pull: float32 [3, n]: mean, a, b.
      activation: as `forward`.
      geometry: as `forward`.
    """
    shapes = (_f32(*x.shape), _f32(*norm.shape), _f32(*kernel.shape))
    call = _call("backward", geometry, shapes)
    return call(x, norm, kernel, gradient, y, pull, **_attributes(activation, geometry))


def _call(direction: str, geometry: Geometry | None, shapes: tuple) -> Any:
    kind = "depthwise" if geometry else "pointwise"
    return jax.ffi.ffi_call(f"mnet_{kind}_{direction}", shapes, vmap_method="sequential")


def _f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _attributes(activation: Activation, geometry: Geometry | None) -> dict[str, np.generic]:
    attributes: dict[str, np.generic] = {"act": np.int64(_ACTIVATIONS[activation])}
    if geometry:
        rows, columns = geometry
        attributes |= {
            "stride": np.int64(rows.stride),
            "top": np.int64(rows.low),
            "left": np.int64(columns.low),
        }
    return attributes
