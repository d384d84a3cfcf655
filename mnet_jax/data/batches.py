"""Makes one batch: from the indices of its images to the arrays that the model sees."""

from typing import TypedDict

import numpy as np

from mnet_jax.config import DataConfig
from mnet_jax.data import augment, policies
from mnet_jax.data.draws import Draws
from mnet_jax.data.order import ImageIndices
from mnet_jax.data.resize import central_view, crop
from mnet_jax.data.scaling import black_and_white, scaled
from mnet_jax.data.sources import ArraySource, Source, opened


class Batch(TypedDict, total=False):
    """A batch of images with labels.

    Keys:
      image: float32 [b, r, r, 3] at resolution r, scaled as in `DataConfig.scaling`.
      label: int32 [b].
      mask: float32 [b], 1 for an image and 0 for padding; only in evaluation.
    """

    image: np.ndarray
    label: np.ndarray
    mask: np.ndarray


# Each use of random numbers has its own stream.
_CROP, _SHIFT, _FLIP, _POLICY, _JITTER, _ERASING = range(6)


def train_batch(source: Source, config: DataConfig, seed: int, chosen: ImageIndices) -> Batch:
    """Returns the augmented batch of the images at `chosen`."""
    draws = Draws.of(seed, chosen.epochs, chosen.indices)
    if config.augmentation == "resized_crop_flip":
        images, labels = _crops(source, chosen.indices, config, draws.fold(_CROP))
    else:
        images, labels = _views(source, chosen.indices, config)
    if config.augmentation in ("shift", "shift_flip"):
        images = augment.shift(images, draws.fold(_SHIFT))
    if config.augmentation in ("shift_flip", "resized_crop_flip"):
        images = augment.flip(images, draws.fold(_FLIP))
    image = scaled(_with_operations(images, config, draws), config.scaling)
    if config.erasing:
        channels = source.shape[2] if source.shape else 3
        legal = black_and_white(config.scaling)
        image = augment.erase(image, draws.fold(_ERASING), config.erasing, channels, legal)
    return {"image": image, "label": labels}


def _with_operations(images: np.ndarray, config: DataConfig, draws: Draws) -> np.ndarray:
    """Applies the config's augmentation policy and colour jitter to images uint8 [b, s, s, c]."""
    if config.policy == "randaugment":
        layers, magnitude = config.randaugment_layers, config.randaugment_magnitude
        images = policies.randaugment(images, draws.fold(_POLICY), layers, magnitude)
    elif config.policy == "autoaugment":
        images = policies.autoaugment(images, draws.fold(_POLICY))
    if config.colour_jitter:
        images = policies.colour_jitter(images, draws.fold(_JITTER), config.colour_jitter)
    return images


def eval_batch(source: Source, config: DataConfig, share: range, number: int) -> Batch:
    """Returns the images at the positions `share` of batch `number`, without augmentation.

    If the source has no images for some of these positions, padding takes their place.
    """
    start = number * config.batch_size + share.start
    indices = np.arange(start, min(start + len(share), len(source)))
    images, labels = _views(source, indices, config)
    missing = len(share) - len(labels)
    image = np.pad(scaled(images, config.scaling), ((0, missing), (0, 0), (0, 0), (0, 0)))
    mask = np.pad(np.ones(len(labels), np.float32), (0, missing))
    return {"image": image, "label": np.pad(labels, (0, missing)), "mask": mask}


def _views(
    source: Source, indices: np.ndarray, config: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the central views of the images at `indices`, and their labels.

    The views are uint8 [b, side, side, c], the labels int32 [b].
    """
    side = config.resolution
    if isinstance(source, ArraySource) and source.shape[:2] == (side, side):
        return source.images[indices], source.labels[indices]
    examples = [opened(source, int(index)) for index in indices]
    view = config.view(photographs=source.shape is None)
    images = [central_view(example["image"], view) for example in examples]
    return _stacked(images, side), np.array([example["label"] for example in examples], np.int32)


def _crops(
    source: Source, indices: np.ndarray, config: DataConfig, draws: Draws
) -> tuple[np.ndarray, np.ndarray]:
    """Returns random crops of the images at `indices`, and their labels.

    The crops are uint8 [b, side, side, 3], the labels int32 [b].
    """
    side = config.resolution
    examples = [opened(source, int(index)) for index in indices]
    sizes = np.array([example["image"].shape[:2] for example in examples])
    boxes = augment.crop_boxes(sizes[:, 0], sizes[:, 1], draws)
    images = [
        crop(example["image"], tuple(box), side, config.interpolation)
        for example, box in zip(examples, boxes.tolist(), strict=True)
    ]
    return _stacked(images, side), np.array([example["label"] for example in examples], np.int32)


def _stacked(images: list[np.ndarray], side: int) -> np.ndarray:
    """Stacks images uint8 [side, side, c]; an empty list gives [0, side, side, 3]."""
    return np.stack(images) if images else np.zeros((0, side, side, 3), np.uint8)
