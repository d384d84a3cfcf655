"""The closed choices of models. Nothing here imports JAX, so a config can name them."""

from typing import Literal

Remat = Literal["none", "blocks"]  # what is computed again for the gradients; see `MobileNet`
