"""Measures the machine's peak arithmetic rate and memory bandwidth, in a separate process."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from mnet_jax import process
from mnet_jax.analysis.cost import Machine
from mnet_jax.training.stopping import interrupted_alone

# Side of the square matrices. On a CPU a product is 17 GFLOP, too large for caches to matter; on an
# accelerator it is 1.1 TFLOP, too large for the start of a computation to matter.
SIDE, ACCELERATED_SIDE = 2048, 8192
ELEMENTS = 2**26  # of each array: 256 MiB, far more than any cache
TRIES = 12


def measure(environment: Mapping[str, str]) -> Machine:
    """Times matrix products and a STREAM triad on JAX's default device; returns the best rates.

    Args:
      environment: environment variables of the process.
    """
    context = multiprocessing.get_context("spawn")
    with process.child_environment(environment), ProcessPoolExecutor(1, mp_context=context) as pool:
        with interrupted_alone():
            measured = pool.submit(_measured)
        try:
            return measured.result()
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.kill()
            raise


def better(a: Machine, b: Machine) -> Machine:
    """Returns the higher arithmetic rate and the higher bandwidth of two measurements."""
    return Machine(
        flops_per_second=max(a.flops_per_second, b.flops_per_second),
        bytes_per_second=max(a.bytes_per_second, b.bytes_per_second),
        device=b.device,
    )


def _measured() -> Machine:
    import jax
    import jax.numpy as jnp

    side = SIDE if jax.default_backend() == "cpu" else ACCELERATED_SIDE
    # Random numbers, because chips at their power limit multiply ones faster.
    square = jax.random.normal(jax.random.key(0), (side, side))
    product = jax.jit(lambda a: a @ a)
    x, y = jnp.ones(ELEMENTS), jnp.ones(ELEMENTS)
    triad = jax.jit(lambda x, y: x + 3.0 * y)
    product_seconds = _best_seconds(lambda: jax.block_until_ready(product(square)))
    triad_seconds = _best_seconds(lambda: jax.block_until_ready(triad(x, y)))
    return Machine(
        flops_per_second=2 * side**3 / product_seconds,
        bytes_per_second=3 * x.nbytes / triad_seconds,
        device=jax.local_devices()[0].device_kind,
    )


def _best_seconds(call: Callable[[], Any]) -> float:
    call()
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
