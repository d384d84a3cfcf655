"""The option types of training. Nothing here imports JAX, so configs can use them."""

from typing import Literal

Precision = Literal["float32", "bfloat16"]  # of the computation
Parallelism = Literal["jit", "pmap"]  # see `training.placement`
Keep = Literal["last", "best"]  # which weights of a run become its model
OnDivergence = Literal["halt", "skip", "rollback"]  # see `training.monitoring`
