"""Labelled images with random access: in memory, or decoded one at a time.

Every source has a length, `source[i]` as an `Example`, and a `shape`. Images come as uint8 RGB;
what the model sees is made of them in `pipeline`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np

from mnet_jax.data.resize import Picture, central_view

# A split that takes no more than this once decoded is decoded once and kept.
MEMORY_BYTES = 512 * 2**20


class Example(TypedDict):
    """One labelled image: `image` uint8 [h, w, 3], `label` an int from 0."""

    image: np.ndarray
    label: int


class OpenedExample(TypedDict):
    """An `Example` whose image may not be decoded yet."""

    image: Picture
    label: int


class Source(Protocol):
    """Random access to labelled images.

    Attributes:
      shape: (h, w, c) of every image as it is stored, c of 1 or 3; None where sizes differ.
    """

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """As above."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclass(frozen=True)
class Dataset:
    """A data set's three disjoint splits.

    Attributes:
      name: as it was asked for.
      class_names: by label.
      train: for gradients.
      validation: held out of the train split, the same images for every seed; for choices.
      test: the set's own test split; for the number that is reported.
      listing: of a folder's files, as in `DataConfig`; "" for other sets, which do not change.
    """

    name: str
    class_names: tuple[str, ...]
    train: Source
    validation: Source
    test: Source
    listing: str = ""

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory: `images` uint8 [n, h, w, c], c of 1 (gray) or 3, and `labels` int32 [n]."""

    images: np.ndarray
    labels: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c) of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": rgb(self.images[index]), "label": int(self.labels[index])}

    def resized(self, side: int) -> "ArraySource":
        """The same images as the model sees them, [n, side, side, c]."""
        if self.shape[:2] == (side, side):
            return self
        images = np.empty((len(self), side, side, self.shape[2]), np.uint8)
        for index, image in enumerate(self.images):
            images[index] = central_view(image, side, photograph=False)
        return ArraySource(images, self.labels)


@dataclass(frozen=True, eq=False)
class Subset:
    """The images of `source` at `indices` (int [n]), still read only when asked for."""

    source: Source
    indices: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """As the whole source's."""
        return self.source.shape

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]

    def opened(self, index: int) -> OpenedExample:
        """The same, its image not decoded, where the source can open it."""
        return opened(self.source, int(self.indices[index]))


class Decodable(Source, Protocol):
    """A source on disk that can be decoded at once."""

    def decoded(self) -> ArraySource:
        """All of it in memory."""


def opened(source: Source, index: int) -> OpenedExample:
    """`source[index]`, its image not decoded yet where the source has a method for that."""
    found: Callable[[int], OpenedExample] | None = getattr(source, "opened", None)
    if found is not None:
        return found(index)
    example = source[index]
    return {"image": example["image"], "label": example["label"]}


def in_memory(source: Decodable) -> Source:
    """`source` decoded, where its images have one shape and fit `MEMORY_BYTES`; else itself."""
    if source.shape is None or len(source) * math.prod(source.shape) > MEMORY_BYTES:
        return source
    return source.decoded()


def at_resolution(source: Source, side: int) -> Source:
    """`source` resized once to [side, side], where it is in memory and stays within its bounds."""
    if not isinstance(source, ArraySource):
        return source
    if len(source) * side * side * source.shape[2] > MEMORY_BYTES:
        return source
    return source.resized(side)


def subset(source: Source, indices: np.ndarray) -> Source:
    """The images of `source` at `indices` (int [n]), in that order."""
    if isinstance(source, ArraySource):
        return ArraySource(source.images[indices], source.labels[indices])
    return Subset(source, indices)


def rgb(image: np.ndarray) -> np.ndarray:
    """`image` [..., h, w, c] with c of 1 or 3 as [..., h, w, 3]; gray is repeated."""
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
