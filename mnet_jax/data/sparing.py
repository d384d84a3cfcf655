"""Training that goes on where a few of very many images are damaged."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from mnet_jax.data.encoded import EncodedImage
from mnet_jax.data.errors import DataError
from mnet_jax.data.resize import pixels
from mnet_jax.data.sources import Example, OpenedExample, Source, opened, rgb

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SparingSource:
    """`source`, in which the next whole image of its class stands in for a damaged one.

    Which one that is follows from the source alone, so that runs can be repeated and resumed. Each
    damaged image is named once, in a warning.

    Attributes:
      source: for training; a number that is reported must be of the images themselves.
      limit: how many may be damaged; the next one is a DataError.
    """

    source: Source
    limit: int
    _damaged: set[int] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """As the source's."""
        return self.source.shape

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.opened(index)
        return {"image": rgb(pixels(example["image"])), "label": example["label"]}

    def opened(self, index: int) -> OpenedExample:
        """The same, its image not decoded yet.

        Where even the header is damaged the label may not be known: the next image brings its own.
        """
        for at, example in self._whole_from(int(index)):
            return self._spared(at, example)
        raise DataError(f"all {len(self)} training images are damaged, legal: up to {self.limit}")

    def _instead(self, index: int, label: int, error: DataError) -> EncodedImage:
        """The image that stands in for the one at `index`, which turned out damaged."""
        self._note(index, error)
        for at, example in self._whole_from(index + 1):
            if example["label"] == label and at not in self._damaged:
                image = self._spared(at, example)["image"]
                assert isinstance(image, EncodedImage)  # as the damaged one
                return image
        raise DataError(f"no whole image of class {label} is left; {error}")

    def _spared(self, index: int, example: OpenedExample) -> OpenedExample:
        image, label = example["image"], example["label"]
        if isinstance(image, EncodedImage):
            image = image.or_else(partial(self._instead, index, label))
        return {"image": image, "label": label}

    def _whole_from(self, start: int) -> Iterator[tuple[int, OpenedExample]]:
        """Every image that can be opened, each once, from `start` on and round the end."""
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
            "%s; another image stands in for it (%d of at most %d)", error, count, self.limit
        )
