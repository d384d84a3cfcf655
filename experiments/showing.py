"""A batch of images as one picture, each over the names of its classes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mnet_jax.validation import one_line

if TYPE_CHECKING:  # it comes with JAX
    from mnet_jax.preview import Preview

MOST_IMAGES = 64
_LEAST_SIDE = 112  # pixels of a tile: smaller images are enlarged, whole pixels to whole pixels
_GAP, _FONT_SIZE = 6, 12
_LINE = _FONT_SIZE + 4


def contact_sheet(preview: "Preview") -> Image.Image:
    """The first images of a batch, at most 64, in rows.

    Under each is its class, and in a mixed batch, one in a line, its classes with their shares.
    """
    images = preview.images[:MOST_IMAGES]
    count, side = len(images), images.shape[1]
    factor = max(1, math.ceil(_LEAST_SIDE / side))
    lines = 1 if preview.partners is None else 2
    width, height = side * factor + _GAP, side * factor + _GAP + lines * _LINE
    columns = math.ceil(math.sqrt(count))
    size = columns * width + _GAP, math.ceil(count / columns) * height + _GAP
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for at, image in enumerate(images):
        left, top = _GAP + at % columns * width, _GAP + at // columns * height
        pixels = np.clip(np.rint((image + 1) * 127.5), 0, 255).astype(np.uint8)
        large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
        sheet.paste(Image.fromarray(large), (left, top))
        for line, text in enumerate(_captions(preview, at)):
            place = left, top + side * factor + line * _LINE
            draw.text(place, _cut(text, font, side * factor), "black", font)
    return sheet


def _captions(preview: "Preview", at: int) -> Sequence[str]:
    name = one_line(preview.class_names[preview.labels[at]])
    if preview.partners is None:
        return [name]
    other = one_line(preview.class_names[preview.partners[at]])
    return [f"{preview.share:.0%} {name}", f"{1 - preview.share:.0%} {other}"]


def _cut(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: int) -> str:
    """The text, without its end where it would be wider than an image."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
