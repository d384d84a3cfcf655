"""Which images are held out of a split: by their position, or by their names.

Both are the same for every run, so that all arms and seeds of an experiment share the split.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np

_DIGEST_BITS = 64  # of a name's hash, that decide


def held_out(count: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits `range(count)` in (kept, held out), both in ascending order, both at least one.

    The permutation has a seed of its own, not the run's. NumPy's legacy generator, because its
    stream is frozen (NEP 19). One image more makes another split of all.
    """
    order = np.random.RandomState(0).permutation(count)
    size = min(max(round(count * fraction), 1), count - 1)
    return np.sort(order[size:]), np.sort(order[:size])


def held_out_by_name(
    names: Sequence[str], fraction: float, purpose: Literal["test", "validation"]
) -> tuple[np.ndarray, np.ndarray]:
    """The same of named images; where one goes follows from its own name alone.

    A name is held out where its hash, as a number from 0 to below 1, is below `fraction`. So
    images that come or go move no other one, and the share is `fraction` in the mean only. Among
    few names all may be on one side; then the one with the least hash is held out, or the one
    with the greatest is kept.

    Args:
      names: of 2 images or more.
      fraction: of them to hold out, above 0 and below 1.
      purpose: of what is held out; each draws by itself.
    """
    hashes = np.array([_hash(f"{purpose}\0{name}") for name in names])
    held = hashes < fraction
    if not held.any():
        held[np.argmin(hashes)] = True
    elif held.all():
        held[np.argmax(hashes)] = False
    return np.flatnonzero(~held), np.flatnonzero(held)


def _hash(text: str) -> float:
    """A number from 0 to below 1, uniform over texts."""
    digest = hashlib.sha256(os.fsencode(text)).digest()
    # Python's division of integers is rounded correctly, and so the same everywhere.
    return int.from_bytes(digest[: _DIGEST_BITS // 8], "big") / 2**_DIGEST_BITS
