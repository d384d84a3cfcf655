"""Panels: a pointwise kernel stored in the order in which the native kernels read it.

A native kernel multiplies by at most `PANEL_COLUMNS` columns of a matrix [c, n] at a time. Within
these columns, successive rows are far apart in memory, and with few pixels, loading the rows costs
more than the arithmetic. A panel stores only these columns, row after row. The layout is the same
on every machine; `native/product.h` repeats the two constants of this module.
"""

import jax
import jax.numpy as jnp

from mnet_jax.validation import require

Array = jax.Array

PANEL_COLUMNS = 48
PANEL_STEP = 16  # the last panel may be narrower: its columns are rounded up to a multiple of this


def pack(kernel: Array) -> Array:
    """Packs a pointwise kernel into panels.

    Args:
      kernel: [c, n].

    Returns:
      The panels, one after the other: [c * n'], where n' is n rounded up to a multiple of 16. The
      columns from n on are zero.
    """
    padded = jnp.pad(kernel, ((0, 0), (0, -kernel.shape[1] % PANEL_STEP)))
    starts = range(PANEL_COLUMNS, padded.shape[1], PANEL_COLUMNS)
    return jnp.concatenate([panel.reshape(-1) for panel in jnp.split(padded, [*starts], axis=1)])


def unpack(panels: Array, inputs: int, outputs: int) -> Array:
    """Unpacks a pointwise kernel from panels; the inverse of `pack`.

    Args:
      panels: the result of `pack`.
      inputs: number of input channels, c.
      outputs: number of output channels, n.

    Returns:
      The kernel, [c, n].
    """
    widths = _widths(outputs)
    ends = [inputs * sum(widths[: i + 1]) for i in range(len(widths))]
    parts = jnp.split(panels, ends[:-1])
    columns = [part.reshape(inputs, -1) for part in parts]
    return jnp.concatenate(columns, axis=1)[:, :outputs]


def require_fit(panels: Array, inputs: int, outputs: int) -> None:
    """Requires panels to have the right size for a kernel [inputs, outputs].

    Raises:
      ValueError: the panels have another size.
    """
    numbers = size(inputs, outputs)
    legal = f"{numbers} numbers in panels of {inputs} x {outputs}"
    require(panels.size == numbers, "kernel", panels.size, legal)


def size(inputs: int, outputs: int) -> int:
    """Returns the number of elements in the panels of a kernel [inputs, outputs]."""
    return inputs * sum(_widths(outputs))


def _widths(outputs: int) -> list[int]:
    """Returns the number of columns of each panel."""
    padded = outputs + -outputs % PANEL_STEP
    return [min(PANEL_COLUMNS, padded - start) for start in range(0, padded, PANEL_COLUMNS)]
