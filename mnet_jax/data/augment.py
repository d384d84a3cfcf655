"""Augmentations of a batch of images in NumPy, with explicit random numbers.

A batch is uint8 [b, h, w, c] unless stated otherwise. Each image is augmented with its own random
numbers only, so the result does not depend on the rest of the batch.
"""

import numpy as np

from mnet_jax.data.draws import Draws

# Szegedy et al. 2014 (arXiv:1409.4842), section 6: patches of 8 % to 100 % of the area, with an
# aspect ratio between 3/4 and 4/3.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10  # as in TensorFlow's and torchvision's samplers of these crops

# Zhong et al. 2017 (arXiv:1708.04896), section 4.2.
_ERASED_AREA = (0.02, 0.4)
_ERASED_ASPECT = (0.3, 1 / 0.3)


def shift(images: np.ndarray, draws: Draws) -> np.ndarray:
    """Shifts each image by at most an eighth of its height and width.

    If a side has fewer than 8 pixels, the limit is one pixel. Offsets are uniform over whole
    pixels. Uncovered pixels repeat the nearest edge. At 32 pixels the largest offset is 4, as in He
    et al. 2015 (arXiv:1512.03385, section 4.2), who pad with zeros.
    """
    height, width = images.shape[1:3]
    down, across = max(1, height // 8), max(1, width // 8)
    padded = np.pad(images, ((0, 0), (down, down), (across, across), (0, 0)), mode="edge")
    tops, lefts = draws.integers(0, 2 * down + 1), draws.integers(1, 2 * across + 1)
    moved = np.empty_like(images)
    for i, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True)):
        moved[i] = padded[i, top : top + height, left : left + width]
    return moved


def flip(images: np.ndarray, draws: Draws) -> np.ndarray:
    """Mirrors each image left to right with probability one half."""
    mirrored, flipped = draws.chance(0, 0.5), images.copy()
    flipped[mirrored] = images[mirrored, :, ::-1]
    return flipped


def crop_boxes(heights: np.ndarray, widths: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns a random crop box for each image, sampled as in Inception (arXiv:1409.4842).

    Args:
      heights, widths: int [b], in pixels.
      draws: the random streams of the images.

    Returns:
      int [b, 4] of (left, top, right, bottom), in pixels. If none of ten random boxes fits into an
      image, the image gets the largest central box with a legal aspect ratio.
    """
    boxes, found = _boxes(heights, widths, draws, _AREA, _ASPECT)
    crop_widths = np.minimum(widths, np.maximum(1, np.floor(heights * _ASPECT[1])))
    crop_heights = np.minimum(heights, np.maximum(1, np.floor(widths / _ASPECT[0])))
    left, top = (widths - crop_widths) // 2, (heights - crop_heights) // 2
    central = np.stack([left, top, left + crop_widths, top + crop_heights], axis=1)
    return np.where(found[:, None], boxes, central.astype(np.int64))


def erase(
    images: np.ndarray,
    draws: Draws,
    probability: float,
    channels: int = 3,
    black_and_white: tuple[np.ndarray | float, np.ndarray | float] = (-1.0, 1.0),
) -> np.ndarray:
    """Random erasing (arXiv:1708.04896, algorithm 1): fills a box in some images with noise.

    The noise is the paper's best variant, RE-R: each value is uniform between black and white. Two
    points follow torchvision and timm, not the paper: the logarithm of the aspect ratio is uniform,
    and an image into which none of ten random boxes fits stays unchanged.

    Args:
      images: float32 [b, h, w, 3].
      draws: the random streams of the images.
      probability: the probability that an image gets a box.
      channels: the channels of the noise; 1 for gray.
      black_and_white: the value of black and the value of white, each a scalar or [3] (one per
        channel).
    """
    black, white = black_and_white
    count, height, width = images.shape[:3]
    sides = np.full(count, height), np.full(count, width)
    boxes, found = _boxes(*sides, draws.fold(0), _ERASED_AREA, _ERASED_ASPECT)
    chosen = np.flatnonzero(found & draws.fold(1).chance(0, probability))
    erased = images.copy() if len(chosen) else images
    for i in chosen:
        left, top, right, bottom = boxes[i]
        shape = (bottom - top, right - left, channels)
        noise = draws[i : i + 1].fold(2).uniforms(int(np.prod(shape)))
        erased[i, top:bottom, left:right] = black + (white - black) * noise.reshape(shape)
    return erased


def _boxes(
    heights: np.ndarray,
    widths: np.ndarray,
    draws: Draws,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a random box for each image: the first of ten that lies within the image.

    Args:
      heights, widths: int [b], in pixels.
      draws: the random streams of the images.
      area: the smallest and the largest area, as shares of the image's area.
      aspect: the smallest and the largest ratio of width to height.

    Returns:
      int [b, 4] of (left, top, right, bottom) in pixels, and bool [b], which is false for an image
      into which none of the ten boxes fits.
    """
    boxes, found = np.zeros((len(draws), 4), np.int64), np.zeros(len(draws), bool)
    for attempt in range(_TRIES):
        drawn = draws.fold(attempt)
        areas = heights * widths * drawn.uniform(0, *area)
        # The logarithm is uniform, so that wide boxes are as likely as tall ones.
        aspects = np.exp(drawn.uniform(1, np.log(aspect[0]), np.log(aspect[1])))
        across = np.rint(np.sqrt(areas * aspects)).astype(np.int64)
        down = np.rint(np.sqrt(areas / aspects)).astype(np.int64)
        fits = ~found & (across > 0) & (across <= widths) & (down > 0) & (down <= heights)
        left = drawn.integers(2, np.maximum(widths - across, 0) + 1)
        top = drawn.integers(3, np.maximum(heights - down, 0) + 1)
        boxes[fits] = np.stack([left, top, left + across, top + down], axis=1)[fits]
        found |= fits
        if found.all():
            break
    return boxes, found
