"""Images that are not decoded yet: what is asked of them says how much decoding that takes.

PIL decodes, resizes and lets go of Python's lock in both, so that threads use all cores. A JPEG of
which a small picture is wanted is decoded at a half, a quarter or an eighth of its size.
"""

import contextlib
import copy
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mnet_jax.data.errors import DataError, reason

# How much larger than the picture wanted a JPEG's reduced decoding has to be: PIL's own margin in
# `thumbnail`. On photographs the result then differs from full decoding by less than one of 255
# levels in the mean.
_MARGIN = 2.0
# Those that data sets have. PIL knows more by their content, whatever a file is called: EPS among
# them, for which it starts an interpreter of programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_TURNED = range(5, 9)  # EXIF's orientations that swap height and width


class EncodedImage:
    """An image file's content.

    Attributes:
      shape: (h, w, c) of the whole image.
    """

    def __init__(
        self, content: bytes, name: str, *, channels: int = 3, obey_orientation: bool = False
    ) -> None:
        """Reads the header.

        Args:
          content: of the file.
          name: for errors.
          channels: 3 for RGB, to which gray, palettes and CMYK are converted and whose transparency
            is dropped; 1 for gray.
          obey_orientation: whether EXIF's orientation is followed, as viewers do. Published numbers
            on ImageNet are of readers that do not.

        Raises:
          DataError: it cannot be decoded, or has more than 8 bits a channel.
        """
        self._content, self._name, self._channels = content, name, channels
        self._instead: Callable[[DataError], EncodedImage] | None = None
        with self._opened() as picture:
            # PIL would clip the first to 255, not scale them, and drop the low bytes of the others.
            if picture.mode[0] in "IF" or (picture.format == "PNG" and ";16" in str(picture.tile)):
                raise DataError(f"{name}: more than 8 bits a channel, legal: 8-bit images")
            self._orientation = _orientation(picture) if obey_orientation else 1
            self.shape = (*_size(picture, self._orientation), channels)

    def or_else(self, instead: Callable[[DataError], "EncodedImage"]) -> "EncodedImage":
        """The same image, in whose place another is decoded where it turns out damaged."""
        other = copy.copy(self)
        other._instead = instead
        return other

    def pixels(self) -> np.ndarray:
        """All of it: uint8 [h, w, c].

        Raises:
          DataError: it cannot be decoded.
        """
        try:
            return self._whole()
        except DataError as error:
            return self._other(error).pixels()

    def _whole(self) -> np.ndarray:
        with self._opened() as picture:
            return self._array(_with_whole_colours(self._upright(picture)))

    def crop(self, box: tuple[float, float, float, float], side: int) -> np.ndarray:
        """The part in `box` (left, top, right, bottom), resized to uint8 [side, side, c].

        As PIL's bilinear `resize` of `pixels()`; of a JPEG that is reduced while it is decoded, to
        within the rounding and filtering that `_MARGIN` allows.

        Raises:
          DataError: it cannot be decoded.
        """
        try:
            return self._part(box, side)
        except DataError as error:
            other = self._other(error)
        (height, width, _), (other_height, other_width, _) = self.shape, other.shape
        x, y = other_width / width, other_height / height
        return other.crop((x * box[0], y * box[1], x * box[2], y * box[3]), side)

    def _other(self, error: DataError) -> "EncodedImage":
        if self._instead is None:
            raise error
        return self._instead(error)

    def _part(self, box: tuple[float, float, float, float], side: int) -> np.ndarray:
        with self._opened() as picture:
            reduction = _reduce(picture, min(box[2] - box[0], box[3] - box[1]) / side)
            left, top, right, bottom = (edge / reduction for edge in box)
            whole = _with_whole_colours(self._upright(picture))
            part = whole.resize(
                (side, side), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
            )
            return self._array(part)

    def _upright(self, picture: Image.Image) -> Image.Image:
        return picture if self._orientation == 1 else ImageOps.exif_transpose(picture)

    def _array(self, picture: Image.Image) -> np.ndarray:
        mode = "RGB" if self._channels == 3 else "L"
        pixels = np.asarray(picture if picture.mode == mode else picture.convert(mode))
        return pixels.reshape(*pixels.shape[:2], self._channels)

    def _opened(self) -> contextlib.AbstractContextManager[Any]:
        return _opened(io.BytesIO(self._content), self._name)


def read_encoded(path: str) -> EncodedImage:
    """The image file at `path`, upright.

    Raises:
      DataError: it cannot be read or decoded, or has more than 8 bits a channel.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error
    return EncodedImage(content, path, obey_orientation=True)


def read_size(path: str) -> tuple[int, int]:
    """(h, w) of the upright image file at `path`, from its header; DataError as `read_encoded`."""
    with _opened(path, path) as picture:
        return _size(picture, _orientation(picture))


@contextlib.contextmanager
def _opened(content: str | io.BytesIO, name: str) -> Iterator[Any]:
    try:
        with Image.open(content, formats=_FORMATS) as picture:
            yield picture
    except DataError:
        raise
    except Exception as error:  # PIL's codecs raise many kinds
        raise DataError(f"{name}: cannot be decoded: {reason(error)}") from error


def _size(picture: Image.Image, orientation: int) -> tuple[int, int]:
    width, height = picture.size
    return (width, height) if orientation in _TURNED else (height, width)


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1, which is upright, where there is none that can be read."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # PIL raises many kinds for damaged EXIF, and the pixels may be whole
        return 1
    return found if found in range(1, 9) else 1


def _reduce(picture: Image.Image, shrinking: float) -> int:
    """Lets a JPEG be decoded smaller, which is to be shrunk by a factor; by how much it will be."""
    least = max(1.0, shrinking / _MARGIN)
    width, height = picture.size
    drafted = picture.draft(None, (math.ceil(width / least), math.ceil(height / least)))
    return 1 if drafted is None else round(width / drafted[1][2])


def _with_whole_colours(picture: Image.Image) -> Image.Image:
    """`picture` in a mode whose channels can be averaged, gray or RGB."""
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
