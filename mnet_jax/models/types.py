"""The option types of models. Nothing here imports JAX, so configs can use them."""

from typing import Literal

Remat = Literal["none", "blocks"]  # what the backward pass recomputes; see `MobileNet`
