"""The image operations of policies and colour jitter, implemented with Pillow on uint8.

They are the operations of AutoAugment (arXiv:1805.09501, appendix Table 6) without Cutout and
SamplePairing, plus a shift of the hue. Gray images stay gray.
"""

import math
from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Operation = Literal[
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
    "auto_contrast", "equalize", "invert", "solarize", "posterize",
    "brightness", "contrast", "color", "sharpness", "hue",
]  # fmt: skip
Step: TypeAlias = tuple[Operation, float]

# Fills uncovered pixels: the authors' middle gray, close to zero once the image is scaled.
_FILL = 128


def operated(image: np.ndarray, steps: Iterable[Step]) -> np.ndarray:
    """Applies some operations to `image` (uint8 [h, w, c], c of 1 or 3), one after the other.

    A step is an operation and its value, whose meaning depends on the operation. It is the slope of
    a shear, the pixels of a translation to the right or down, the degrees of a counterclockwise
    rotation, the threshold of a solarization, the bits of a posterization, the turns of a hue's
    shift, or the factor of an enhancement, where 1 changes nothing. The other operations ignore the
    value.
    """
    gray = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if gray else image)
    for operation, value in steps:
        picture = _applied(picture, operation, value)
    return np.asarray(picture).reshape(image.shape)


def _applied(picture: Image.Image, operation: Operation, value: float) -> Image.Image:
    match operation:
        case "shear_x":
            return _moved(picture, (1, value, 0, 0, 1, 0))
        case "shear_y":
            return _moved(picture, (1, 0, 0, value, 1, 0))
        case "translate_x":
            return _moved(picture, (1, 0, -int(value), 0, 1, 0))
        case "translate_y":
            return _moved(picture, (1, 0, 0, 0, 1, -int(value)))
        case "rotate":
            return picture.rotate(value, fillcolor=_fill(picture))
        case "auto_contrast":
            return ImageOps.autocontrast(picture)
        case "equalize":
            return ImageOps.equalize(picture)
        case "invert":
            return ImageOps.invert(picture)
        case "solarize":
            return ImageOps.solarize(picture, math.ceil(value))  # lower values stay
        case "posterize":
            return ImageOps.posterize(picture, int(value))
        case "brightness":
            return ImageEnhance.Brightness(picture).enhance(value)
        case "contrast":
            return ImageEnhance.Contrast(picture).enhance(value)
        case "color":
            return ImageEnhance.Color(picture).enhance(value)
        case "sharpness":
            return ImageEnhance.Sharpness(picture).enhance(value)
        case "hue":
            return _with_hue(picture, value)
    return picture


def _moved(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Moves the pixel at (a x + b y + c, d x + e y + f) to (x, y).

    The nearest pixel is taken, as in the authors' code.
    """
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, fillcolor=_fill(picture))


def _fill(picture: Image.Image) -> int | tuple[int, ...]:
    return _FILL if picture.mode == "L" else (_FILL,) * 3


def _with_hue(picture: Image.Image, turns: float) -> Image.Image:
    """Shifts the hues around the circle of Pillow's 8-bit HSV, as torchvision does."""
    if picture.mode == "L":
        return picture
    hue, saturation, value = picture.convert("HSV").split()
    moved = np.asarray(hue) + np.int32(turns * 255).astype(np.uint8)  # wraps around
    bands = (Image.fromarray(moved), saturation, value)
    return Image.merge("HSV", bands).convert(picture.mode)
