"""Resizes an image of any size to the square that the model sees, with PIL, in uint8.

Resizing is bilinear with antialiasing. The papers' evaluation is bilinear too.
"""

import numpy as np
from PIL import Image

from mnet_jax.data.encoded import EncodedImage
from mnet_jax.data.types import View

Picture = np.ndarray | EncodedImage  # uint8 [h, w, c], or encoded

# Photographs are evaluated by resizing the shorter side to 256 and cropping the central 224 (He et
# al. 2015, arXiv:1512.03385, section 3.4, as practised since). Other resolutions keep this ratio.
CROP_SHARE = 224 / 256


def central_view(image: Picture, view: View) -> np.ndarray:
    """Returns the central square of `image`, as used in evaluation and in training without crops.

    The square is cut out and resized, so shapes are never distorted.

    Args:
      image: uint8 [h, w, c], c of 1 or 3, or an encoded image.
      view: the side of the result, and whether to cut off the border too, so that the square's side
        is 224/256 of the image's shorter side.

    Returns:
      uint8 [side, side, c], not scaled; `image` itself if it has this shape and no border is cut
      off.
    """
    height, width = image.shape[:2]
    side = view.resolution
    if (height, width) == (side, side) and not view.photographs:
        return pixels(image)
    cut = min(height, width) * (CROP_SHARE if view.photographs else 1.0)
    left, top = (width - cut) / 2, (height - cut) / 2
    return crop(image, (left, top, left + cut, top + cut), side)


def crop(image: Picture, box: tuple[float, float, float, float], side: int) -> np.ndarray:
    """Crops `image` to `box` (left, top, right, bottom) and resizes the crop.

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
    """Returns the whole image as uint8 [h, w, c], decoded if needed."""
    return image.pixels() if isinstance(image, EncodedImage) else image
