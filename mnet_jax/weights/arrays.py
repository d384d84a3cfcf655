"""State dicts of any library as NumPy arrays, limited to the size that a network can use."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnet_jax.validation import one_line


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; the message is one line with the reason.

    Attributes:
      problems: every name that does not fit, with the reason; the message has the first of each
        kind.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


_HEAD_BYTES = 2**27  # a classifier of ImageNet-21k's 21,843 classes takes 112 MB


class Limit(NamedTuple):
    """The largest allowed size of a state dict, including the parts that are not used.

    Attributes:
      arrays: number of arrays.
      bytes: total size of the arrays as float32.
    """

    arrays: int
    bytes: int

    @classmethod
    def of(cls, shapes: Iterable[tuple[int, ...]]) -> "Limit":
        """Returns the limit for a network: four times its arrays, plus a head of ImageNet-21k."""
        sizes = [4 * math.prod(shape) for shape in shapes]
        return cls(arrays=4 * len(sizes) + 100, bytes=4 * sum(sizes) + _HEAD_BYTES)


# The limit if the network is not known. The largest MobileNet has 700 arrays and 131 MB.
LARGEST = Limit(arrays=10_000, bytes=2**29)


class LazyArray(NamedTuple):
    """An array in an open file. Its header has been read, but not its elements.

    Attributes:
      size: the largest number of elements that `read` may allocate memory for.
      read: function that reads the array.
    """

    size: int
    read: Callable[[], np.ndarray]


def as_arrays(state: object, limit: Limit = LARGEST) -> dict[str, np.ndarray]:
    """Converts a state dict to NumPy arrays: floating point to float32, integers unchanged.

    A NumPy array of float32 is not copied.

    Args:
      state: mapping of names to NumPy, JAX or PyTorch arrays or to `LazyArray`; the wrapping that
        training scripts add is removed, as described in `files.read`.
      limit: largest size of all arrays together, checked before any of them is read or copied.

    Raises:
      WeightsError: `state` is not such a mapping, an entry is not a numeric array, or the limit is
        exceeded.
    """
    entries = _unwrapped(state)
    require_few(entries, limit)
    total = 0
    for name, value in entries.items():
        if not isinstance(name, str):
            raise WeightsError(f"name of an entry: got {one_line(repr(name))}, legal: text")
        if isinstance(value, LazyArray):
            total += 4 * value.size
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            total += 4 * math.prod(value.shape)  # an expanded tensor is small until it is copied
        else:
            kind = type(value).__name__
            raise WeightsError(f"{one_line(name)}: got {kind}, legal: an array")
    if total > limit.bytes:
        raise WeightsError(f"state_dict: got {total} bytes, legal: {limit.bytes} or fewer")
    return {name: _as_array(name, value) for name, value in entries.items()}


def _as_array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, LazyArray):
        value = value.read()
    elif hasattr(value, "detach"):  # a PyTorch tensor; NumPy has no bfloat16 of its own
        value = value.detach().cpu()
        # A copy: the tensor's memory may be a file's, or change when its model is trained.
        value = np.array((value.float() if value.is_floating_point() else value).numpy())
    array = np.asarray(value)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        with np.errstate(over="ignore"):  # overflows become infinite, and are refused later
            return array.astype(np.float32, copy=False)
    if array.dtype.kind not in "iub":
        dtype = one_line(array.dtype)
        raise WeightsError(f"{one_line(name)}: got type {dtype}, legal: floating or whole numbers")
    return array


# Keys under which training scripts store a state dict, the preferred one first.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel, AveragedModel; torch.compile


def _unwrapped(state: object) -> Mapping:
    """Returns the mapping of names to arrays, without the wrapping that training scripts add.

    If there are several state dicts, averaged weights (`state_dict_ema`, `model_ema`) are preferred
    to the current weights (`state_dict`, `model`), as in `timm.models.load_state_dict`. The
    prefixes `module.` and `_orig_mod.` are removed from the names.

    Raises:
      WeightsError: `state` is not a mapping, or two names are equal without their prefixes.
    """
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise WeightsError(f"state_dict: got {kind}, legal: a mapping of names to arrays")
    inner = (state[name] for name in _WRAPPERS if isinstance(state.get(name), Mapping))
    entries: dict[Any, Any] = {}
    for name, value in next(inner, state).items():
        short = _without_prefixes(name)
        if short in entries:
            raise WeightsError(f"state_dict: holds {one_line(short)} under several names")
        entries[short] = value
    return entries


def _without_prefixes(name: Any) -> Any:
    while isinstance(name, str) and name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def require_few(names: Collection[Any], limit: Limit) -> None:
    """Raises WeightsError, with the count and the first names, if there are too many names."""
    if len(names) > limit.arrays:
        clause = listing("arrays", list(names), one_line)
        raise WeightsError(f"state_dict: got {clause}, legal: {limit.arrays} or fewer")


_MOST_LISTED = 8  # items in a clause of an error


def listing(title: str, items: Sequence[Any], text_of: Callable[[Any], str] = str) -> str:
    """Returns a clause such as `3 missing (a, b, c)`.

    The clause lists the first few items, each formatted by `text_of`.
    """
    more = len(items) - _MOST_LISTED
    named = ", ".join(map(text_of, items[:_MOST_LISTED])) + (
        f" and {more} more" if more > 0 else ""
    )
    return f"{len(items)} {title} ({named})"
