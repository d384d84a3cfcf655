"""Scales pixels to the numbers that a network sees, and back."""

import numpy as np

from mnet_jax.data.sources import rgb
from mnet_jax.data.types import Scaling

# Mean and standard deviation of ImageNet's red, green and blue, where white is 1. torchvision's
# transforms and most of timm's weights use them.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def scaled(images: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Scales images uint8 [..., h, w, c] of 1 or 3 channels to float32 [..., h, w, 3].

    `symmetric` is the scaling of the papers' code, from -1 for black to 1 for white. `imagenet` is
    torchvision's. `unit` is from 0 for black to 1 for white.
    """
    values = images.astype(np.float32)
    if scaling == "symmetric":
        values /= 127.5
        values -= 1.0
        return rgb(values)  # last, so that a gray image is scaled only once
    values /= 255.0
    values = rgb(values)
    if scaling == "unit":
        return values
    values -= IMAGENET_MEAN
    values /= IMAGENET_DEVIATION
    return values


def black_and_white(scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values of black and white, float32 [3] each."""
    black, white = scaled(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), scaling).reshape(2, 3)
    return black, white


def pixels_of(values: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Inverts `scaled` for display; returns the nearest pixels, uint8 [..., h, w, 3]."""
    black, white = black_and_white(scaling)
    return np.clip(np.rint((values - black) / (white - black) * 255), 0, 255).astype(np.uint8)
