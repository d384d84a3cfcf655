"""Counter-based random numbers for the images of a batch.

Each number is a hash of the seed, the epoch, the image's index and the purpose. So an image gets
the same numbers in every batch, on every host and in every thread, and the numbers of a whole batch
are computed at once. The hash is SplitMix64's finalizer over its Weyl sequence (Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators", section 4 and Fig. 16; the constants
are Stafford's mix 13).
"""

from dataclasses import dataclass

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio times 2^64, made odd
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_MASK = 2**64 - 1
_FRACTION_BITS = 53  # precision of a float64


@dataclass(frozen=True, eq=False)
class Draws:
    """Streams of random numbers, one for each image of a batch.

    Use `fold` to get separate streams for each purpose, so that no two purposes share numbers.

    Attributes:
      keys: uint64 [b], the key of each stream.
    """

    keys: np.ndarray

    @classmethod
    def of(cls, seed: int, epochs: np.ndarray, indices: np.ndarray) -> "Draws":
        """Returns the streams of images, given the epoch and the index of each, int [b]."""
        start = cls(_mixed(np.array([seed & _MASK], np.uint64) + _GAMMA))
        return start.fold(epochs).fold(indices)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Draws":
        """Returns the streams of some of the images, given a mask, indices or a slice."""
        return Draws(self.keys[chosen])

    def fold(self, number: int | np.ndarray) -> "Draws":
        """Folds `number`, an int or int [b], into the keys; returns new streams of the images."""
        return Draws(_mixed(self._counted(np.atleast_1d(number))))

    def uniform(self, number: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Returns one number of each stream: float64 [b], uniform in [`low`, `high`).

        `number` is the index of the number in the stream.
        """
        return low + (high - low) * _fractions(_mixed(self._counted(np.atleast_1d(number))))

    def integers(self, number: int, count: int | np.ndarray) -> np.ndarray:
        """Returns one integer of each stream: int64 [b], uniform from 0 to `count` - 1.

        `number` is the index of the integer in the stream. `count` may be int [b].
        """
        return (self.uniform(number) * count).astype(np.int64)

    def chance(self, number: int, probability: float | np.ndarray) -> np.ndarray:
        """Returns bool [b], true where the `uniform` number is below `probability`."""
        return self.uniform(number) < probability

    def uniforms(self, count: int) -> np.ndarray:
        """Returns the first `count` numbers of each stream: float64 [b, count] in [0, 1)."""
        return _fractions(_mixed(Draws(self.keys[:, None])._counted(np.arange(count))))

    def _counted(self, number: np.ndarray) -> np.ndarray:
        """Returns state `number` (from 0) of the SplitMix64 generators seeded with the keys."""
        return self.keys + (number.astype(np.uint64) + np.uint64(1)) * _GAMMA


def _mixed(states: np.ndarray) -> np.ndarray:
    """Returns SplitMix64's output for each state, uint64."""
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        states = (states ^ (states >> shift)) * multiplier
    return states ^ (states >> _SHIFTS[2])


def _fractions(bits: np.ndarray) -> np.ndarray:
    """Converts the leading 53 bits of each number to a float64 in [0, 1)."""
    return (bits >> np.uint64(64 - _FRACTION_BITS)) * 2.0**-_FRACTION_BITS
