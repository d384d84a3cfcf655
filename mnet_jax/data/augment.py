"""Augmentations of a batch of images, in NumPy, from an explicit generator.

A batch is uint8 [b, h, w, c]; each function draws for each image on its own.
"""

import math

import numpy as np

# Szegedy et al. 2014 (arXiv:1409.4842), section 6: patches of 8 % to 100 % of the area, with an
# aspect ratio between 3/4 and 4/3.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10  # as in TensorFlow's and torchvision's samplers of these crops


def shift(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves each image by up to an eighth of its sides, at least one pixel, in both directions.

    Offsets are uniform over the whole pixels; what comes in at an edge repeats that edge. At 32
    pixels these are the 4 of He et al. 2015 (arXiv:1512.03385, section 4.2), who pad with zeros.
    """
    count, height, width = images.shape[:3]
    rows = _moved(height, count, rng)
    columns = _moved(width, count, rng)
    return images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _moved(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Where each row (or column) of each image comes from: int [count, size]."""
    reach = max(1, size // 8)
    offsets = rng.integers(-reach, reach + 1, count)
    return np.clip(np.arange(size) + offsets[:, None], 0, size - 1)


def flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors each image left to right with probability one half."""
    mirrored = rng.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def crop_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random part of an image, Inception's way.

    Returns:
      (left, top, right, bottom), in pixels; where no try fits, the central part whose aspect ratio
      is the nearest legal one.
    """
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*_AREA)
        # The logarithm is uniform, so that wide is as likely as tall.
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(width - crop_width + 1))
            top = int(rng.integers(height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    crop_width = min(width, max(1, math.floor(height * _ASPECT[1])))
    crop_height = min(height, max(1, math.floor(width / _ASPECT[0])))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height
