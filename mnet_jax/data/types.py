"""The closed choices of data. This module imports nothing else, so a config can name them."""

from typing import Literal

Augmentation = Literal["none", "shift", "shift_flip", "resized_crop_flip"]  # see `data.augment`
Policy = Literal["none", "randaugment", "autoaugment"]  # see `data.policies`
Scaling = Literal["symmetric", "imagenet"]  # of pixels; see `data.scaling`
