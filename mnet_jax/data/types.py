"""The option types and the error class of `data`. Configs use them, so nothing here imports JAX."""

from typing import Literal

Augmentation = Literal["none", "shift", "shift_flip", "resized_crop_flip"]  # see `data.augment`
Policy = Literal["none", "randaugment", "autoaugment"]  # see `data.policies`
Scaling = Literal["symmetric", "imagenet"]  # of pixels; see `data.scaling`


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
