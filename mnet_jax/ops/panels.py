"""A pointwise convolution's kernel in the order in which the native kernels read it.

A product takes some columns of the kernel at a time and goes through all their rows. Rows of a
matrix lie far apart, which costs more than the arithmetic when there are few pixels to multiply
them with; panels of columns lie one after the other. The layout is the same on every machine.
"""

import jax
import jax.numpy as jnp

from mnet_jax.validation import require

Array = jax.Array

PANEL = 48  # columns; as in product.h
STEP = 16  # what the last panel's columns are rounded up to


def pack(kernel: Array) -> Array:
    """The panels of a kernel [c, n], one after the other: [c * n'], n' n rounded up to `STEP`."""
    padded = jnp.pad(kernel, ((0, 0), (0, -kernel.shape[1] % STEP)))
    starts = range(PANEL, padded.shape[1], PANEL)
    return jnp.concatenate([panel.reshape(-1) for panel in jnp.split(padded, [*starts], axis=1)])


def unpack(panels: Array, inputs: int, outputs: int) -> Array:
    """The kernel [inputs, outputs] of panels."""
    widths = _widths(outputs)
    ends = [inputs * sum(widths[: i + 1]) for i in range(len(widths))]
    parts = jnp.split(panels, ends[:-1])
    columns = [part.reshape(inputs, -1) for part in parts]
    return jnp.concatenate(columns, axis=1)[:, :outputs]


def require_fit(panels: Array, inputs: int, outputs: int) -> None:
    """That these are the panels of a kernel [inputs, outputs].

    Raises:
      ValueError: they are not as many numbers.
    """
    numbers = size(inputs, outputs)
    legal = f"{numbers} numbers in panels of {inputs} x {outputs}"
    require(panels.size == numbers, "kernel", panels.size, legal)


def size(inputs: int, outputs: int) -> int:
    """Numbers in the panels of a kernel [inputs, outputs]."""
    return inputs * sum(_widths(outputs))


def _widths(outputs: int) -> list[int]:
    """Columns of each panel."""
    rounded = outputs + -outputs % STEP
    return [min(PANEL, rounded - start) for start in range(0, rounded, PANEL)]
