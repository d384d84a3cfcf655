"""Draws a batch of images as one picture, with class names below each image."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from mnet_jax.plots import style
from mnet_jax.validation import one_line

if TYPE_CHECKING:  # it comes with JAX
    from mnet_jax.runs.preview import Preview

MOST_IMAGES = 64
_LEAST_SIDE = 112  # pixels of a tile; smaller images are enlarged by an integer factor
_GAP, _FONT_SIZE = 6, 12
_LINE = _FONT_SIZE + 4


def contact_sheet(preview: "Preview") -> Image.Image:
    """Draws the first images of a batch, at most 64, in rows.

    Below each image is its class. In a mixed batch (mixup, CutMix) there are two lines, one for
    each class with its share. If no font of this machine has all characters of a name, the number
    of the class and the escaped name are shown.
    """
    images = preview.images[:MOST_IMAGES]
    count, side = len(images), images.shape[1]
    factor = max(1, math.ceil(_LEAST_SIDE / side))
    lines = 1 if preview.partners is None else 2
    width, height = side * factor + _GAP, side * factor + _GAP + lines * _LINE
    columns = math.ceil(math.sqrt(count))
    size = columns * width + _GAP, math.ceil(count / columns) * height + _GAP
    sheet = Image.new("RGB", size, "white")
    draw, names = ImageDraw.Draw(sheet), _names(preview, count)
    for at, image in enumerate(images):
        left, top = _GAP + at % columns * width, _GAP + at // columns * height
        large = image.repeat(factor, axis=0).repeat(factor, axis=1)
        sheet.paste(Image.fromarray(large), (left, top))
        for line, (share, at_label) in enumerate(_captions(preview, at)):
            name, font = names[at_label]
            place = left, top + side * factor + line * _LINE
            draw.text(place, _cut(share + name, font, side * factor), "black", font)
    return sheet


def _names(preview: "Preview", count: int) -> dict[int, tuple[str, ImageFont.FreeTypeFont]]:
    """Returns the class names of the first `count` images, by label.

    Each name comes with a font that can draw it.
    """
    found, labels = {}, {*preview.labels[:count].tolist()}
    if preview.partners is not None:
        labels |= {*preview.partners[:count].tolist()}
    for at in labels:
        name = one_line(preview.class_names[at])
        font = style.font_with(name)
        if font is None:
            font = style.DEJAVU
            name = f"{at}: {style.escaped(name, font)}"
        found[at] = name, ImageFont.truetype(str(font), _FONT_SIZE)
    return found


def _captions(preview: "Preview", at: int) -> Sequence[tuple[str, int]]:
    """Returns the lines below an image, each as (text before the class name, label)."""
    own = int(preview.labels[at])
    if preview.partners is None:
        return [("", own)]
    return [
        (f"{preview.share:.0%} ", own),
        (f"{1 - preview.share:.0%} ", int(preview.partners[at])),
    ]


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cuts off the end of a text that would be wider than an image."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
