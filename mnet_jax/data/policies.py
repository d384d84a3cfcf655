"""RandAugment, AutoAugment's policy for ImageNet, and colour jitter: choose the operations.

A strength is a share of an operation's range in AutoAugment's Table 6 (arXiv:1805.09501, appendix).
As in torchvision, the ranges of enhancements and bits start where the operation changes nothing,
and half of the enhancements, rotations, shears and translations are reversed.
"""

import numpy as np

from mnet_jax.data.draws import Draws
from mnet_jax.data.operations import Operation, Step, operated

# RandAugment's operations (arXiv:1909.13719, section 3), in the paper's order.
RANDAUGMENT: tuple[Operation, ...] = (
    "identity", "auto_contrast", "equalize", "rotate", "solarize", "color", "posterize",
    "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
FULL_MAGNITUDE = 10  # RandAugment's magnitude at the end of the ranges

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
_MAGNITUDES = 10  # magnitudes in Table 6, evenly spaced over each range

_SHEAR = 0.3
_TRANSLATION = 150 / 331  # of the side: the authors' images had 331 pixels
_ROTATION = 30.0
_ENHANCEMENT = 0.9
_LEAST_FACTOR = 0.1  # for strengths above 1, as in timm
_JITTERED: tuple[Operation, ...] = ("brightness", "contrast", "color", "hue")
_HUE_SHARE = 1 / 4


def step(operation: Operation, strength: float, reverse: bool, side: int) -> Step:
    """Returns an operation with the value that corresponds to a strength.

    Args:
      operation: the operation.
      strength: the share of its range; above 1 as far as the operation makes sense.
      reverse: whether to reverse the direction, if the operation has two.
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


def randaugment(images: np.ndarray, draws: Draws, layers: int, magnitude: float) -> np.ndarray:
    """RandAugment (arXiv:1909.13719): applies random ones of 14 operations at one magnitude.

    Args:
      images: uint8 [b, s, s, c].
      draws: the random streams of the images.
      layers: the number of operations for each image, the paper's N.
      magnitude: the paper's M; 10 is the end of the ranges (30 in torchvision).
    """
    side, strength = images.shape[1], magnitude / FULL_MAGNITUDE
    drawn = [draws.fold(layer) for layer in range(layers)]
    chosen = np.stack([d.integers(0, len(RANDAUGMENT)) for d in drawn], axis=1)
    reverse = np.stack([d.chance(1, 0.5) for d in drawn], axis=1)

    def steps(image: int) -> list[Step]:
        pairs = zip(chosen[image], reverse[image], strict=True)
        return [step(RANDAUGMENT[which], strength, other, side) for which, other in pairs]

    return np.stack([operated(image, steps(i)) for i, image in enumerate(images)])


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
            step(operation, magnitude / (_MAGNITUDES - 1), bool(reverse[image, i]), side)
            for i, (operation, probability, magnitude) in enumerate(AUTOAUGMENT[policy[image]])
            if luck[image, i] < probability
        ]

    return np.stack([operated(image, steps(i)) for i, image in enumerate(images)])


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

    return np.stack([operated(image, steps(i)) for i, image in enumerate(images)])
