"""The kernels as functions of JAX arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax.architectures.spec import Activation
from mnet_jax.ops.layer import Operands
from mnet_jax.ops.shifted import Geometry

Array = jax.Array
Outputs = tuple[Array, Array, Array]

_ACTIVATIONS = {None: -1, "linear": 0, "relu": 1, "relu6": 2, "hard_swish": 3}
_KINDS = {1: "pointwise", 2: "pointwise", 3: "depthwise", 4: "full"}  # by a kernel's axes
DEPTHWISE_SIZES = (3, 5)


def supports(kernel: Array, geometry: Geometry | None) -> bool:
    """Whether there is a function in C++ for a layer."""
    if geometry is None:
        return True
    rows, columns = geometry
    plain = rows.stride == columns.stride and rows.dilation == columns.dilation == 1
    square = rows.kernel == columns.kernel
    return plain and (kernel.ndim == 4 or (square and rows.kernel in DEPTHWISE_SIZES))


def forward(
    x: Array,
    norm: Array,
    kernel: Array,
    *,
    activation: Activation,
    geometry: Geometry | None,
    statistics: bool,
) -> Outputs:
    """The convolution of `z = act((x - mean) * scale + bias)`.

    Args:
      x: float32 [..., c]; [b, h, w, c] if not pointwise.
      norm: float32 [3, c]: mean, scale, bias.
      kernel: float32: pointwise [c, n], depthwise [k, k, c] or full [kh, kw, c, n].
      activation: act.
      geometry: of one that `supports`; None for a pointwise convolution.
      statistics: whether the last two results are wanted; they are empty otherwise.

    Returns:
      y [..., n], and its mean and biased variance over all axes but the last, [n] each.
    """
    outputs, bias = kernel.shape[-1], jnp.zeros(0, jnp.float32)
    return _forward(x, norm, kernel, bias, outputs, geometry, statistics, activation, None)


def finish(
    x: Array,
    kernel: Array,
    bias: Array,
    *,
    activation: Activation,
    geometry: Geometry | None,
) -> Array:
    """`act(convolution of x + bias)`, of shapes as `forward`; bias is float32 [n].

    A pointwise kernel may be panels, as `panels.pack` makes them.
    """
    norm = jnp.zeros((3, 0), jnp.float32)
    outputs = bias.shape[0]
    return _forward(x, norm, kernel, bias, outputs, geometry, False, None, activation)[0]


def invert(
    operands: Operands,
    *,
    activations: tuple[Activation, Activation, Activation],
    geometry: Geometry,
) -> Array:
    """Expansion, depthwise convolution and projection, each with a bias and an activation.

    Args:
      operands: float32; the pointwise kernels are panels, as `panels.pack` makes them.
      activations: of the three.
      geometry: of the depthwise convolution, one that `supports`.

    Returns:
      [b, h', w', n].
    """
    images, outputs = operands.x.shape[0], operands.project_bias.shape[0]
    shape = _f32(images, *(axis.output for axis in geometry), outputs)
    call = jax.ffi.ffi_call("mnet_inverted_forward", shape, vmap_method="sequential")
    widen, between, narrow = activations
    return call(
        *operands,
        expand_act=np.int64(_ACTIVATIONS[widen]),
        project_act=np.int64(_ACTIVATIONS[narrow]),
        **_attributes(between, geometry),
    )


def _forward(
    x: Array,
    norm: Array,
    kernel: Array,
    bias: Array,
    outputs: int,
    geometry: Geometry | None,
    statistics: bool,
    before: Activation | None,
    after: Activation | None,
) -> Outputs:
    shape: tuple[int, ...] = (*x.shape[:-1], outputs)
    if geometry:
        shape = (x.shape[0], *(axis.output for axis in geometry), outputs)
    channels = _f32(outputs if statistics else 0)  # no kernel writes what nobody wants
    call = _call("forward", kernel, (_f32(*shape), channels, channels))
    return call(
        x,
        norm,
        kernel,
        bias,
        statistics=np.bool_(statistics),
        after=np.int64(_ACTIVATIONS[after]),
        **_attributes(before, geometry),
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
    input_gradient: bool,
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
      input_gradient: whether the first two are wanted; they are empty otherwise, which only a full
        convolution can have.
    """
    attributes = _attributes(activation, geometry)
    shapes = [_f32(*x.shape), _f32(*norm.shape), _f32(*kernel.shape)]
    if kernel.ndim == 4:
        attributes["input_gradient"] = np.bool_(input_gradient)
        shapes[:2] = shapes[:2] if input_gradient else [_f32(0), _f32(0)]
    call = _call("backward", kernel, tuple(shapes))
    return call(x, norm, kernel, gradient, y, pull, **attributes)


def _call(direction: str, kernel: Array, shapes: tuple) -> Any:
    name = f"mnet_{_KINDS[kernel.ndim]}_{direction}"
    return jax.ffi.ffi_call(name, shapes, vmap_method="sequential")


def _f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _attributes(activation: Activation | None, geometry: Geometry | None) -> dict[str, np.generic]:
    attributes: dict[str, np.generic] = {"act": np.int64(_ACTIVATIONS[activation])}
    if geometry:
        rows, columns = geometry
        attributes |= {
            "stride": np.int64(rows.stride),
            "top": np.int64(rows.low),
            "left": np.int64(columns.low),
        }
    return attributes
