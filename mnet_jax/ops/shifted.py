"""Depthwise convolution as a sum over taps, and its gradients, with little memory traffic.

    y[o] = sum over i of  x[s o + i - low] k[i]

Here s is the stride, k the kernel, and `low` the number of zeros before x. XLA fuses the sum into
one loop over the output. Three choices keep that loop fast:

- No padded copy. Each tap reads a *circular* view of x (`_window`), so every read is in bounds. A
  select with a constant mask drops the values that wrapped around. A pad inside the fusion would
  put a branch into the innermost loop; a pad outside would write and read all of x once more.
- The input gradient of a strided convolution is computed by phases. A phase consists of the input
  positions with equal remainder modulo the stride; all of them use the same taps. The phases are
  axes of a broadcast product, without a scatter and without zeros between the rows.
- The kernel gradient sums blocks of positions inside the loop, for all taps in one fusion. A plain
  reduction then adds these block sums for each tap and channel. The tap is an axis of the output:
  the overlapping windows are one reshape of a repeated array (`_windows`).

A dilated convolution is computed as a plain convolution of each phase of x. Here a phase consists
of the positions with equal remainder modulo the dilation. No window mixes phases, so each phase
becomes a separate image in the batch.

No code loops over the batch or slices it, so an array that is sharded over the batch is not moved.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnet_jax.ops.distribution import reshape, sharded_axes

Pair = tuple[int, int]

# Number of positions in one partial sum of the kernel gradient. A smaller number gives more partial
# sums. With a larger one, LLVM does not optimize the loop: at 16 some shapes take 10 times as long,
# at 28 most shapes do.
_BLOCK = 14


class AxisGeometry(NamedTuple):
    """The geometry of a convolution's rows or columns. At least one of stride and dilation is 1.

    Attributes:
      input: size of the input.
      output: size of the output.
      kernel: size of the kernel.
      stride: step between the windows of neighbouring outputs.
      low: number of zeros before the input.
      high: number of zeros after the input.
      dilation: distance of neighbouring taps.
    """

    input: int
    output: int
    kernel: int
    stride: int
    low: int
    high: int
    dilation: int = 1

    @property
    def taps(self) -> range:
        """The taps that read the input for at least one output; the others read only padding.

        For a 3x3 kernel on a 1x1 image, this is one tap.
        """
        first = self.low - self.stride * (self.output - 1)  # reads position 0 for the last output
        taps = range(max(0, first), min(self.kernel, self.input + self.low))
        return taps or range(1)

    def inside(self, tap: int) -> np.ndarray:
        """Returns a mask [output]: where the tap reads the input, and not the zeros around it."""
        position = self.stride * np.arange(self.output) + tap - self.low
        return (position >= 0) & (position < self.input)


Geometry = tuple[AxisGeometry, AxisGeometry]


@jax.custom_vjp
def _materialized(x: jax.Array, witness: jax.Array) -> jax.Array:
    """Returns x unchanged, and makes XLA store x in memory before the taps read it.

    Otherwise XLA's CPU compiler would compute x again, by fusion, for each tap. The compiler
    removes optimization barriers before fusion, but does not fuse across a loop. The loop here
    works in x's own memory, and never iterates: its condition is that an element of `witness`
    [kh, kw, c] is both above and below zero. XLA does not know that this is always false.
    """
    w = witness[0, 0, 0]
    return lax.while_loop(lambda _: (w > 0) & (w < 0), lax.neg, x)


_materialized.defvjp(
    lambda x, witness: (_materialized(x, witness), witness),
    lambda witness, g: (g, jnp.zeros_like(witness)),
)


def _wide(x: jax.Array) -> jax.Array:
    """Casts x to the dtype of the sums, float32 or wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _repeat(x: jax.Array, axis: int, start: int, stop: int) -> jax.Array:
    """Returns `out[p] = x[(start + p) mod n]` along `axis`; if XLA fuses it, nothing is copied."""
    shape, copies = x.shape, -(-stop // x.shape[axis])
    if copies > 1:
        x = jnp.broadcast_to(jnp.expand_dims(x, axis), (*shape[:axis], copies, *shape[axis:]))
        x = reshape(x, (*shape[:axis], copies * shape[axis], *shape[axis + 1 :]))
    return lax.slice_in_dim(x, start, stop, axis=axis)


def _window(x: jax.Array, axis: int, start: int, size: int, stride: int = 1) -> jax.Array:
    """Returns `out[o] = x[(start + stride o) mod n]` along `axis`, for `size` positions o."""
    start, span = start % x.shape[axis], stride * (size - 1) + 1
    return lax.slice_in_dim(_repeat(x, axis, start, start + span), 0, span, stride, axis=axis)


def _windows(x: jax.Array, axis: int, lines: AxisGeometry, size: int) -> jax.Array:
    """Returns the windows of all taps i: `out[i, o] = x[(stride o + taps[i] - low) mod n]`.

    `stride`, `taps` and `low` are those of `lines`. The axes i and o replace `axis`.
    """
    n, count, span = lines.input, len(lines.taps), lines.stride * (size - 1) + 1
    start = (lines.taps[0] - lines.low) % n
    # Each piece begins one position later than the piece before it, as each length is 1 modulo n.
    length = -(-(span - 1) // n) * n + 1
    x = _repeat(x, axis, start, start + count * length)
    x = reshape(x, (*x.shape[:axis], count, length, *x.shape[axis + 1 :]))
    return lax.slice_in_dim(x, 0, span, lines.stride, axis=axis + 1)


def _keep(x: jax.Array, mask: np.ndarray) -> jax.Array:
    """Returns x where the mask is true, else 0. (A product with the mask would propagate NaN.)"""
    return x if mask.all() else jnp.where(np.expand_dims(mask, (*range(x.ndim - mask.ndim),)), x, 0)


def forward(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Computes `y[o] = sum over i of x[s o + d i - low] k[i]` with stride s and dilation d.

    Args:
      x: `[b, h, w, c]`.
      kernel: `[kh, kw, c]`.
      geometry: rows and columns of the convolution, with s, d and `low`.

    Returns:
      `[b, h', w', c]` in x's dtype.
    """
    if _is_dilated(geometry):
        y = forward(_split(x, geometry, _input_span), kernel, _of_phases(geometry))
        return _join(y, geometry, [(0, axis.output) for axis in geometry])
    rows, columns = geometry
    inputs, filters = _wide(x), _wide(kernel)
    y = jnp.zeros((), inputs.dtype)
    for i in rows.taps:
        line = jnp.zeros((), inputs.dtype)
        window = _window(inputs, 1, i - rows.low, rows.output, rows.stride)
        for j in columns.taps:
            tap = _window(window, 2, j - columns.low, columns.output, columns.stride)
            line += _keep(tap, columns.inside(j)[:, None]) * filters[i, j][None, None, None]
        y += _keep(line, rows.inside(i)[:, None, None])
    return y.astype(x.dtype)


def gradients(
    x: jax.Array, kernel: jax.Array, g: jax.Array, geometry: Geometry
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of x and of the kernel from the gradient g of the output."""
    if _is_dilated(geometry):
        x_phases, g_phases = _split(x, geometry, _input_span), _split(g, geometry, _output_span)
        dx, dk = gradients(x_phases, kernel, g_phases, _of_phases(geometry))
        return _join(dx, geometry, [(axis.low, axis.input) for axis in geometry]), dk
    if not any(sharded_axes(kernel)):  # a sharded kernel's first element is not on every device
        g = _materialized(g, kernel)
    return _input_gradient(kernel, g, geometry), _kernel_gradient(x, g, geometry)


def _input_gradient(kernel: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """Computes the gradient of the input, `dx[s q + r] = sum over m of g[q - m] k[s m + r + low]`.

    Here s is the stride, g the gradient of the output, k the kernel, and `low` the padding before
    the input. Each phase r < s uses every s-th tap of the kernel. Phases with fewer taps than
    others get additional taps of zero, so that all phases have the same shape. If the stride is
    above 1, a NaN in g may therefore spread one position too far. This does not matter, since a
    gradient with NaN is useless anyway.
    """
    rows, columns = geometry
    gradients, filters = _wide(g), _wide(kernel)
    first = []  # the smallest m, of rows and of columns
    for axis, lines in enumerate(geometry):
        first.append((lines.taps[0] - lines.low) // lines.stride)
        last = (lines.taps[-1] - lines.low) // lines.stride
        filters = lax.slice_in_dim(filters, lines.taps[0], lines.taps[-1] + 1, axis=2 * axis)
        before = lines.taps[0] - lines.low - lines.stride * first[axis]
        after = lines.stride * (last + 1 - first[axis]) - before - len(lines.taps)
        pads = [(0, 0)] * filters.ndim
        pads[2 * axis] = (before, after)
        shape = (last + 1 - first[axis], lines.stride)
        filters = jnp.pad(filters, pads)
        filters = reshape(
            filters, (*filters.shape[: 2 * axis], *shape, *filters.shape[2 * axis + 1 :])
        )
    high, wide = (-(-lines.input // lines.stride) for lines in geometry)
    dx = jnp.zeros((), gradients.dtype)
    for i in range(filters.shape[0]):
        start = -first[0] - i
        line = jnp.zeros((), gradients.dtype)
        window = _window(gradients, 1, start, high)
        for j in range(filters.shape[2]):
            left = -first[1] - j
            tap = _keep(
                _window(window, 2, left, wide), _inside(left, wide, columns.output)[:, None]
            )
            line += tap[:, :, None, :, None] * filters[i, :, j][None, None, :, None]
        dx += _keep(line, _inside(start, high, rows.output)[:, None, None, None, None])
    dx = reshape(dx, (g.shape[0], high * rows.stride, wide * columns.stride, g.shape[3]))
    return dx[:, : rows.input, : columns.input].astype(g.dtype)


def _inside(start: int, size: int, n: int) -> np.ndarray:
    position = start + np.arange(size)
    return (position >= 0) & (position < n)


def _kernel_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
    """Computes the kernel gradient `[kh, kw, c]`, `dk[i] = sum over o of x[s o + i - low] g[o]`."""
    rows, columns = geometry
    wide, across = _block(columns.output, _BLOCK)
    high, down = _block(rows.output, _BLOCK // wide)
    # Axes after the transpositions: row and column in a block, image, row and column of blocks, row
    # and column of taps, channel.
    b, c = x.shape[0], x.shape[3]
    windows = _windows(_windows(_wide(x), 2, columns, wide * across), 1, rows, high * down)
    windows = reshape(windows, (b, len(rows.taps), down, high, len(columns.taps), across, wide, c))
    windows = windows.transpose(3, 6, 0, 2, 5, 1, 4, 7)
    # The last blocks are padded with zeros.
    rest = (high * down - rows.output, wide * across - columns.output)
    gradients = jnp.pad(_wide(g), ((0, 0), (0, rest[0]), (0, rest[1]), (0, 0)))
    gradients = reshape(gradients, (b, down, high, across, wide, 1, 1, c))
    gradients = gradients.transpose(2, 4, 0, 1, 3, 5, 6, 7)
    row_mask, column_mask = _block_mask(rows, high), _block_mask(columns, wide)
    total = jnp.zeros((), windows.dtype)
    for r in range(high):
        line = jnp.zeros((), windows.dtype)
        for p in range(wide):
            line += _keep(windows[r, p], column_mask[p][:, None, :, None]) * gradients[r, p]
        total += _keep(line, row_mask[r][:, None, :, None, None])
    # Without the barrier, XLA may compute the sums inside the reduction, a scalar at a time.
    dk = lax.optimization_barrier(total).sum((0, 1, 2))
    unmet = [(a.taps[0], a.kernel - 1 - a.taps[-1]) for a in geometry]
    return jnp.pad(dk, (*unmet, (0, 0))).astype(g.dtype)


def _block(size: int, limit: int) -> Pair:
    """Returns the length of a block, at most `limit`, and how many blocks cover `size` values."""
    exact = max(n for n in range(1, limit + 1) if size % n == 0)
    if 2 * exact >= min(size, limit):
        return exact, size // exact
    blocks = -(-size // limit)
    length = -(-size // blocks)
    return length, blocks


def _block_mask(lines: AxisGeometry, length: int) -> np.ndarray:
    """Returns a mask [position in the block, block, tap]: where the tap reads the input."""
    mask = np.stack([lines.inside(tap) for tap in lines.taps], axis=1)
    mask = np.pad(mask, ((0, -len(mask) % length), (0, 0)))
    return mask.reshape(-1, length, mask.shape[1]).transpose(1, 0, 2)


def _is_dilated(geometry: Geometry) -> bool:
    return any(axis.dilation > 1 for axis in geometry)


def _output_span(axis: AxisGeometry) -> Pair:
    """Returns (zeros before the output, length of a phase) for splitting the output into phases."""
    return 0, -(-axis.output // axis.dilation)


def _input_span(axis: AxisGeometry) -> Pair:
    """Returns (zeros before the input, length of a phase) for splitting the input into phases.

    A phase includes the zeros around the input, so its convolution needs no padding.
    """
    if axis.dilation == 1:
        return axis.low, axis.low + axis.input + axis.high
    return axis.low, _output_span(axis)[1] + axis.kernel - 1


def _of_phases(geometry: Geometry) -> Geometry:
    """Returns the geometry of one phase's convolution, which has no dilation and no padding."""
    rows, columns = (
        AxisGeometry(_input_span(axis)[1], _output_span(axis)[1], axis.kernel, axis.stride, 0, 0)
        for axis in geometry
    )
    return rows, columns


def _split(x: jax.Array, geometry: Geometry, span_of: Callable[[AxisGeometry], Pair]) -> jax.Array:
    """Splits `[b, h, w, c]` into its phases `[b dh dw, h', w', c]`, padded with zeros."""
    (b, *sizes, c), (dh, dw) = x.shape, (axis.dilation for axis in geometry)
    pads = []
    for n, axis in zip(sizes, geometry, strict=True):
        start, length = span_of(axis)
        pads.append((start, length * axis.dilation - start - n))
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    x = reshape(x, (b, x.shape[1] // dh, dh, x.shape[2] // dw, dw, c)).transpose(0, 2, 4, 1, 3, 5)
    return reshape(x, (b * dh * dw, *x.shape[3:]))


def _join(phases: jax.Array, geometry: Geometry, spans: Sequence[Pair]) -> jax.Array:
    """Inverts `_split`, then keeps the rows and the columns in `spans`, two pairs (start, size)."""
    dh, dw = (axis.dilation for axis in geometry)
    b, high, wide, c = phases.shape
    x = reshape(phases, (b // (dh * dw), dh, dw, high, wide, c)).transpose(0, 3, 1, 4, 2, 5)
    x = reshape(x, (x.shape[0], high * dh, wide * dw, c))
    (top, rows), (left, columns) = spans
    return x[:, top : top + rows, left : left + columns]
