"""RandAugment, AutoAugment's policy for ImageNet, and colour jitter, on uint8 images with Pillow.

The operations are those of AutoAugment (arXiv:1805.09501, appendix Table 6) without Cutout and
SamplePairing, plus a shift of the hue. Gray images stay gray.

A strength is a share of an operation's range in AutoAugment's Table 6. Two points are as in
torchvision. The ranges of posterize and of the enhancements (brightness, contrast, color and
sharpness) start where the operation changes nothing. Each enhancement, rotation, shear or
translation is reversed with probability one half.
"""

import math
from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mnet_jax.data.draws import Draws

Operation = Literal[
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
    "auto_contrast", "equalize", "invert", "solarize", "posterize",
    "brightness", "contrast", "color", "sharpness", "hue",
]  # fmt: skip
Step: TypeAlias = tuple[Operation, float]


# RandAugment's operations (arXiv:1909.13719, section 3), in the paper's order.
RANDAUGMENT: tuple[Operation, ...] = (
    "identity", "auto_contrast", "equalize", "rotate", "solarize", "color", "posterize",
    "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
_RANDAUGMENT_FULL = 10  # the magnitude at the end of the ranges


def randaugment(images: np.ndarray, draws: Draws, layers: int, magnitude: float) -> np.ndarray:
    """RandAugment (arXiv:1909.13719): applies operations drawn from 14, all at one magnitude.

    Args:
      images: uint8 [b, s, s, c].
      draws: the random streams of the images.
      layers: the number of operations for each image, the paper's N.
      magnitude: the paper's M. At 10 each operation is at the end of its range; on torchvision's
        scale this is 30.
    """
    side, strength = images.shape[1], magnitude / _RANDAUGMENT_FULL
    drawn = [draws.fold(layer) for layer in range(layers)]
    chosen = np.stack([d.integers(0, len(RANDAUGMENT)) for d in drawn], axis=1)
    reverse = np.stack([d.chance(1, 0.5) for d in drawn], axis=1)

    def steps(image: int) -> list[Step]:
        pairs = zip(chosen[image], reverse[image], strict=True)
        return [step(RANDAUGMENT[which], strength, other, side) for which, other in pairs]

    return np.stack([apply_operations(image, steps(i)) for i, image in enumerate(images)])


# AutoAugment's appendix, Table 9: pairs of (operation, probability, magnitude from 0 to 9).
AUTOAUGMENT: tuple[tuple[tuple[Operation, float, int], tuple[Operation, float, int]], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)
_AUTOAUGMENT_FULL = 9  # the greatest magnitude; magnitudes are evenly spaced over a range


def autoaugment(images: np.ndarray, draws: Draws) -> np.ndarray:
    """AutoAugment's policy for ImageNet (arXiv:1805.09501): applies one of 25 pairs of operations.

    Args:
      images: uint8 [b, s, s, c].
      draws: the random streams of the images.
    """
    side, policy = images.shape[1], draws.integers(0, len(AUTOAUGMENT))
    luck = np.stack([draws.uniform(1), draws.uniform(2)], axis=1)
    reverse = np.stack([draws.chance(3, 0.5), draws.chance(4, 0.5)], axis=1)

    def steps(image: int) -> list[Step]:
        return [
            step(operation, magnitude / _AUTOAUGMENT_FULL, bool(reverse[image, i]), side)
            for i, (operation, probability, magnitude) in enumerate(AUTOAUGMENT[policy[image]])
            if luck[image, i] < probability
        ]

    return np.stack([apply_operations(image, steps(i)) for i, image in enumerate(images)])


_JITTERED: tuple[Operation, ...] = ("brightness", "contrast", "color", "hue")
_HUE_SHARE = 1 / 4  # strength for the hue relative to the others, as in SimCLR


def colour_jitter(images: np.ndarray, draws: Draws, strength: float) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue in a random order, as torchvision does.

    The factors of the first three are uniform from 1 - `strength` to 1 + `strength`. The hue shifts
    by up to `strength` / 4 turns. The ratio of the four is SimCLR's (arXiv:2002.05709, appendix A).

    Args:
      images: uint8 [b, s, s, c].
      draws: the random streams of the images.
      strength: 0 to 1.
    """
    order = np.argsort(draws.fold(0).uniforms(len(_JITTERED)), axis=1)
    offsets = strength * (2 * draws.fold(1).uniforms(len(_JITTERED)) - 1)
    values = {
        name: _HUE_SHARE * offsets[:, i] if name == "hue" else 1 + offsets[:, i]
        for i, name in enumerate(_JITTERED)
    }

    def steps(image: int) -> list[Step]:
        return [(_JITTERED[i], float(values[_JITTERED[i]][image])) for i in order[image]]

    return np.stack([apply_operations(image, steps(i)) for i, image in enumerate(images)])


# The ends of the ranges in AutoAugment's Table 6.
_SHEAR = 0.3
_TRANSLATION = 150 / 331  # of the side: the authors' images had 331 pixels
_ROTATION = 30.0  # degrees
_ENHANCEMENT = 0.9  # largest change of the factor from 1
_LEAST_FACTOR = 0.1  # for strengths above 1, as in timm


def step(operation: Operation, strength: float, reverse: bool, side: int) -> Step:
    """Returns a step: `operation` with the value that corresponds to `strength`.

    Args:
      operation: the operation.
      strength: the share of the operation's range; above 1, factors, bits and thresholds are
        clipped.
      reverse: whether to reverse the direction, if the operation has two directions.
      side: side of the square image, in pixels.
    """
    signed = -strength if reverse else strength
    match operation:
        case "shear_x" | "shear_y":
            return operation, _SHEAR * signed
        case "translate_x" | "translate_y":
            return operation, int(_TRANSLATION * side * signed)
        case "rotate":
            return operation, _ROTATION * signed
        case "brightness" | "contrast" | "color" | "sharpness":
            return operation, max(1 + _ENHANCEMENT * signed, _LEAST_FACTOR)
        case "posterize":
            return operation, max(8 - round(4 * strength), 1)
        case "solarize":
            return operation, max(256 * (1 - strength), 0.0)
    return operation, 0.0


def apply_operations(image: np.ndarray, steps: Iterable[Step]) -> np.ndarray:
    """Applies some operations to `image` (uint8 [h, w, c], c of 1 or 3), one after the other.

    A step is an operation and its value. The value is the slope of a shear, the pixels of a
    translation to the right or down, the degrees of a counterclockwise rotation, the threshold of a
    solarization, the bits of a posterization, the turns of a hue's shift, or the factor of an
    enhancement, where 1 changes nothing. The other operations ignore the value.
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
            return ImageOps.solarize(picture, math.ceil(value))  # keeps lower values
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


# Fills uncovered pixels: the authors' middle gray, close to zero once the image is scaled.
_FILL = 128


def _moved(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Moves the pixel at (a x + b y + c, d x + e y + f) to (x, y), for `matrix` (a, b, c, d, e, f).

    The nearest pixel is taken, as in the authors' code.
    """
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, fillcolor=_fill(picture))


def _fill(picture: Image.Image) -> int | tuple[int, ...]:
    return _FILL if picture.mode == "L" else (_FILL,) * 3


def _with_hue(picture: Image.Image, turns: float) -> Image.Image:
    """Shifts the hue of each pixel by `turns`, in Pillow's 8-bit HSV, as torchvision does."""
    if picture.mode == "L":
        return picture
    hue, saturation, value = picture.convert("HSV").split()
    moved = np.asarray(hue) + np.int32(turns * 255).astype(np.uint8)  # wraps around
    bands = (Image.fromarray(moved), saturation, value)
    return Image.merge("HSV", bands).convert(picture.mode)
