"""Makes batches with Grain: shuffled and augmented for training, in stored order for evaluation.

Grain yields batches of indices, and one function turns such a batch into arrays. So a batch
of images in memory takes one gather and one vectorized augmentation. Other images are decoded by
threads, each of which makes one batch at a time.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnet_jax import host_memory, process
from mnet_jax.config import MAX_IMAGE_PIXELS, DataConfig
from mnet_jax.data.batches import Batch, eval_batch, train_batch
from mnet_jax.data.encoded import read_encoded
from mnet_jax.data.order import WHOLE, ImageIndices, Shard, ShuffledBatches
from mnet_jax.data.resize import central_view
from mnet_jax.data.scaling import scaled
from mnet_jax.data.sources import Source
from mnet_jax.data.types import DataError, View
from mnet_jax.validation import require

if TYPE_CHECKING:  # importing it takes a second, and not every process needs it
    import grain

_PREFETCH_BATCHES = 16
_BATCH_COPIES = 2  # copies of a batch while it is made: scaled, and padded or mixed
_PREFETCH_BYTES = 256 * 2**20  # a batch of 128 at 224 pixels has 77 MB


def steps_per_epoch(source: Source, config: DataConfig) -> int:
    """Returns the number of whole batches in one pass over `source`, at least 1."""
    return config.steps_per_epoch(len(source))


def train_batches(
    source: Source, config: DataConfig, seed: int, shard: Shard = WHOLE
) -> "grain.DatasetIterator":
    """Returns an endless iterator over shuffled, augmented batches (`image` and `label`).

    Each epoch is a new permutation. Batches are always full and may span two epochs: the images
    left over at the end of an epoch begin the first batch of the next. So no image is lost: the
    first k * len(source) images contain each image k times.

    Order and augmentation depend on `seed` alone, and not on the batch size, the number of threads
    or the number of hosts. The iterator's state is its position, which
    `grain.checkpoint.CheckpointSave(iterator)` saves. A restored iterator continues with the very
    next batch.

    Args:
      source: the images.
      config: the resolution, the batch size (over all hosts) and the augmentation.
      seed: 0 or more.
      shard: this host's share of every batch; the concatenated shares are the whole batch.

    Raises:
      DataError: the source is empty; while iterating, an image cannot be decoded.
      ValueError: the hosts cannot share a batch evenly, a batch does not fit into memory, or the
        config sets `start_resolution`, which only earlier versions can use.
    """
    if not len(source):
        raise DataError("train_batches: got a source without images, legal: 1 or more")
    _require_one_side(config)
    _require_room(config, len(shard.of(config.batch_size)))
    import grain

    order = ShuffledBatches(len(source), config.batch_size, seed, shard)
    batches = grain.MapDataset.source(order).map(partial(train_batch, source, config, seed))
    return iter(batches.to_iter_dataset(_read_options(config, len(shard.of(config.batch_size)))))


def first_images(source: Source, config: DataConfig, seed: int, positions: np.ndarray) -> Batch:
    """Returns some images of the first batch of `train_batches`, and reads only those.

    Args:
      source, config, seed: as in `train_batches`.
      positions: positions in the batch, int [n].

    Raises:
      DataError: an image cannot be decoded.
      ValueError: the config sets `start_resolution`, which only earlier versions can use.
    """
    _require_one_side(config)
    batch = ShuffledBatches(len(source), config.batch_size, seed)[0]
    chosen = ImageIndices(batch.epochs[positions], batch.indices[positions])
    return train_batch(source, config, seed, chosen)


def _require_one_side(config: DataConfig) -> None:
    start = config.start_resolution
    require(not start, "start_resolution", start, "0, as images no longer grow in training")


class EvalBatches(Iterable[Batch]):
    """The batches of one pass over a source, in order; can be iterated repeatedly."""

    def __init__(self, source: Source, config: DataConfig, shard: Shard = WHOLE) -> None:
        self._source, self._config = source, config
        self._share = shard.of(config.batch_size)
        _require_room(config, len(self._share))

    def __len__(self) -> int:
        return -(-len(self._source) // self._config.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        import grain

        numbers = grain.MapDataset.range(len(self))
        masked = numbers.map(partial(eval_batch, self._source, self._config, self._share))
        return iter(masked.to_iter_dataset(_read_options(self._config, len(self._share))))


def eval_batches(source: Source, config: DataConfig, shard: Shard = WHOLE) -> EvalBatches:
    """Returns one pass over `source` in order: batches of `image`, `label` and `mask`.

    No image is dropped. The last batch is padded with zeros whose mask is 0, so the masks sum to
    `len(source)`, and all batches have the same shape. Every shard has the same number of batches;
    the last batch of a shard may be padding alone.

    Raises:
      ValueError: the hosts cannot share a batch evenly, or a batch does not fit into memory.
    """
    return EvalBatches(source, config, shard)


def _require_room(config: DataConfig, images: int) -> None:
    """Raises ValueError unless two copies of this host's share of a batch fit into memory."""
    left = host_memory.available_bytes()
    most = left // (_BATCH_COPIES * _batch_bytes(config, 1))
    legal = (
        f"{config.batch_size // images * most:,} or fewer at a resolution of {config.resolution}, "
        f"as {left / 2**30:.1f} GiB of memory are left"
    )
    require(images <= most, "batch_size", config.batch_size, legal)


def _batch_bytes(config: DataConfig, images: int) -> int:
    return images * config.resolution**2 * 3 * 4


def _read_options(config: DataConfig, images: int) -> "grain.ReadOptions":
    """Returns Grain's options: how many batches of `images` images this host makes at a time."""
    import grain

    batch_bytes = _batch_bytes(config, images)
    threads = max(process.usable_cores(), 2)  # one thread may wait for the disk
    threads = min(threads, _PREFETCH_BATCHES)  # each makes one batch at a time
    room = host_memory.available_bytes() // (_BATCH_COPIES * batch_bytes)
    threads = min(threads, max(room // 2, 1))  # the other half holds finished batches
    ahead = min(max(_PREFETCH_BYTES // batch_bytes, threads), _PREFETCH_BATCHES)
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)


def read_eval_image(path: Path, view: View, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Reads an image file and prepares it as `eval_batches` does: float32 [side, side, 3].

    Args:
      path: an image file.
      view: how the image is cropped, resized and scaled.
      max_pixels: limit on the pixels of the image.

    Raises:
      DataError: the image cannot be decoded, or has more than `max_pixels`.
    """
    image = read_encoded(str(path), max_pixels)
    return scaled(central_view(image, view), view.scaling)
