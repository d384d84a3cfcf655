"""From an image of any size to the square that the model sees, by PIL, in uint8.

Bilinear with antialiasing, as PIL does it; the papers' evaluation is bilinear too.
"""

import numpy as np
from PIL import Image

from mnet_jax.data.encoded import EncodedImage

Picture = np.ndarray | EncodedImage  # uint8 [h, w, c], or what decodes to it

# Evaluation of photographs: shorter side to 256, then the central 224 (He et al. 2015,
# arXiv:1512.03385, section 3.4, as practised since); kept in proportion for other resolutions.
_CROP_SHARE = 224 / 256


def central_view(image: Picture, side: int, photograph: bool) -> np.ndarray:
    """The view of `image` for evaluation, and for training without crops.

    The shorter side is resized and the centre cut out, so shapes are never distorted. Photographs
    of many sizes lose their border (`224/256` is kept); sets of one size keep all they can.

    Args:
      image: uint8 [h, w, c], c of 1 or 3, or not decoded yet.
      side: side of the result, in pixels.
      photograph: whether to cut the border off.

    Returns:
      uint8 [side, side, c]; `image` itself where it has that shape and is no photograph.
    """
    height, width = image.shape[:2]
    if (height, width) == (side, side) and not photograph:
        return pixels(image)
    cut = min(height, width) * (_CROP_SHARE if photograph else 1.0)
    left, top = (width - cut) / 2, (height - cut) / 2
    return crop(image, (left, top, left + cut, top + cut), side)


def crop(image: Picture, box: tuple[float, float, float, float], side: int) -> np.ndarray:
    """The part of `image` in `box` (left, top, right, bottom), resized.

    Returns:
      uint8 [side, side, c].
    """
    if isinstance(image, EncodedImage):
        return image.crop(box, side)
    gray = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if gray else image)
    resized = picture.resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized).reshape(side, side, image.shape[-1])


def pixels(image: Picture) -> np.ndarray:
    """All of `image`: uint8 [h, w, c]."""
    return image.pixels() if isinstance(image, EncodedImage) else image
