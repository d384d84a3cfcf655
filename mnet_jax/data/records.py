"""A source of labelled images from the records of a TFDS data source."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnet_jax.config import MAX_IMAGE_PIXELS
from mnet_jax.data.encoded import EncodedImage
from mnet_jax.data.errors import DataError, reason
from mnet_jax.data.resize import pixels
from mnet_jax.data.sources import ArraySource, Example, OpenedExample, rgb

_READ_AT_ONCE = 1024  # records: ArrayRecord reads them in parallel, three times faster than singly

Decode = Callable[[bytes], Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class RecordSource:
    """Records of a TFDS data source, decoded when they are accessed.

    Attributes:
      records: the data source, of raw bytes.
      decode: from a record to a mapping with `image` and `label`; an image of type bytes is
        encoded.
      shape: see `Source`.
      name: the name of the set and the split in errors.
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
        example = self.opened(index)
        return {"image": rgb(pixels(example["image"])), "label": example["label"]}

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
