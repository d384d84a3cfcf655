"""Checks whether a training step fits into memory; if not, finds the largest batch that does."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from mnet_jax import host_memory
from mnet_jax.training.agreement import min_over_processes
from mnet_jax.training.hyperparameters import Hyperparameters
from mnet_jax.training.step import Batch, TrainState, TrainStep
from mnet_jax.validation import one_line

EXHAUSTED = "RESOURCE_EXHAUSTED"  # XLA's error code
MOST_PROBES = 10  # number of steps compiled to find the largest batch


class OutOfMemoryError(RuntimeError):
    """Memory is exhausted; the message is one line that says what would fit."""


def free_bytes() -> int | None:
    """Returns how many bytes each device of this process has free; None if JAX does not report it.

    Among several accelerators, only the first is measured. CPU devices share the host's memory.
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return host_memory.available_bytes() // len(devices)
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))


def needed_bytes(compiled: Any) -> tuple[int, int]:
    """Returns two numbers of bytes that a compiled step needs on each device.

    The first is for the arguments, the second for temporaries and new results together.
    """
    found = compiled.memory_analysis()
    on_top = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes, on_top


def largest_that_fits(needed: Callable[[int], int], limit: int, too_large: int) -> int:
    """Returns the largest whole number below `too_large` that needs at most `limit`; 0 if none.

    The search interpolates, because memory is nearly linear in the batch size. After `MOST_PROBES`
    calls of `needed` it returns the largest number found so far.

    Args:
      needed: maps a number to the bytes that it needs; a non-decreasing function.
      limit: available bytes.
      too_large: a number known not to fit: `needed(too_large)` is above `limit`.
    """
    low, high, at_low, at_high = 0, too_large, 0, needed(too_large)
    for _ in range(MOST_PROBES):
        if high - low <= 1:
            break
        share = (limit - at_low) / max(at_high - at_low, 1)
        probe = min(max(low + int(share * (high - low)), low + 1), high - 1)
        found = needed(probe)
        if found <= limit:
            low, at_low = probe, found
        else:
            high, at_high = probe, found
    return low


class MemoryCheckedStep:
    """A training step that is compiled at its first call, and refused if it does not fit.

    To find the largest batch that fits, a refused step is compiled for smaller batches.

    Attributes:
      step: the step to compile.
    """

    def __init__(
        self,
        step: Any,
        resized: Callable[[Batch, int], Batch],
        batch_size: int,
        multiple: int,
        free: Callable[[], int | None] = free_bytes,
    ) -> None:
        """Stores the step; does not compile it yet.

        Args:
          step: a step that `Placement.compile_train` returned.
          resized: maps a batch on the devices, and a number of images, to the shapes that a batch
            of that many images has.
          batch_size: images per step.
          multiple: batch sizes must be multiples of this.
          free: returns the free bytes of each device; called when the first batch is on the
            devices.
        """
        self.step, self._resized, self._free = step, resized, free
        self._batch_size, self._multiple = batch_size, multiple
        self._compiled: dict[Any, TrainStep] = {}  # by hyperparameter structure and shapes

    def __call__(
        self, state: TrainState, batch: Batch, hyperparams: Hyperparameters
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Runs the step.

        Raises:
          OutOfMemoryError: the step does not fit into memory.
        """
        shapes = tuple((name, x.shape) for name, x in batch.items())
        kind = jax.tree.structure(hyperparams), shapes
        if kind in self._compiled:
            return self._compiled[kind](state, batch, hyperparams)
        arguments = jax.tree.map(_shape_of, (state, batch, hyperparams))
        compiled = self.step.lower(state, batch, hyperparams).compile()
        held, on_top = needed_bytes(compiled)
        free = self._free()
        if free is not None:
            free = min_over_processes(
                free
            )  # all processes must refuse together, and probe the same batches
        if free is not None and on_top > free:
            raise self._refusal(arguments, held + free)
        try:
            taken: tuple[TrainState, dict[str, jax.Array]] = compiled(state, batch, hyperparams)
            jax.block_until_ready(taken)
        except Exception as error:
            if not is_exhaustion(error) or jax.process_count() > 1:
                raise  # the other processes may have no error, and would not join the search
            # The compiler's estimate fits, so the largest free block is smaller than `free`.
            limit = held + (on_top - 1 if free is None else min(free, on_top - 1))
            raise self._refusal(arguments, limit) from error
        self._compiled[kind] = compiled
        return taken

    def _refusal(self, arguments: tuple[Any, Any, Any], limit: int) -> OutOfMemoryError:
        state, batch, hyperparams = arguments

        def needed(multiples: int) -> int:
            shapes = self._resized(batch, multiples * self._multiple)
            try:
                lowered = self.step.lower(state, shapes, hyperparams)
            except ValueError:  # too few images to normalize, so this size is not legal either
                return limit + 1
            return sum(needed_bytes(lowered.compile()))

        given = self._batch_size // self._multiple
        largest = self._multiple * largest_that_fits(needed, limit, given)
        fits = f"{largest} or less" if largest else f"none, {self._multiple} is too large as well"
        return OutOfMemoryError(
            f"batch_size: got {self._batch_size}, which takes {_gib(needed(given))} where there is "
            f"{_gib(limit)}, legal: {fits}; accumulate and remat save memory"
        )


@contextlib.contextmanager
def explain_exhaustion(doing: str) -> Iterator[None]:
    """Turns any error about exhausted memory in the block into an `OutOfMemoryError`.

    Args:
      doing: what the block does, for the message.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except Exception as error:
        if not is_exhaustion(error):
            raise
        cause = one_line(error) or "the system has no more"
        raise OutOfMemoryError(f"out of memory in {doing}: {cause}") from error


def is_exhaustion(error: Exception) -> bool:
    """Returns whether an error means that memory is exhausted, on a device or on the host."""
    on_device = isinstance(error, jax.errors.JaxRuntimeError) and EXHAUSTED in str(error)
    return on_device or host_memory.is_exhaustion(error)


def _shape_of(x: Any) -> Any:
    """Returns an array's shape, type and sharding, also if its buffer was donated to a step."""
    if isinstance(x, jax.Array):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return x


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
