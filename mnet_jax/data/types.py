"""The option types, the view and the error class of `data`.

Configs and saved models use them, so nothing here imports JAX.
"""

from dataclasses import dataclass
from typing import Literal

from mnet_jax.serialization import added
from mnet_jax.validation import make_fields_plain, require, require_choice

Augmentation = Literal["none", "shift", "shift_flip", "resized_crop_flip"]  # see `data.augment`
Policy = Literal["none", "randaugment", "autoaugment"]  # see `data.policies`
Scaling = Literal["symmetric", "imagenet"]  # of pixels; see `data.scaling`


@dataclass(frozen=True, kw_only=True)
class View:
    """A model's preprocessing of images: crop to the central square, resize, scale the values.

    Attributes:
      resolution: side of the square in pixels.
      photographs: whether the model was trained on images of many sizes. If so, the border of the
        central square is cut off, and the rest is resized.
      scaling: scaling of pixel values; see `config.DataConfig`.
    """

    resolution: int
    photographs: bool
    scaling: Scaling = added("symmetric")

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(self.resolution >= 1, "resolution", self.resolution, "1 pixel or more")
        require_choice("scaling", self.scaling, Scaling)


class DataError(ValueError):
    """Data is missing, damaged or of the wrong kind; the message is one line.

    The message names the data, where it is, and what is legal. Names of files, classes and splits
    are not trusted: line breaks and control characters in them are escaped, so that the message
    stays one line and does not move the cursor.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


def reason(error: BaseException) -> str:
    """Returns the first line of `error`'s message, or its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
