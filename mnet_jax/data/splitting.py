"""Chooses the images that are held out of a split: by position, or by name.

Both choices are the same for every run, so that all arms and seeds of an experiment share the
split.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np

_DIGEST_BITS = 64  # of a name's hash that are used


def held_out(count: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits `range(count)` into (kept, held out); both are ascending and not empty.

    The permutation has its own seed, not the run's. NumPy's legacy generator is used because its
    stream is frozen (NEP 19). Adding one image changes the whole split.
    """
    order = np.random.RandomState(0).permutation(count)
    size = min(max(round(count * fraction), 1), count - 1)
    return np.sort(order[size:]), np.sort(order[:size])


def held_out_by_name(
    names: Sequence[str], fraction: float, purpose: Literal["test", "validation"]
) -> tuple[np.ndarray, np.ndarray]:
    """Splits named images into (kept, held out) indices; each depends on the image's name alone.

    A name is held out if its hash, as a number in [0, 1), is below `fraction`. So added or removed
    images do not move any other image, and the share held out equals `fraction` only on average. If
    all names fall on one side, the one with the least hash is held out, or the one with the
    greatest is kept.

    Args:
      names: the names of 2 images or more.
      fraction: the share to hold out, above 0 and below 1.
      purpose: what the held-out images are for; each purpose has its own hash.
    """
    hashes = np.array([_hash(f"{purpose}\0{name}") for name in names])
    held = hashes < fraction
    if not held.any():
        held[np.argmin(hashes)] = True
    elif held.all():
        held[np.argmax(hashes)] = False
    return np.flatnonzero(~held), np.flatnonzero(held)


def _hash(text: str) -> float:
    """Returns a hash of a text as a number in [0, 1)."""
    digest = hashlib.sha256(os.fsencode(text)).digest()
    # Python's integer division rounds correctly, so the result is the same everywhere.
    return int.from_bytes(digest[: _DIGEST_BITS // 8], "big") / 2**_DIGEST_BITS
