"""The convolutions of a network's layers: normalized on the way in, measured on the way out.

Every layer is `y = convolve(act(normalize(x)))`, where x is what the layer before left, followed by
the mean and the variance that y will be normalized by. That way round, and not as convolution,
normalization, activation, a layer can be one pass over memory (`ops.native`).
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mnet_jax.ops import choice, native, panels
from mnet_jax.ops.layer import Convolved, Layer, linear, measured
from mnet_jax.ops.lowering import geometry_of
from mnet_jax.ops.pending import Finish, Pending, identity_norm
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
    """A 1x1 convolution.

    Args:
      x: of [..., c].
      kernel: [c, n], or its panels (`pack`) where there is a `finish`; it is cast to x's dtype.
      lowering: as `depthwise`; those that are not native are one, XLA's matrix product.
      statistics: whether mean and variance are wanted.
      finish: what is done to y, where they are not.

    Raises:
      ValueError: shapes disagree.
      NativeError: `native` was asked for and cannot be had.
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
    """A depthwise convolution; see `depthwise_conv`, of whose arguments these are.

    Args:
      x: of [b, h, w, c].
      kernel: [kh, kw, c].
      strides: of rows and columns.
      padding: of the normalized, activated map.
      dilation: of rows and columns.
      lowering: as `depthwise_conv`.
      statistics: whether mean and variance are wanted.
      finish: what is done to y, where they are not.
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
    """A convolution that mixes all channels.

    Args:
      x: of [b, h, w, c].
      kernel: [kh, kw, c, n]; it is cast to x's dtype.
      strides: of rows and columns.
      padding: as `depthwise_conv`, of the normalized, activated map.
      dilation: of rows and columns.
      lowering: as `depthwise_conv`; those that are not native are one, XLA's convolution.
      statistics: whether mean and variance are wanted.
      finish: what is done to y, where they are not.
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

    Args:
      x: `[b, h, w, c]`, floating point.
      kernel: `[kh, kw, c]` (channel multiplier 1); it is cast to x's dtype.
      strides: of rows and columns; one integer stands for both.
      padding: "SAME", "VALID", or the zeros ((top, bottom), (left, right)).
      lowering: "grouped" is XLA's grouped convolution, with every derivative. "shifted" is the sum
        over taps; it adds them in float32 or wider whatever x's dtype, and has reverse-mode
        gradients only (of any order). "native" is a kernel in C++ for CPUs, compiled when it is
        first asked for; it is for float32, square kernels of 3 and 5 and no dilation, and
        "shifted" for the rest, on other devices and on several, as XLA would have each of these
        gather and compute the whole batch. Where a program is lowered for another platform or by
        `jax.export` it is "auto" without the kernels, as these are of this machine. "auto" is what
        was measured to be fastest on the device for such shapes (`ops.choice`), and where nothing
        was measured "grouped", on CPUs "shifted"; it is "native" only on a single CPU device where
        that is compiled already, and there always if the input is normalized or activated or the
        statistics are wanted. It is reverse mode only everywhere.
      dilation: distance of neighbouring taps, of rows and columns; more than 1 needs stride 1.

    Returns:
      `[b, h', w', c]` in x's dtype.

    Raises:
      ValueError: an argument is not as above, shapes disagree, the output would be empty, or x is
        sharded explicitly over channels ("grouped") or over rows or columns ("shifted").
      NativeError: "native" cannot be compiled here; RuntimeError's.
    """
    return depthwise(
        Pending(x=x), kernel, strides=strides, padding=padding, dilation=dilation, lowering=lowering
    ).y


def _require_kernel(x: Array, kernel: Array, axes: Sequence[str]) -> None:
    """That the kernel's axes are as named, one of them the channels of x."""
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
    layer = Layer(x.activation, geometry, statistics)
    if not uses_native(x, kernel, layer, lowering, alone=finish is None):
        if finish and kernel.ndim == 1:
            kernel = panels.unpack(kernel, x.x.shape[-1], finish.bias.shape[0])
        y = linear(x.value(), kernel, layer, "shifted" if lowering == "native" else lowering)
        if finish:
            return Convolved(finish.of(y))
        return measured(y) if statistics else Convolved(y)
    if finish:
        layer = dataclasses.replace(layer, activation=finish.activation)
        return Convolved(native.finish(layer, x.value(), kernel, finish.bias))
    norm = identity_norm(x.x.shape[-1]) if x.norm is None else x.norm
    outputs = native.convolve(layer, x.x, norm.astype(jnp.float32), kernel)
    return Convolved(*outputs) if statistics else Convolved(outputs[0])


def uses_native(
    x: Pending, kernel: Array, layer: Layer, lowering: Lowering, *, alone: bool
) -> bool:
    """Whether the native kernels compute a layer; `alone` if nothing is done on the way out."""
    fits = x.x.dtype == jnp.float32 and native.supports(kernel, layer.geometry)
    if lowering == "native" and _is_single_cpu():
        native.build()
        return fits
    if lowering != "auto" or not fits or not _is_single_cpu() or not native.is_built():
        return False
    if layer.geometry is None or kernel.ndim == 4:
        return True
    # The others take further passes over memory for what is around a convolution.
    alone = alone and x.norm is None and x.activation == "linear" and not layer.statistics
    return not alone or choice.native_is_fastest(x.x, layer.geometry)


def reads_panels(dtype: jnp.dtype, lowering: Lowering) -> bool:
    """Whether a pointwise convolution of this type is faster with its kernel in panels."""
    layer = Layer("linear", None, statistics=False)
    x, kernel = Pending(x=jnp.zeros((1, 1), dtype)), jnp.zeros((1, 1), dtype)
    return uses_native(x, kernel, layer, lowering, alone=False)


def best_lowering() -> Lowering:
    """What is fastest on the devices of this process, the native kernels compiled if they can be.

    `auto` does not compile anything, as a library should not; a program may ask for this. Where
    they cannot be compiled or loaded it says so once.
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
    """Whether native kernels may run: they are for CPUs and cannot be split over devices."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1
