"""Sources of labelled images with random access: in memory, or decoded one at a time.

Every source has a length, a `shape`, and examples `source[i]`. Images are uint8 RGB; `pipeline`
turns them into the model's input. Sources of encoded images also have a method `opened`. It returns
an example whose image is not decoded yet, so that a crop decodes only the pixels that it needs.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypedDict

import numpy as np

from mnet_jax.config import MAX_IMAGE_PIXELS
from mnet_jax.data.encoded import EncodedImage
from mnet_jax.data.resize import Picture, central_view, pixels
from mnet_jax.data.types import DataError, View, reason

_log = logging.getLogger(__name__)


class Example(TypedDict):
    """One labelled image: `image` uint8 [h, w, 3], `label` an int from 0."""

    image: np.ndarray
    label: int


class OpenedExample(TypedDict):
    """An `Example` whose image is either decoded or still encoded."""

    image: Picture
    label: int


class Source(Protocol):
    """Random access to labelled images.

    Attributes:
      shape: (h, w, c) of every image as stored, c of 1 or 3; None if sizes differ.
    """

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(h, w, c) of every image as stored; None if sizes differ."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclass(frozen=True)
class Dataset:
    """A data set's three disjoint splits.

    Attributes:
      name: the name in the config.
      class_names: indexed by label.
      train: images to train on.
      validation: images for choosing among models; held out of the train split, the same for every
        seed.
      test: images for the reported numbers; the set's own test split.
      listing: see `DataConfig`; "" unless the set is a `folder`.
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

    def resized(self, view: View) -> "ArraySource":
        """Returns the images resized for the model, [n, side, side, c]."""
        side = view.resolution
        if self.shape[:2] == (side, side):
            return self
        images = np.empty((len(self), side, side, self.shape[2]), np.uint8)
        for index, image in enumerate(self.images):
            images[index] = central_view(image, view)
        return ArraySource(images, self.labels)


@dataclass(frozen=True, eq=False)
class Subset:
    """The images of `source` at `indices` (int [n]), read when they are accessed."""

    source: Source
    indices: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(h, w, c) of every image of `source`; None if sizes differ."""
        return self.source.shape

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]

    def opened(self, index: int) -> OpenedExample:
        """Returns an example; its image is not decoded yet if `source` has a method for that."""
        return opened(self.source, int(self.indices[index]))


Decode = Callable[[bytes], Mapping[str, Any]]


_READ_AT_ONCE = 1024  # records: ArrayRecord reads them in parallel, three times faster than singly


@dataclass(frozen=True, eq=False)
class RecordSource:
    """Records of a TFDS data source, decoded when they are accessed.

    Attributes:
      records: TFDS's data source, which returns each record as raw bytes.
      decode: maps a record to a mapping with `label` and `image`; the image is either pixels, or
        the bytes of an image file.
      shape: see `Source`.
      name: the name of the set and the split in error messages.
      max_pixels: limit on the pixels of an image.
    """

    records: Any
    decode: Decode
    shape: tuple[int, int, int] | None
    name: str
    max_pixels: int = MAX_IMAGE_PIXELS

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        return _decoded(self.opened(index))

    def opened(self, index: int) -> OpenedExample:
        """Returns an example whose image, if stored encoded, is read but not decoded."""
        (example,) = self._read([int(index)])
        return self._opened(int(index), example)

    def decoded(self) -> ArraySource:
        """Decodes all images into memory; they must have one shape."""
        assert self.shape is not None
        images = np.empty((len(self), *self.shape), np.uint8)
        labels = np.empty(len(self), np.int32)
        for start in range(0, len(self), _READ_AT_ONCE):
            indices = list(range(start, min(start + _READ_AT_ONCE, len(self))))
            for index, example in zip(indices, self._read(indices), strict=True):
                opened = self._opened(index, example)
                images[index], labels[index] = pixels(opened["image"]), opened["label"]
        return ArraySource(images, labels)

    def _opened(self, index: int, example: Mapping[str, Any]) -> OpenedExample:
        image, label = example["image"], int(example["label"])
        if isinstance(image, bytes):
            channels = self.shape[2] if self.shape else 3
            which = f"{self.name}: record {index}"
            image = EncodedImage(image, which, channels=channels, max_pixels=self.max_pixels)
        if self.shape and image.shape != self.shape:
            legal = " x ".join(map(str, self.shape))
            found = " x ".join(map(str, image.shape))
            raise DataError(f"{self.name}: record {index} is {found}, legal: {legal}")
        return {"image": image, "label": label}

    def _read(self, indices: list[int]) -> list[Mapping[str, Any]]:
        try:
            return [self.decode(record) for record in self.records.__getitems__(indices)]
        except Exception as error:  # decoders and ArrayRecord raise many types
            which = f"{indices[0]} to {indices[-1]}" if len(indices) > 1 else f"{indices[0]}"
            raise DataError(f"{self.name}: cannot read record {which}: {reason(error)}") from error


@dataclass(frozen=True, eq=False)
class ReplacingSource:
    """A source in which each damaged image is replaced by the next intact one of its class.

    The replacement depends on the source alone, so runs can be repeated and resumed. Each damaged
    image is named once, in a warning.

    Attributes:
      source: the images, for training only; reported numbers must be measured on unreplaced images.
      limit: how many images may be damaged; one more raises DataError.
    """

    source: Source
    limit: int
    _damaged: set[int] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(h, w, c) of every image of `source`; None if sizes differ."""
        return self.source.shape

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        return _decoded(self.opened(index))

    def opened(self, index: int) -> OpenedExample:
        """Returns an example whose image is not decoded yet.

        If even the header of an image is damaged, the label may be unknown. Then the next example
        that can be opened is returned, with the label of that example.
        """
        for at, example in self._openable_from(int(index)):
            return self._with_replacement(at, example)
        raise DataError(f"all {len(self)} training images are damaged, legal: up to {self.limit}")

    def _replacement(self, index: int, label: int, error: DataError) -> EncodedImage:
        """Returns the image that replaces the damaged image at `index`, whose class is `label`."""
        self._note(index, error)
        for at, example in self._openable_from(index + 1):
            if example["label"] == label and at not in self._damaged:
                image = self._with_replacement(at, example)["image"]
                assert isinstance(image, EncodedImage)  # as the damaged one is encoded
                return image
        raise DataError(f"no whole image of class {label} is left; {error}")

    def _with_replacement(self, index: int, example: OpenedExample) -> OpenedExample:
        """Returns a copy of the example that decodes another image if its own is damaged."""
        image, label = example["image"], example["label"]
        if isinstance(image, EncodedImage):
            image = image.with_fallback(partial(self._replacement, index, label))
        return {"image": image, "label": label}

    def _openable_from(self, start: int) -> Iterator[tuple[int, OpenedExample]]:
        """Yields (index, example) of each image that can be opened.

        The order is from `start` to the end, and then from 0 to `start`.
        """
        for step in range(len(self)):
            at = (start + step) % len(self)
            try:
                yield at, opened(self.source, at)
            except DataError as error:
                self._note(at, error)

    def _note(self, index: int, error: DataError) -> None:
        with self._lock:
            if index in self._damaged:
                return
            self._damaged.add(index)
            count = len(self._damaged)
        if count > self.limit:
            raise DataError(
                f"bad_images: got {count} damaged, legal: up to {self.limit}; {error}"
            ) from error
        _log.warning(
            "%s; it is replaced by another image (%d of at most %d)", error, count, self.limit
        )


def opened(source: Source, index: int) -> OpenedExample:
    """Returns `source[index]`; its image is not decoded yet if the source has a method for that."""
    found: Callable[[int], OpenedExample] | None = getattr(source, "opened", None)
    if found is not None:
        return found(index)
    example = source[index]
    return {"image": example["image"], "label": example["label"]}


def _decoded(example: OpenedExample) -> Example:
    return {"image": rgb(pixels(example["image"])), "label": example["label"]}


class Decodable(Source, Protocol):
    """A source on disk that can be decoded as a whole."""

    def decoded(self) -> ArraySource:
        """Decodes all images into memory."""


# A split whose decoded size is at most this is decoded once and kept in memory.
MEMORY_BYTES = 512 * 2**20


def in_memory(source: Decodable) -> Source:
    """Returns `source`, decoded if its images have one shape and fit into `MEMORY_BYTES`."""
    if source.shape is None or len(source) * math.prod(source.shape) > MEMORY_BYTES:
        return source
    return source.decoded()


def at_resolution(source: Source, view: View) -> Source:
    """Resizes the images of a source in memory to the resolution of `view`.

    Returns the source unchanged if it is not in memory, or if the resized images would need more
    than `MEMORY_BYTES`.
    """
    if not isinstance(source, ArraySource):
        return source
    if len(source) * view.resolution**2 * source.shape[2] > MEMORY_BYTES:
        return source
    return source.resized(view)


def subset(source: Source, indices: np.ndarray) -> Source:
    """Returns the images of `source` at `indices` (int [n]), in that order."""
    if isinstance(source, ArraySource):
        return ArraySource(source.images[indices], source.labels[indices])
    return Subset(source, indices)


def rgb(image: np.ndarray) -> np.ndarray:
    """Converts `image` [..., h, w, c], c of 1 or 3, to [..., h, w, 3]; repeats a gray channel."""
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
