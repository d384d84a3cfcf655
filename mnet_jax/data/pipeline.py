"""Batches from a source, by Grain: shuffled and augmented to train, in order to evaluate.

Grain hands out batches of indices; one function turns such a batch into arrays. So images in memory
are one gather and one vectorised augmentation a batch, and threads decode the rest batch by batch.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from mnet_jax.config import DataConfig
from mnet_jax.data import augment
from mnet_jax.data.encoded import read_encoded
from mnet_jax.data.errors import DataError
from mnet_jax.data.resize import central_view, crop
from mnet_jax.data.sources import ArraySource, Source, opened, rgb

if TYPE_CHECKING:  # it takes a second, and a process that only asks what there is needs none
    import grain

_PREFETCH_BATCHES = 16
_PREFETCH_BYTES = 256 * 2**20  # a batch of 128 at 224 pixels has 77 MB


class Batch(TypedDict, total=False):
    """A batch.

    Keys:
      image: float32 [b, r, r, 3] in [-1, 1].
      label: int32 [b].
      mask: float32 [b], 1 for an image and 0 for padding; only in evaluation.
    """

    image: np.ndarray
    label: np.ndarray
    mask: np.ndarray


def steps_per_epoch(source: Source, config: DataConfig) -> int:
    """Whole batches in one pass over `source`, at least 1."""
    return max(1, len(source) // config.batch_size)


def train_batches(source: Source, config: DataConfig, seed: int) -> "grain.DatasetIterator":
    """An endless iterator over shuffled, augmented batches (`image` and `label`).

    Each epoch is a new permutation. Batches are always full and run across the ends of epochs: the
    images that an epoch leaves over begin the next one's first batch, so none is lost: the first
    k * len(source) images are each image k times.
    Order and augmentation follow from `seed` alone, and the iterator's state is its position:
    saved by `grain.checkpoint.CheckpointSave(iterator)`, it resumes with the very next batch.

    Args:
      source: what to read.
      config: its resolution, batch size and augmentation.
      seed: 0 or more.

    Raises:
      DataError: the source is empty; while iterating, an image cannot be decoded.
    """
    if not len(source):
        raise DataError("train_batches: got a source without images, legal: 1 or more")
    import grain

    order = grain.MapDataset.source(_ShuffledBatches(len(source), config.batch_size, seed))
    batches = order.seed(seed).random_map(partial(_train_batch, source, config))
    return iter(batches.to_iter_dataset(_read_options(config)))


class _ShuffledBatches:
    """Endless batches of indices, each epoch a permutation; random access, for Grain to seek in.

    Grain's own `shuffle` finds each index by itself, 20 to 60 microseconds each: more than all the
    rest of a batch of small images.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count, self._batch_size, self._seed = count, batch_size, seed
        # Threads work on neighbouring batches, so two epochs are in use at a time.
        self._permutation = lru_cache(maxsize=4)(self._permuted)

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size  # endless, as Grain's `repeat(None)` has it

    def __getitem__(self, batch: int) -> np.ndarray:
        epoch, start = divmod(int(batch) * self._batch_size, self._count)
        parts, missing = [], self._batch_size
        while missing:
            parts.append(self._permutation(epoch)[start : start + missing])
            missing -= len(parts[-1])
            epoch, start = epoch + 1, 0
        return np.concatenate(parts)

    def _permuted(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._count)


class EvalBatches(Iterable[Batch]):
    """The batches of one pass over a source, in its order; can be iterated again."""

    def __init__(self, source: Source, config: DataConfig) -> None:
        self._source, self._config = source, config

    def __len__(self) -> int:
        return -(-len(self._source) // self._config.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        import grain

        indices = grain.MapDataset.range(len(self._source))
        batches = indices.batch(self._config.batch_size, drop_remainder=False)
        masked = batches.map(partial(_eval_batch, self._source, self._config))
        return iter(masked.to_iter_dataset(_read_options(self._config)))


def eval_batches(source: Source, config: DataConfig) -> EvalBatches:
    """One pass over `source` in order: batches of `image`, `label` and `mask`, nothing dropped.

    The last batch is filled up with zeros, whose mask is 0: the masks' sum is `len(source)`, and
    one compiled step takes every batch.
    """
    return EvalBatches(source, config)


def _read_options(config: DataConfig) -> "grain.ReadOptions":
    import grain

    threads = min(_usable_cores(), _PREFETCH_BATCHES)  # each works on a batch of its own
    batch_bytes = config.batch_size * config.resolution**2 * 3 * 4
    ahead = min(max(_PREFETCH_BYTES // batch_bytes, threads), _PREFETCH_BATCHES)
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)


def _usable_cores() -> int:
    """Those that this process may run on, at least 2: a thread may wait for the disk."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return max(2, len(allowed(0)) if allowed else os.cpu_count() or 1)


def _train_batch(
    source: Source, config: DataConfig, indices: np.ndarray, rng: np.random.Generator
) -> Batch:
    """The augmented batch of the images at `indices`."""
    if config.augmentation == "resized_crop_flip":
        images, labels = _crops(source, indices, config.resolution, rng)
    else:
        images, labels = _views(source, indices, config.resolution)
    if config.augmentation in ("shift", "shift_flip"):
        images = augment.shift(images, rng)
    if config.augmentation in ("shift_flip", "resized_crop_flip"):
        images = augment.flip(images, rng)
    return {"image": scaled(images), "label": labels}


def _eval_batch(source: Source, config: DataConfig, indices: np.ndarray) -> Batch:
    """The batch of the images at `indices`, filled up to the batch size."""
    images, labels = _views(source, indices, config.resolution)
    missing = config.batch_size - len(labels)
    image = np.pad(scaled(images), ((0, missing), (0, 0), (0, 0), (0, 0)))
    mask = np.pad(np.ones(len(labels), np.float32), (0, missing))
    return {"image": image, "label": np.pad(labels, (0, missing)), "mask": mask}


def _views(source: Source, indices: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Central views uint8 [b, side, side, c] and labels int32 [b] of the images at `indices`."""
    if isinstance(source, ArraySource) and source.shape[:2] == (side, side):
        return source.images[indices], source.labels[indices]
    examples = [opened(source, int(index)) for index in indices]
    photograph = source.shape is None
    images = [central_view(example["image"], side, photograph) for example in examples]
    return np.stack(images), np.array([example["label"] for example in examples], np.int32)


def _crops(
    source: Source, indices: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random crops uint8 [b, side, side, 3] and labels int32 [b] of the images at `indices`."""
    examples = [opened(source, int(index)) for index in indices]
    images = [
        crop(image, augment.crop_box(image.shape[0], image.shape[1], rng), side)
        for image in (example["image"] for example in examples)
    ]
    return np.stack(images), np.array([example["label"] for example in examples], np.int32)


def scaled(images: np.ndarray) -> np.ndarray:
    """Images uint8 [b, h, w, c] as the float32 [b, h, w, 3] in [-1, 1] of the papers' code."""
    values = images.astype(np.float32)
    values /= 127.5
    values -= 1.0
    return rgb(values)


def viewed(path: Path, side: int, *, photograph: bool) -> np.ndarray:
    """An image file as `eval_batches` would show it, float32 [side, side, 3] in [-1, 1].

    Raises:
      DataError: it cannot be decoded.
    """
    return scaled(central_view(read_encoded(str(path)), side, photograph))
