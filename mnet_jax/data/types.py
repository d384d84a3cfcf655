"""The option types, the view and the error class of `data`.

Configs and saved models use them, so nothing here imports JAX.
"""

from dataclasses import dataclass
from typing import Literal

from mnet_jax.serialization import added
from mnet_jax.validation import is_number, make_fields_plain, require, require_choice

Augmentation = Literal["none", "shift", "shift_flip", "resized_crop_flip"]  # see `data.augment`
Policy = Literal["none", "randaugment", "autoaugment"]  # see `data.policies`
Scaling = Literal["symmetric", "imagenet", "unit"]  # of pixels; see `data.scaling`
Interpolation = Literal["bilinear", "bicubic"]  # both with antialiasing; see `data.encoded`

# Photographs are usually evaluated by resizing the shorter side to 256 and cropping the central 224
# (He et al. 2015, arXiv:1512.03385, section 3.4, as practised since).
CROP_SHARE = 224 / 256


def require_crop_share(share: float) -> None:
    """Raises ValueError unless `share` is a legal `View.crop_share`."""
    require(is_number(share) and 0 < share <= 1, "crop_share", share, "above 0 and up to 1")


@dataclass(frozen=True, kw_only=True)
class View:
    """A model's preprocessing of images: crop to the central square, resize, scale the values.

    Attributes:
      resolution: side of the square in pixels.
      photographs: whether the model was trained on images of many sizes. If so, the border of the
        central square is cut off (`crop_share`), and the rest is resized.
      scaling: scaling of pixel values; see `config.DataConfig`.
      crop_share: side of the square that is cut out of a photograph, divided by the photograph's
        shorter side; timm's `crop_pct`.
      interpolation: filter with which images are resized.
    """

    resolution: int
    photographs: bool
    scaling: Scaling = added("symmetric")
    crop_share: float = added(CROP_SHARE)
    interpolation: Interpolation = added("bilinear")

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(self.resolution >= 1, "resolution", self.resolution, "1 pixel or more")
        require_choice("scaling", self.scaling, Scaling)
        require_crop_share(self.crop_share)
        require_choice("interpolation", self.interpolation, Interpolation)

    @property
    def central_share(self) -> float:
        """Side of the square that is cut out of an image, divided by the image's shorter side."""
        return self.crop_share if self.photographs else 1.0


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
