"""What the processes of one run must decide alike, though each has a clock of its own."""

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
