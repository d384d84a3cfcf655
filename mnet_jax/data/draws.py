"""Random numbers of a batch's images, each from the seed, its epoch and its index alone.

A counter-based generator: a number is a hash of what it is for, so an image gets the same numbers
in every batch, on every host and in every thread, and a whole batch's are computed at once. The
hash is SplitMix64's finalizer over its Weyl sequence (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators", section 4 and Fig. 16; the constants are Stafford's mix 13).
"""

from dataclasses import dataclass

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio times 2^64, made odd
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_MASK = 2**64 - 1
_FRACTION_BITS = 53  # of a float64


@dataclass(frozen=True, eq=False)
class Draws:
    """Streams of random numbers, one for each image of a batch.

    What a stream is used for is a fold of its own, so that one use never sees another's numbers.

    Attributes:
      keys: uint64 [b], the streams' names.
    """

    keys: np.ndarray

    @classmethod
    def of(cls, seed: int, epochs: np.ndarray, indices: np.ndarray) -> "Draws":
        """The streams of the images at `indices` (int [b]) in the epochs `epochs` (int [b])."""
        start = cls(_mixed(np.array([seed & _MASK], np.uint64) + _GAMMA))
        return start.fold(epochs).fold(indices)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Draws":
        """The streams of some of the images: a mask, indices or a slice."""
        return Draws(self.keys[chosen])

    def fold(self, number: int | np.ndarray) -> "Draws":
        """Other streams for the same images; `number` is a whole number, or int [b]."""
        return Draws(_mixed(self._counted(np.atleast_1d(number))))

    def uniform(self, number: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """The streams' numbers at a position: float64 [b], uniform from `low` to below `high`."""
        return low + (high - low) * _fractions(_mixed(self._counted(np.atleast_1d(number))))

    def integers(self, number: int, count: int | np.ndarray) -> np.ndarray:
        """The same as int64 [b], uniform from 0 to below `count`, which may be int [b]."""
        return (self.uniform(number) * count).astype(np.int64)

    def chance(self, number: int, probability: float | np.ndarray) -> np.ndarray:
        """The same as bool [b], true with `probability`."""
        return self.uniform(number) < probability

    def uniforms(self, count: int) -> np.ndarray:
        """The streams' first `count` numbers: float64 [b, count] from 0 to below 1."""
        return _fractions(_mixed(Draws(self.keys[:, None])._counted(np.arange(count))))

    def _counted(self, number: np.ndarray) -> np.ndarray:
        """The states of a SplitMix64 generator that is seeded with the key."""
        return self.keys + (number.astype(np.uint64) + np.uint64(1)) * _GAMMA


def _mixed(states: np.ndarray) -> np.ndarray:
    """SplitMix64's output for its states, uint64."""
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        states = (states ^ (states >> shift)) * multiplier
    return states ^ (states >> _SHIFTS[2])


def _fractions(bits: np.ndarray) -> np.ndarray:
    """The leading 53 bits of each as a fraction: float64 from 0 to below 1."""
    return (bits >> np.uint64(64 - _FRACTION_BITS)) * 2.0**-_FRACTION_BITS
