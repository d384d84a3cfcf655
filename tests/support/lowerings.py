"""The ways to compute a network, each lowering in each precision, and how exact each must be."""

import math
from typing import get_args

import pytest
from depthwise_taps import LOWERINGS, needs_compiler

from mnet_jax.architectures import walk
from mnet_jax.ops import Lowering
from mnet_jax.training.types import Precision

(_NO_COMPILER,) = needs_compiler.args
AVAILABLE = [name for name in get_args(Lowering) if name != "native" or not _NO_COMPILER]

every_lowering = pytest.mark.parametrize("lowering", LOWERINGS)
every_precision = pytest.mark.parametrize("precision", get_args(Precision))


def bfloat16_error(spec, *, gradients=False):
    """The root mean square error in bfloat16 that a network of so many layers may have, relative.

    Of 8 bits, bfloat16 is off by up to 2**-9 of a value. A layer rounds what it reads, its kernel
    and what it gives, and as many times on the way back; it adds in float32. Independent errors add
    as squares. Twice that is allowed, as a layer may amplify what comes in.
    """
    roundings = (6 if gradients else 3) * len(list(walk(spec, 64)))
    return 2 * math.sqrt(roundings) * 2**-9
