"""Convolutions fused with the normalization of their input and the statistics of their output.

A layer computes `y = convolve(act(normalize(x)))`, where x is the output of the previous
convolution. It also computes the mean and the variance of y, with which the next layer normalizes
y. In this order a layer can be one pass over memory (`ops.native`). In the usual order
(convolution, normalization, activation) a layer needs several passes.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mnet_jax.ops import choice, native, panels
from mnet_jax.ops.activations import activate
from mnet_jax.ops.forward_mode import without_forward_mode
from mnet_jax.ops.layer import (
    Convolved,
    Finish,
    Layer,
    Pending,
    identity_norm,
    linear,
    with_statistics,
)
from mnet_jax.ops.lowering import geometry_of
from mnet_jax.ops.shifted import Geometry
from mnet_jax.ops.types import Lowering
from mnet_jax.validation import require, require_choice

Array = jax.Array


def pointwise(
    x: Pending,
    kernel: Array,
    *,
    lowering: Lowering = "auto",
    statistics: bool = False,
    finish: Finish | None = None,
) -> Convolved:
    """Applies a 1x1 convolution.

    Args:
      x: input [..., c].
      kernel: [c, n]; with `finish` it may be packed into panels (`pack`). It is cast to x's dtype.
      lowering: as in `depthwise_conv`; "grouped" and "shifted" are XLA's matrix product.
      statistics: whether to compute the mean and the variance of the output.
      finish: bias and activation applied to the output; not together with `statistics`.

    Raises:
      ValueError: shapes disagree.
      NativeError: "native" was requested and is not available.
    """
    if kernel.ndim == 1 and finish:
        panels.require_fit(kernel, x.x.shape[-1], finish.bias.shape[0])
    else:
        _require_kernel(x.x, kernel, ("c", "n"))
    return _convolve(x, kernel, None, lowering, statistics, finish)


def depthwise(
    x: Pending,
    kernel: Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[Sequence[int]] = "SAME",
    dilation: int | Sequence[int] = 1,
    lowering: Lowering = "auto",
    statistics: bool = False,
    finish: Finish | None = None,
) -> Convolved:
    """Applies a depthwise convolution; see `depthwise_conv` for the values of the arguments.

    Args:
      x: input [b, h, w, c].
      kernel: [kh, kw, c]; it is cast to x's dtype.
      strides: of rows and columns.
      padding: applied to the normalized and activated input.
      dilation: of rows and columns.
      lowering: as in `depthwise_conv`.
      statistics: whether to compute the mean and the variance of the output.
      finish: bias and activation applied to the output; not together with `statistics`.
    """
    _require_kernel(x.x, kernel, ("kh", "kw", "c"))
    geometry = geometry_of(x.x, kernel.shape[:2], strides, padding, dilation)
    return _convolve(x, kernel, geometry, lowering, statistics, finish)


def full(
    x: Pending,
    kernel: Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[Sequence[int]] = "SAME",
    dilation: int | Sequence[int] = 1,
    lowering: Lowering = "auto",
    statistics: bool = False,
    finish: Finish | None = None,
) -> Convolved:
    """Applies a full convolution: every output channel reads all input channels.

    Args:
      x: input [b, h, w, c].
      kernel: [kh, kw, c, n]; it is cast to x's dtype.
      strides: of rows and columns.
      padding: as in `depthwise_conv`, applied to the normalized and activated input.
      dilation: of rows and columns.
      lowering: as in `depthwise_conv`; "grouped" and "shifted" are XLA's convolution.
      statistics: whether to compute the mean and the variance of the output.
      finish: bias and activation applied to the output; not together with `statistics`.
    """
    _require_kernel(x.x, kernel, ("kh", "kw", "c", "n"))
    geometry = geometry_of(x.x, kernel.shape[:2], strides, padding, dilation)
    return _convolve(x, kernel, geometry, lowering, statistics, finish)


def depthwise_conv(
    x: Array,
    kernel: Array,
    strides: int | Sequence[int] = (1, 1),
    padding: str | Sequence[Sequence[int]] = "SAME",
    lowering: Lowering = "auto",
    dilation: int | Sequence[int] = (1, 1),
) -> Array:
    """Filters each channel of `x` with its own kernel (V1 paper, arXiv 1704.04861, section 3.1).

    The lowerings are:

    - "grouped": XLA's grouped convolution. It has forward- and reverse-mode derivatives of any
      order.
    - "shifted": a sum over taps in float32 or wider. It has reverse-mode gradients of any order,
      and no forward mode (`jax.jvp`, `jax.jacfwd`, `jax.hessian`).
    - "native": a C++ kernel for a single CPU device, compiled on first use. It supports float32,
      square kernels of 3 and 5, equal strides and no dilation. "shifted" computes everything else,
      and all programs for several devices: XLA would make each device gather the whole batch and
      run the native kernel on the whole batch. Native kernels are compiled for this machine.
      Programs that JAX lowers for another platform or exports (`jax.export`) therefore use the
      lowering that "auto" chooses if no native kernels are available.
    - "auto": the lowering that was measured to be fastest for such shapes on this kind of device
      (`ops.choice`). Without measurements, "auto" is "grouped" on accelerators; on CPUs it is
      "native" if available, else "shifted". "native" is available on a single CPU device if the
      native kernels are compiled already. If "native" is available, "auto" always uses it for a
      supported layer that also normalizes or activates its input or computes statistics. Like
      "shifted", "auto" and "native" have no forward mode.

    Args:
      x: `[b, h, w, c]`, floating point.
      kernel: `[kh, kw, c]` (channel multiplier 1); it is cast to x's dtype.
      strides: of rows and columns; one integer stands for both.
      padding: "SAME", "VALID", or the numbers of zeros ((top, bottom), (left, right)).
      lowering: how the convolution is computed.
      dilation: distance of neighbouring taps in rows and columns; more than 1 needs stride 1.

    Returns:
      `[b, h', w', c]` in x's dtype.

    Raises:
      ValueError: an argument is not as above, shapes disagree, the output would be empty, or x is
        sharded explicitly over channels ("grouped") or over rows or columns ("shifted").
      NativeError: "native" cannot be compiled here. (The class is a RuntimeError.)
      TypeError: the result is differentiated in forward mode, which only "grouped" has.
    """
    return depthwise(
        Pending(x=x), kernel, strides=strides, padding=padding, dilation=dilation, lowering=lowering
    ).y


def _require_kernel(x: Array, kernel: Array, axes: Sequence[str]) -> None:
    """Requires the kernel to have the named axes, with c equal to the channels of x."""
    legal = f"[{', '.join(axes)}], none of them 0, and c the {x.shape[-1]} channels of x"
    named = dict(zip(axes, kernel.shape, strict=False))
    fits = kernel.ndim == len(axes) and named["c"] == x.shape[-1] and kernel.size > 0
    require(fits, "kernel", kernel.shape, legal)


def _convolve(
    x: Pending,
    kernel: Array,
    geometry: Geometry | None,
    lowering: Lowering,
    statistics: bool,
    finish: Finish | None,
) -> Convolved:
    require_choice("lowering", lowering, Lowering)
    require(not (statistics and finish), "finish", finish, "None where statistics are wanted")
    kernel = kernel.astype(x.x.dtype)
    if not native.activates(x.activation):
        x = Pending(x=x.value())
    layer = Layer(x.activation, geometry, statistics)
    if not uses_native(x, kernel, layer, lowering, alone=finish is None):
        if finish and kernel.ndim == 1:
            kernel = panels.unpack(kernel, x.x.shape[-1], finish.bias.shape[0])
        y = linear(x.value(), kernel, layer, "shifted" if lowering == "native" else lowering)
        if finish:
            return Convolved(finish.of(y))
        return with_statistics(y) if statistics else Convolved(y)
    x, kernel, finish = without_forward_mode((x, kernel, finish), lowering)
    if finish:
        within = finish.activation if native.activates(finish.activation) else "linear"
        layer = dataclasses.replace(layer, activation=within)
        y = native.finish(layer, x.value(), kernel, finish.bias)
        return Convolved(y if within == finish.activation else activate(y, finish.activation))
    norm = identity_norm(x.x.shape[-1]) if x.norm is None else x.norm
    outputs = native.convolve(layer, x.x, norm.astype(jnp.float32), kernel)
    return Convolved(*outputs) if statistics else Convolved(outputs[0])


def uses_native(
    x: Pending, kernel: Array, layer: Layer, lowering: Lowering, *, alone: bool
) -> bool:
    """Returns whether the native kernels compute a layer.

    Args:
      x: input of the layer.
      kernel: as in `pointwise`, `depthwise` and `full`.
      layer: the static properties of the layer.
      lowering: as in `depthwise_conv`.
      alone: whether no bias and activation follow (argument `finish` of `pointwise`).
    """
    fits = x.x.dtype == jnp.float32 and native.supports(kernel, layer.geometry)
    if lowering == "native" and _is_single_cpu():
        native.build()
        return fits
    if lowering != "auto" or not fits or not _is_single_cpu() or not native.is_built():
        return False
    if layer.geometry is None or kernel.ndim == 4:
        return True
    # The other lowerings normalize, activate and compute statistics in further passes over memory.
    alone = alone and x.norm is None and x.activation == "linear" and not layer.statistics
    return not alone or choice.native_is_fastest(x.x, layer.geometry)


def reads_panels(dtype: jnp.dtype, lowering: Lowering) -> bool:
    """Returns whether pointwise convolutions of this dtype run natively.

    If so, their kernels should be packed (`panels.pack`).
    """
    layer = Layer("linear", None, statistics=False)
    x, kernel = Pending(x=jnp.zeros((1, 1), dtype)), jnp.zeros((1, 1), dtype)
    return uses_native(x, kernel, layer, lowering, alone=False)


def best_lowering() -> Lowering:
    """Returns "native" if the native kernels can run in this process, else "auto".

    On a single CPU device the function compiles the native kernels; the lowering "auto" never
    compiles them. If the kernels cannot be compiled or loaded, the function warns once and returns
    "auto".
    """
    if not _is_single_cpu():
        return "auto"
    try:
        native.build()
    except native.NativeError as error:
        native.say_unavailable(str(error))
        return "auto"
    return "native"


def _is_single_cpu() -> bool:
    """Whether this process has a single CPU device, which the native kernels require."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1
