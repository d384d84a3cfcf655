"""Encoded images: the size is read first, and only the needed pixels are decoded.

PIL decodes and resizes images. PIL releases the GIL while it does so, so threads use all cores. A
JPEG that is to be shrunk is decoded at a half, a quarter or an eighth of its size.

The size that a file declares is read before Pillow allocates memory for it. Pillow allocates memory
while it opens some files: for the canvas of a WebP, and for everything after the first frame of an
animated PNG or GIF. Pillow's BMP and JPEG readers allocate nothing until they decode. So for these
formats, the size that Pillow reports is checked before decoding.

Sources: PNG, W3C 2003, section 5.3 and 11.2.2; GIF89a, CompuServe 1990, sections 18 to 24; WebP,
RFC 9649, section 2.
"""

import contextlib
import copy
import io
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from mnet_jax.config import MAX_IMAGE_PIXELS
from mnet_jax.data.disk import read_bounded, size_of
from mnet_jax.data.types import DataError, Interpolation, reason

# The first bytes of a file in each format. A WebP has `_RIFF`, its size in 4 bytes, then `_WEBP`.
_JPEG, _PNG, _BMP, _RIFF, _WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF", b"WEBP"
_GIF = (b"GIF87a", b"GIF89a")
# The formats of data sets. The readers are called directly because `Image.open` accepts more
# formats, such as EPS, for which it starts a PostScript interpreter. `Image.open` also has its own
# limit on pixels, and prints a warning above that limit.
_READERS: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (_JPEG, JpegImagePlugin.jpeg_factory),
    (_PNG, PngImagePlugin.PngImageFile),
    (_RIFF, WebPImagePlugin.WebPImageFile),
    (_BMP, BmpImagePlugin.BmpImageFile),
    *((magic, GifImagePlugin.GifImageFile) for magic in _GIF),
)
_LEGAL_FORMATS = "JPEG, PNG, WebP, BMP or GIF"


class EncodedImage:
    """The content of an image file, not decoded yet.

    Attributes:
      shape: (h, w, c) of the whole image.
    """

    def __init__(
        self,
        content: bytes,
        name: str,
        *,
        channels: int = 3,
        obey_orientation: bool = False,
        max_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        """Reads the header.

        Args:
          content: the content of the file.
          name: the name of the image in error messages.
          channels: 3 for RGB or 1 for gray. Images of other modes, such as palette and CMYK, are
            converted, and transparency is dropped.
          obey_orientation: whether to apply EXIF's orientation, as viewers do. Published numbers on
            ImageNet come from readers that ignore it.
          max_pixels: limit on the pixels of the image; a file of a few bytes can declare billions.

        Raises:
          DataError: the image cannot be decoded, has more than 8 bits per channel, or has too
            many pixels.
        """
        self._content, self._name, self._channels = content, name, channels
        self._max_pixels = max_pixels
        self._fallback: Callable[[DataError], EncodedImage] | None = None
        with self._opened() as picture:
            # PIL would clip modes I and F to 255 instead of scaling them, and would drop the low
            # bytes of 16-bit PNGs.
            if picture.mode[0] in "IF" or (picture.format == "PNG" and ";16" in str(picture.tile)):
                raise DataError(f"{name}: more than 8 bits a channel, legal: 8-bit images")
            self._orientation = _orientation(picture) if obey_orientation else 1
            self.shape = (*_size(picture, self._orientation), channels)

    def with_fallback(self, fallback: Callable[[DataError], "EncodedImage"]) -> "EncodedImage":
        """Returns a copy that decodes `fallback(error)` when its own decoding raises `error`."""
        other = copy.copy(self)
        other._fallback = fallback
        return other

    def pixels(self) -> np.ndarray:
        """Decodes the whole image to uint8 [h, w, c].

        Raises:
          DataError: the image cannot be decoded.
        """
        try:
            return self._whole()
        except DataError as error:
            return self._other(error).pixels()

    def _whole(self) -> np.ndarray:
        with self._opened() as picture:
            return self._array(_with_whole_colours(self._upright(picture)))

    def crop(
        self,
        box: tuple[float, float, float, float],
        side: int,
        interpolation: Interpolation = "bilinear",
    ) -> np.ndarray:
        """Decodes the part in `box` (left, top, right, bottom), resized to uint8 [side, side, c].

        The result equals `resized_part` of `pixels()`. For a JPEG that is decoded at a
        reduced size it may differ slightly; see `_MARGIN`.

        Raises:
          DataError: the image cannot be decoded.
        """
        try:
            return self._part(box, side, interpolation)
        except DataError as error:
            other = self._other(error)
        (height, width, _), (other_height, other_width, _) = self.shape, other.shape
        x, y = other_width / width, other_height / height
        part = (x * box[0], y * box[1], x * box[2], y * box[3])
        return other.crop(part, side, interpolation)

    def _other(self, error: DataError) -> "EncodedImage":
        if self._fallback is None:
            raise error
        return self._fallback(error)

    def _part(
        self, box: tuple[float, float, float, float], side: int, interpolation: Interpolation
    ) -> np.ndarray:
        with self._opened() as picture:
            reduction = _reduce(picture, min(box[2] - box[0], box[3] - box[1]) / side)
            left, top, right, bottom = (edge / reduction for edge in box)
            whole = _with_whole_colours(self._upright(picture))
            part = resized_part(whole, (left, top, right, bottom), side, interpolation)
            return self._array(part)

    def _upright(self, picture: Image.Image) -> Image.Image:
        return picture if self._orientation == 1 else ImageOps.exif_transpose(picture)

    def _array(self, picture: Image.Image) -> np.ndarray:
        mode = "RGB" if self._channels == 3 else "L"
        pixels = np.asarray(picture if picture.mode == mode else picture.convert(mode))
        return pixels.reshape(*pixels.shape[:2], self._channels)

    def _opened(self) -> contextlib.AbstractContextManager[Any]:
        return _opened(io.BytesIO(self._content), self._name, self._max_pixels)


def resized_part(
    picture: Image.Image,
    box: tuple[float, float, float, float],
    side: int,
    interpolation: Interpolation,
) -> Image.Image:
    """Returns the part of a picture in `box` (left, top, right, bottom), resized to `side`.

    Both filters are antialiased. Pixels near the edge of the box also depend on the picture around
    the box, as if the whole picture were resized and then cropped.
    """
    return picture.resize((side, side), Image.Resampling[interpolation.upper()], box=box)


def read_encoded(path: str, max_pixels: int = MAX_IMAGE_PIXELS) -> EncodedImage:
    """Reads the image file at `path`; EXIF's orientation is applied.

    Raises:
      DataError: the file is not regular, cannot be read or decoded, has more than 8 bits per
        channel, or has more than `max_pixels`.
    """
    content = read_bounded(path, _most_bytes(max_pixels))
    return EncodedImage(content, path, obey_orientation=True, max_pixels=max_pixels)


def read_size(path: str, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """Reads (h, w), after EXIF's rotation, from a file's header; raises as `read_encoded` does."""
    size, most = size_of(path), _most_bytes(max_pixels)
    if not 0 < size <= most:
        raise DataError(f"{path}: cannot be decoded: got {size} bytes, legal: 1 to {most}")
    try:
        with open(path, "rb") as file, _opened(file, path, max_pixels) as picture:
            return _size(picture, _orientation(picture))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error


_PIXEL_BYTES, _HEADER_BYTES = 4, 16 * 2**20  # of the largest file: a BMP with metadata


def _most_bytes(max_pixels: int) -> int:
    return _PIXEL_BYTES * max_pixels + _HEADER_BYTES


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str, max_pixels: int) -> Iterator[Any]:
    """Opens a picture without decoding; turns PIL's exceptions in the context into DataError."""
    try:
        declared = _declared_size(file)
        if declared:
            require_pixels(name, declared[0], declared[1], max_pixels)
        file.seek(0)
        start = file.read(len(_PNG))
        reader = next((reader for magic, reader in _READERS if start.startswith(magic)), None)
        if reader is None:
            raise DataError(f"{name}: cannot be decoded: got no image, legal: {_LEGAL_FORMATS}")
        file.seek(0)
        with reader(file) as picture:
            require_pixels(name, picture.width, picture.height, max_pixels)
            yield picture
    except DataError:
        raise
    except (IndexError, TypeError, struct.error) as error:  # raised by PIL's header readers
        raise DataError(f"{name}: cannot be decoded: its header is damaged") from error
    except Exception as error:  # PIL's codecs raise many types
        raise DataError(f"{name}: cannot be decoded: {reason(error)}") from error


def require_pixels(name: str, width: int, height: int, max_pixels: int) -> None:
    """Raises DataError, naming the image and the limit, if the image has too many pixels."""
    if width * height > max_pixels:
        raise DataError(
            f"{name}: {width} x {height} are {width * height:,} pixels, legal: up to "
            f"{max_pixels:,} (max_image_pixels)"
        )


_TURNED = range(5, 9)  # EXIF's orientations that swap height and width


def _size(picture: Image.Image, orientation: int) -> tuple[int, int]:
    width, height = picture.size
    return (width, height) if orientation in _TURNED else (height, width)


def _orientation(picture: Image.Image) -> int:
    """Returns EXIF's orientation, 1 to 8; 1 (upright) if it is missing or unreadable."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # PIL raises many types for damaged EXIF; the pixels may be intact
        return 1
    return found if found in range(1, 9) else 1


# A JPEG is decoded at a reduced size of at least this factor times the wanted size. PIL's
# `thumbnail` uses the same factor. On photographs the mean difference from full decoding is then
# less than one of 255 levels.
_MARGIN = 2.0


def _reduce(picture: Image.Image, shrinking: float) -> int:
    """Makes PIL decode a JPEG at a reduced size, if the JPEG will be shrunk anyway.

    Args:
      picture: an opened picture.
      shrinking: the factor by which the picture will be shrunk.

    Returns:
      The factor by which decoding reduces the picture; 1 for other formats.
    """
    least = max(1.0, shrinking / _MARGIN)
    width, height = picture.size
    drafted = picture.draft(None, (math.ceil(width / least), math.ceil(height / least)))
    return 1 if drafted is None else round(width / drafted[1][2])


def _with_whole_colours(picture: Image.Image) -> Image.Image:
    """Converts `picture`, if needed, to gray or RGB, so that resizing can average its pixels."""
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


def _declared_size(file: BinaryIO) -> tuple[int, int] | None:
    """Returns (width, height) of a PNG, GIF or WebP file; None for other or damaged files.

    If a file declares several sizes, the result is the largest width and the largest height. The
    file's position afterwards is undefined.
    """
    file.seek(0)
    start = file.read(30)
    if start.startswith(_PNG):
        return _png(file)
    if start.startswith(_GIF):
        return _gif(file)
    if start.startswith(_RIFF) and start[8:12] == _WEBP:
        return _webp(start)
    return None


def _png(file: BinaryIO) -> tuple[int, int] | None:
    """Returns the largest size in the IHDR chunks of a PNG; Pillow uses the last IHDR chunk."""
    place = len(_PNG)
    width = height = 0
    while True:
        file.seek(place)
        chunk = file.read(16)
        length, kind = int.from_bytes(chunk[:4], "big"), chunk[4:8]
        if len(kind) < 4 or kind in (b"IDAT", b"fdAT", b"IEND"):
            break
        if kind == b"IHDR" and len(chunk) == 16:
            width = max(width, int.from_bytes(chunk[8:12], "big"))
            height = max(height, int.from_bytes(chunk[12:16], "big"))
        place += 8 + length + 4  # length and kind, data, checksum
    return (width, height) if width and height else None


def _gif(file: BinaryIO) -> tuple[int, int] | None:
    """Returns the size of a GIF's screen, enlarged to hold the first frame if that is larger."""
    file.seek(6)
    screen = file.read(7)
    if len(screen) < 7:
        return None
    width, height = _little(screen[0:2]), _little(screen[2:4])
    file.seek(_palette_bytes(screen[4]), 1)
    while (kind := file.read(1)) == b"!":
        file.seek(1, 1)
        while length := file.read(1)[:1].strip(b"\0"):
            file.seek(length[0], 1)
    if kind == b"," and len(frame := file.read(8)) == 8:
        left, top, across, down = (_little(frame[i : i + 2]) for i in range(0, 8, 2))
        width, height = max(width, left + across), max(height, top + down)
    return width, height


def _palette_bytes(flags: int) -> int:
    """Returns the size in bytes of a GIF's palette, given the byte of flags before it."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _webp(start: bytes) -> tuple[int, int] | None:
    """Returns the size from a WebP's first bytes: of the canvas (VP8X) or of the only frame."""
    kind = start[12:16]
    if len(start) < 30:
        return None
    if kind == b"VP8X":
        return _little(start[24:27]) + 1, _little(start[27:30]) + 1
    if kind == b"VP8L":
        bits = _little(start[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _little(start[26:28]) & 0x3FFF, _little(start[28:30]) & 0x3FFF
    return None


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
