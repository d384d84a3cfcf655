"""A training source that replaces damaged images, so that a few of them do not end a run."""

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
        """The shape of the source."""
        return self.source.shape

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.opened(index)
        return {"image": rgb(pixels(example["image"])), "label": example["label"]}

    def opened(self, index: int) -> OpenedExample:
        """Returns an example whose image is not decoded yet.

        If even the header is damaged, the label may be unknown. Then the next image is returned
        with its own label.
        """
        for at, example in self._whole_from(int(index)):
            return self._spared(at, example)
        raise DataError(f"all {len(self)} training images are damaged, legal: up to {self.limit}")

    def _instead(self, index: int, label: int, error: DataError) -> EncodedImage:
        """Returns the replacement of the image at `index`, which is damaged."""
        self._note(index, error)
        for at, example in self._whole_from(index + 1):
            if example["label"] == label and at not in self._damaged:
                image = self._spared(at, example)["image"]
                assert isinstance(image, EncodedImage)  # because the damaged one is
                return image
        raise DataError(f"no whole image of class {label} is left; {error}")

    def _spared(self, index: int, example: OpenedExample) -> OpenedExample:
        image, label = example["image"], example["label"]
        if isinstance(image, EncodedImage):
            image = image.or_else(partial(self._instead, index, label))
        return {"image": image, "label": label}

    def _whole_from(self, start: int) -> Iterator[tuple[int, OpenedExample]]:
        """Yields every image that can be opened, once, from `start` on and wrapping around."""
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
