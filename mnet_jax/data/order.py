"""The order of training images, and the choice of the images that are held out of a split.

Training images come in endless batches, shuffled anew for each epoch. A host reads its share of
every batch. Held-out images are chosen by position or by name. Both choices are the same for every
run, so that all arms and seeds of an experiment share the split.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from mnet_jax.validation import require


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The contiguous share of every batch that one host, a process of the run, reads.

    Attributes:
      index: the index of the share, from 0.
      count: the number of shares; it divides the batch size.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        require(self.count >= 1, "count", self.count, "1 or more")
        require(0 <= self.index < self.count, "index", self.index, f"0 to below {self.count}")

    def of(self, batch_size: int) -> range:
        """Returns the positions in a batch that belong to this host.

        Raises:
          ValueError: the batch cannot be shared evenly.
        """
        legal = f"multiples of the {self.count} hosts"
        require(batch_size % self.count == 0, "batch_size", batch_size, legal)
        share = batch_size // self.count
        return range(self.index * share, (self.index + 1) * share)


WHOLE = Shard()


class ImageIndices(NamedTuple):
    """The images of a batch: the epoch and the index of each, int [b]."""

    epochs: np.ndarray
    indices: np.ndarray


class ShuffledBatches:
    """Endless batches of `ImageIndices`, for random access by Grain; each epoch is a permutation.

    Grain's own `shuffle` computes each index separately. At 20 to 60 microseconds an index, that
    takes longer than all other work on a batch of small images.
    """

    def __init__(self, count: int, batch_size: int, seed: int, shard: Shard = WHOLE) -> None:
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._share = shard.of(batch_size)
        # Threads work on neighbouring batches, so two epochs may be in use at a time.
        self._permutation = lru_cache(maxsize=4)(self._permuted)

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size  # endless, as in Grain's `repeat(None)`

    def __getitem__(self, batch: int) -> ImageIndices:
        first = int(batch) * self._batch_size + self._share.start
        epochs, at = np.divmod(np.arange(first, first + len(self._share)), self._count)
        parts = [self._permutation(epoch)[at[epochs == epoch]] for epoch in _span(epochs)]
        return ImageIndices(epochs, np.concatenate(parts))

    def _permuted(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._count)


def _span(ascending: np.ndarray) -> range:
    return range(int(ascending[0]), int(ascending[-1]) + 1)


def held_out(count: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits `range(count)` into (kept, held out); both are ascending and not empty.

    A random permutation chooses the split. The permutation has a constant seed, not the run's, and
    is drawn with NumPy's legacy generator, whose stream is frozen (NEP 19). Adding one image
    changes the whole split.
    """
    order = np.random.RandomState(0).permutation(count)
    size = min(max(round(count * fraction), 1), count - 1)
    return np.sort(order[size:]), np.sort(order[:size])


def held_out_by_name(
    names: Sequence[str], fraction: float, purpose: Literal["test", "validation"]
) -> tuple[np.ndarray, np.ndarray]:
    """Splits named images into (kept, held out) indices; the name alone decides for each image.

    A name is held out if its hash, as a number in [0, 1), is below `fraction`. So added or removed
    images do not move any other image, and the share held out equals `fraction` only on average. If
    this rule would hold out no image, the image with the least hash is held out; if the rule would
    hold out all images, the image with the greatest hash is kept.

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


_HASH_BYTES = 8  # of the digest


def _hash(text: str) -> float:
    """Returns a hash of a text as a number in [0, 1)."""
    digest = hashlib.sha256(os.fsencode(text)).digest()
    # Python's integer division rounds correctly, so the result is the same everywhere.
    return int.from_bytes(digest[:_HASH_BYTES], "big") / 2 ** (8 * _HASH_BYTES)
