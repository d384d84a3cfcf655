"""Batches from a source, by Grain: shuffled and augmented to train, in order to evaluate.

Grain hands out batches of indices; one function turns such a batch into arrays. So images in memory
are one gather and one vectorised augmentation a batch, and threads decode the rest batch by batch.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from mnet_jax.config import DataConfig
from mnet_jax.data import augment, policies
from mnet_jax.data.draws import Draws
from mnet_jax.data.errors import DataError
from mnet_jax.data.folder import read_image
from mnet_jax.data.order import WHOLE, Places, Shard, ShuffledBatches
from mnet_jax.data.resize import central_view, crop
from mnet_jax.data.sources import ArraySource, Source, rgb

if TYPE_CHECKING:  # it takes a second, and a process that only asks what there is needs none
    import grain

_THREADS = 2
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


def train_batches(
    source: Source, config: DataConfig, seed: int, shard: Shard = WHOLE
) -> "grain.DatasetIterator":
    """An endless iterator over shuffled, augmented batches (`image` and `label`).

    Each epoch is a new permutation. Batches are always full and run across the ends of epochs: the
    images that an epoch leaves over begin the next one's first batch, so none is lost: the first
    k * len(source) images are each image k times.
    Order and augmentation follow from `seed` alone: how an image looks in an epoch does not depend
    on its batch, on the threads or on the number of hosts. The iterator's state is its position:
    saved by `grain.checkpoint.CheckpointSave(iterator)`, it resumes with the very next batch.

    Args:
      source: what to read.
      config: its resolution, batch size (over all hosts) and augmentation.
      seed: 0 or more.
      shard: this host's share of every batch; the shares side by side are the whole batch.

    Raises:
      DataError: the source is empty; while iterating, an image cannot be decoded.
      ValueError: the hosts cannot share a batch evenly.
    """
    if not len(source):
        raise DataError("train_batches: got a source without images, legal: 1 or more")
    import grain

    order = ShuffledBatches(len(source), config.batch_size, seed, shard)
    batches = grain.MapDataset.source(order).map(partial(_train_batch, source, config, seed))
    return iter(batches.to_iter_dataset(_read_options(config)))


class EvalBatches(Iterable[Batch]):
    """The batches of one pass over a source, in its order; can be iterated again."""

    def __init__(self, source: Source, config: DataConfig, shard: Shard = WHOLE) -> None:
        self._source, self._config = source, config
        self._share = shard.of(config.batch_size)

    def __len__(self) -> int:
        return -(-len(self._source) // self._config.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        import grain

        numbers = grain.MapDataset.range(len(self))
        masked = numbers.map(partial(_eval_batch, self._source, self._config, self._share))
        return iter(masked.to_iter_dataset(_read_options(self._config)))


def eval_batches(source: Source, config: DataConfig, shard: Shard = WHOLE) -> EvalBatches:
    """One pass over `source` in order: batches of `image`, `label` and `mask`, nothing dropped.

    The last batch is filled up with zeros, whose mask is 0: the masks' sum is `len(source)`, and
    one compiled step takes every batch. Every shard has equally many batches, some of which may be
    padding alone.

    Raises:
      ValueError: the hosts cannot share a batch evenly.
    """
    return EvalBatches(source, config, shard)


def _read_options(config: DataConfig) -> "grain.ReadOptions":
    import grain

    batch_bytes = config.batch_size * config.resolution**2 * 3 * 4
    ahead = min(max(_PREFETCH_BYTES // batch_bytes, _THREADS), _PREFETCH_BATCHES)
    return grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=ahead)


# What an image's draws are for: each use has a stream of its own.
_CROP, _SHIFT, _FLIP, _POLICY, _JITTER, _ERASING = range(6)


def _train_batch(source: Source, config: DataConfig, seed: int, places: Places) -> Batch:
    """The augmented batch of the images at `places`."""
    draws = Draws.of(seed, places.epochs, places.indices)
    if config.augmentation == "resized_crop_flip":
        images, labels = _crops(source, places.indices, config.resolution, draws.fold(_CROP))
    else:
        images, labels = _views(source, places.indices, config.resolution)
    if config.augmentation in ("shift", "shift_flip"):
        images = augment.shift(images, draws.fold(_SHIFT))
    if config.augmentation in ("shift_flip", "resized_crop_flip"):
        images = augment.flip(images, draws.fold(_FLIP))
    image = scaled(_operated(images, config, draws))
    if config.erasing:
        image = augment.erase(image, draws.fold(_ERASING), config.erasing)
    return {"image": image, "label": labels}


def _operated(images: np.ndarray, config: DataConfig, draws: Draws) -> np.ndarray:
    """The images uint8 [b, s, s, c] after the policy and the colour jitter, if there are any."""
    if config.policy == "randaugment":
        layers, magnitude = config.randaugment_layers, config.randaugment_magnitude
        images = policies.randaugment(images, draws.fold(_POLICY), layers, magnitude)
    elif config.policy == "autoaugment":
        images = policies.autoaugment(images, draws.fold(_POLICY))
    if config.colour_jitter:
        images = policies.colour_jitter(images, draws.fold(_JITTER), config.colour_jitter)
    return images


def _eval_batch(source: Source, config: DataConfig, share: range, number: int) -> Batch:
    """The share of the batch of that number, filled up to its size."""
    start = number * config.batch_size + share.start
    indices = np.arange(start, min(start + len(share), len(source)))
    images, labels = _views(source, indices, config.resolution)
    missing = len(share) - len(labels)
    image = np.pad(scaled(images), ((0, missing), (0, 0), (0, 0), (0, 0)))
    mask = np.pad(np.ones(len(labels), np.float32), (0, missing))
    return {"image": image, "label": np.pad(labels, (0, missing)), "mask": mask}


def _views(source: Source, indices: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Central views uint8 [b, side, side, c] and labels int32 [b] of the images at `indices`."""
    if isinstance(source, ArraySource) and source.shape[:2] == (side, side):
        return source.images[indices], source.labels[indices]
    examples = [source[int(index)] for index in indices]
    photograph = source.shape is None
    images = [central_view(example["image"], side, photograph) for example in examples]
    return _stacked(images, side), np.array([example["label"] for example in examples], np.int32)


def _crops(
    source: Source, indices: np.ndarray, side: int, draws: Draws
) -> tuple[np.ndarray, np.ndarray]:
    """Random crops uint8 [b, side, side, 3] and labels int32 [b] of the images at `indices`."""
    examples = [source[int(index)] for index in indices]
    sizes = np.array([example["image"].shape[:2] for example in examples])
    boxes = augment.crop_boxes(sizes[:, 0], sizes[:, 1], draws)
    images = [
        crop(example["image"], tuple(box), side)
        for example, box in zip(examples, boxes.tolist(), strict=True)
    ]
    return _stacked(images, side), np.array([example["label"] for example in examples], np.int32)


def _stacked(images: list[np.ndarray], side: int) -> np.ndarray:
    """The images uint8 [side, side, c] as one array, also where there is none."""
    return np.stack(images) if images else np.zeros((0, side, side, 3), np.uint8)


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
    return scaled(central_view(read_image(str(path)), side, photograph))
