"""Choice of a quantizer's step and zero from the values that it will round.

This is NumPy, not JAX: a network has dozens of kernels of different shapes, and compiling a program
for each would take longer than the arithmetic.
"""

import numpy as np

from mnet_jax.ops.quantizer import IntegerRange
from mnet_jax.quantization.types import RangeMethod
from mnet_jax.validation import require_choice

PERCENT = 99.99  # of the values are below the upper end that `percentile` chooses
SHRINKS = 80  # ranges that `mse` tries: 1.25 % to 100 % of the whole one


def choose(
    values: np.ndarray,
    bounds: IntegerRange,
    *,
    symmetric: bool,
    method: RangeMethod = "min-max",
    per_channel: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the step and zero of a quantizer for given values.

    Args:
      values: [...] or [..., c].
      bounds: the smallest and the largest integer of the quantizer.
      symmetric: whether the integer 0 stands for the number 0; see `quantizer_of_range`.
      method: `min-max` covers all values. `percentile` leaves out 0.01 % of the values at each end.
        `mse` shrinks the range of `min-max` until the mean squared error is least.
      per_channel: whether each channel, the last axis, has its own quantizer.

    Returns:
      (step, zero), float32: both [c] if per channel, else ().

    Raises:
      ValueError: the method is not legal.
    """
    require_choice("method", method, RangeMethod)
    rows = np.asarray(values, np.float32)
    rows = rows.reshape(-1, rows.shape[-1]) if per_channel else rows.reshape(-1, 1)
    if method == "percentile":
        least, most = np.percentile(rows, [100 - PERCENT, PERCENT], axis=0)
    else:
        least, most = rows.min(0), rows.max(0)
    if method == "mse":
        shrink = _best_shrink(rows, least, most, bounds, symmetric=symmetric)
        least, most = shrink * least, shrink * most
    step, zero = quantizer_of_range(least, most, bounds, symmetric=symmetric)
    return (step, zero) if per_channel else (step[0], zero[0])


def quantizer_of_range(
    least: np.ndarray, most: np.ndarray, bounds: IntegerRange, *, symmetric: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the step and zero of the quantizer that covers a range.

    Args:
      least: smallest number that the quantizer must represent, of any shape.
      most: largest number, of the same shape.
      bounds: the smallest and the largest integer of the quantizer.
      symmetric: if true, the integer 0 stands for the number 0, and the range is [-m, m] with
        m = max(|least|, |most|). If false, the range is extended to include 0, which is then
        represented exactly (arXiv 1712.05877, section 2.1).

    Returns:
      (step, zero), float32 of the shape of `least`. The step is 0 where the range is [0, 0].
    """
    low, high = bounds
    if symmetric:
        step = np.maximum(np.abs(least), np.abs(most)) / high
        return step.astype(np.float32), np.zeros_like(step, np.float32)
    least, most = np.minimum(least, 0), np.maximum(most, 0)
    step = ((most - least) / (high - low)).astype(np.float32)
    zero = np.round(low - least / np.where(step > 0, step, 1))
    return step, np.where(step > 0, np.clip(zero, low, high), 0).astype(np.float32)


def rounded(
    values: np.ndarray, step: np.ndarray, zero: np.ndarray, bounds: IntegerRange
) -> np.ndarray:
    """Returns values [..., c] rounded to the numbers that a quantizer represents, float32.

    Args:
      values: [..., c].
      step: () or [c]; where it is 0, values are not rounded.
      zero: the integer that stands for 0, of the step's shape.
      bounds: the smallest and the largest integer of the quantizer.
    """
    ratio = np.asarray(values, np.float32) / np.where(step == 0, 1, step).astype(np.float32)
    centred = np.clip(np.round(ratio), bounds.low - zero, bounds.high - zero)
    return np.where(step == 0, values, centred * step).astype(np.float32)


def _best_shrink(
    rows: np.ndarray, least: np.ndarray, most: np.ndarray, bounds: IntegerRange, *, symmetric: bool
) -> np.ndarray:
    """Returns the factors [c] for the ranges [least, most] that minimize the mean squared error."""
    shrinks = np.arange(1, SHRINKS + 1) / SHRINKS
    errors = []
    for shrink in shrinks:
        step, zero = quantizer_of_range(shrink * least, shrink * most, bounds, symmetric=symmetric)
        errors.append(((rounded(rows, step, zero, bounds) - rows) ** 2).mean(axis=0))
    return shrinks[np.argmin(errors, axis=0)]
