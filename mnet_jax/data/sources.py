"""Sources of labelled images with random access: in memory, or decoded one at a time.

Every source has a length, a `shape`, and examples `source[i]`. Images are uint8 RGB; `pipeline`
turns them into the model's input.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np

from mnet_jax.data.resize import Picture, central_view

# A split whose decoded size is at most this is decoded once and kept in memory.
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
      shape: (h, w, c) of every image as stored, c of 1 or 3; None if sizes differ.
    """

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """See above."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclass(frozen=True)
class Dataset:
    """A data set's three disjoint splits.

    Attributes:
      name: as in the config.
      class_names: indexed by label.
      train: for gradients.
      validation: for choices; held out of the train split, the same images for every seed.
      test: for the reported numbers; the set's own test split.
      listing: of a folder's files, see `DataConfig`; "" for other sets, whose files do not change.
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
        """Returns the images resized for the model, [n, side, side, c]."""
        if self.shape[:2] == (side, side):
            return self
        images = np.empty((len(self), side, side, self.shape[2]), np.uint8)
        for index, image in enumerate(self.images):
            images[index] = central_view(image, side, photograph=False)
        return ArraySource(images, self.labels)


@dataclass(frozen=True, eq=False)
class Subset:
    """The images of `source` at `indices` (int [n]), read when they are accessed."""

    source: Source
    indices: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """The shape of the whole source."""
        return self.source.shape

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]

    def opened(self, index: int) -> OpenedExample:
        """Returns an example, not decoded if the source supports that."""
        return opened(self.source, int(self.indices[index]))


class Decodable(Source, Protocol):
    """A source on disk that can be decoded as a whole."""

    def decoded(self) -> ArraySource:
        """Decodes all images into memory."""


def opened(source: Source, index: int) -> OpenedExample:
    """Returns `source[index]`; its image is not decoded yet if the source has a method for that."""
    found: Callable[[int], OpenedExample] | None = getattr(source, "opened", None)
    if found is not None:
        return found(index)
    example = source[index]
    return {"image": example["image"], "label": example["label"]}


def in_memory(source: Decodable) -> Source:
    """Returns `source`, decoded if its images have one shape and fit into `MEMORY_BYTES`."""
    if source.shape is None or len(source) * math.prod(source.shape) > MEMORY_BYTES:
        return source
    return source.decoded()


def at_resolution(source: Source, side: int) -> Source:
    """Returns `source` resized to [side, side] if it is in memory and the result fits there too."""
    if not isinstance(source, ArraySource):
        return source
    if len(source) * side * side * source.shape[2] > MEMORY_BYTES:
        return source
    return source.resized(side)


def subset(source: Source, indices: np.ndarray) -> Source:
    """Returns the images of `source` at `indices` (int [n]), in that order."""
    if isinstance(source, ArraySource):
        return ArraySource(source.images[indices], source.labels[indices])
    return Subset(source, indices)


def rgb(image: np.ndarray) -> np.ndarray:
    """Converts `image` [..., h, w, c], c of 1 or 3, to [..., h, w, 3]; repeats a gray channel."""
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
