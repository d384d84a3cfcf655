"""What the processes of one run must decide alike, though each has its own clock and memory."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def any_says(mine: bool) -> bool:
    """Whether any process says so: the same answer in all, each of which has to ask.

    A checkpoint that some save while others take a step would have them wait for each other.
    """
    if jax.process_count() == 1:
        return mine
    return bool(np.any(multihost_utils.process_allgather(np.array(mine))))


def most(mine: int) -> int:
    """The most of what all processes say, each of which has to."""
    if jax.process_count() == 1:
        return mine
    return int(np.max(multihost_utils.process_allgather(np.int32(mine))))


def least(mine: int) -> int:
    """The least of what all processes say, each of which has to; rounded to float32 if several."""
    if jax.process_count() == 1:
        return mine
    return int(np.min(multihost_utils.process_allgather(np.float32(mine))))
