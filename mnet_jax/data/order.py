"""The order of images: endless shuffled epochs in batches, and a host's share of every batch."""

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mnet_jax.validation import require


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A host's contiguous share of every batch.

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


class Places(NamedTuple):
    """The images of a batch: the epoch and the index of each, int [b]."""

    epochs: np.ndarray
    indices: np.ndarray


class ShuffledBatches:
    """Endless batches of `Places`; each epoch is a permutation. Grain seeks by random access.

    Grain's own `shuffle` computes each index separately. That takes 20 to 60 microseconds an index,
    more than all the rest of a batch of small images.
    """

    def __init__(self, count: int, batch_size: int, seed: int, shard: Shard = WHOLE) -> None:
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._share = shard.of(batch_size)
        # Threads work on neighbouring batches, so two epochs may be in use at a time.
        self._permutation = lru_cache(maxsize=4)(self._permuted)

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size  # endless, as in Grain's `repeat(None)`

    def __getitem__(self, batch: int) -> Places:
        first = int(batch) * self._batch_size + self._share.start
        epochs, at = np.divmod(np.arange(first, first + len(self._share)), self._count)
        parts = [self._permutation(epoch)[at[epochs == epoch]] for epoch in _runs(epochs)]
        return Places(epochs, np.concatenate(parts))

    def _permuted(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._count)


def _runs(ascending: np.ndarray) -> range:
    return range(int(ascending[0]), int(ascending[-1]) + 1)
