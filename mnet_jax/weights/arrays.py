"""A state dict of any library as NumPy arrays."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mnet_jax.validation import one_line
from mnet_jax.weights.errors import WeightsError

MOST_BYTES = 2 * 2**30  # the largest network of the family has 131 MB of weights
WRAPPERS = ("state_dict", "model")  # what training scripts put a state dict under, beside others


def unwrapped(state: object) -> Mapping:
    """The mapping of names to arrays, taken out of one wrapper such as {"state_dict": ...}.

    Raises:
      WeightsError: `state` is no mapping.
    """
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise WeightsError(f"state_dict: got {kind}, legal: a mapping of names to arrays")
    for wrapper in WRAPPERS:
        inner = state.get(wrapper)
        if isinstance(inner, Mapping):
            return inner
    return state


def as_arrays(state: object) -> dict[str, np.ndarray]:
    """A state dict as NumPy arrays: floating ones as float32, whole numbers as they are.

    Args:
      state: mapping of names to NumPy, JAX or PyTorch arrays, or one wrapped once.

    Raises:
      WeightsError: it is no such mapping, an entry is no numeric array, or all of them together
        are larger than `MOST_BYTES`.
    """
    entries = unwrapped(state)
    total = 0
    for name, value in entries.items():
        if not isinstance(name, str):
            raise WeightsError(f"name of an entry: got {one_line(repr(name))}, legal: text")
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            kind = type(value).__name__
            raise WeightsError(f"{one_line(name)}: got {kind}, legal: an array")
        total += 4 * math.prod(value.shape)  # an expanded tensor is small until it is copied
    if total > MOST_BYTES:
        raise WeightsError(f"state_dict: got {total} bytes, legal: {MOST_BYTES} or less")
    return {name: _as_array(name, value) for name, value in entries.items()}


def _as_array(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a PyTorch tensor; NumPy has no bfloat16 of its own
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        with np.errstate(over="ignore"):  # what overflows is refused as not finite
            return array.astype(np.float32)
    if array.dtype.kind not in "iub":
        dtype = one_line(array.dtype)
        raise WeightsError(f"{one_line(name)}: got type {dtype}, legal: floating or whole numbers")
    return array
