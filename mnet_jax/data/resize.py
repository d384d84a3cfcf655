"""Resizes an image of any size to the square that the model sees, with PIL, in uint8.

The papers' evaluation is bilinear. Many of timm's models are trained and evaluated with bicubic
resizing.
"""

import numpy as np
from PIL import Image

from mnet_jax.data.encoded import EncodedImage, resized_part
from mnet_jax.data.types import Interpolation, View

Picture = np.ndarray | EncodedImage  # uint8 [h, w, c], or encoded


def central_view(image: Picture, view: View) -> np.ndarray:
    """Returns the central square of `image`, as used in evaluation and in training without crops.

    The square is cut out and resized, so shapes are never distorted. torchvision and timm resize
    the whole image to whole pixels first, and then cut out whole pixels. So their square is larger
    or smaller by up to a pixel of the result, and shifted by up to half a pixel.

    Args:
      image: uint8 [h, w, c], c of 1 or 3, or an encoded image.
      view: the share of the shorter side to cut out, the side of the result and the interpolation.

    Returns:
      uint8 [side, side, c], not scaled; `image` itself if it has this shape and no border is cut
      off.
    """
    height, width = image.shape[:2]
    side = view.resolution
    if (height, width) == (side, side) and not view.photographs:
        return pixels(image)
    cut = min(height, width) * view.central_share
    left, top = (width - cut) / 2, (height - cut) / 2
    return crop(image, (left, top, left + cut, top + cut), side, view.interpolation)


def crop(
    image: Picture,
    box: tuple[float, float, float, float],
    side: int,
    interpolation: Interpolation = "bilinear",
) -> np.ndarray:
    """Crops `image` to `box` (left, top, right, bottom) and resizes the crop.

    Returns:
      uint8 [side, side, c].
    """
    if isinstance(image, EncodedImage):
        return image.crop(box, side, interpolation)
    gray = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if gray else image)
    resized = resized_part(picture, box, side, interpolation)
    return np.asarray(resized).reshape(side, side, image.shape[-1])


def pixels(image: Picture) -> np.ndarray:
    """Returns the whole image as uint8 [h, w, c], decoded if needed."""
    return image.pixels() if isinstance(image, EncodedImage) else image
