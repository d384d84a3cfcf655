"""Whether a training step fits into memory, and if not, the largest batch whose step does."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from mnet_jax import host_memory
from mnet_jax.training.agreement import least
from mnet_jax.training.recipe import Hyperparameters
from mnet_jax.training.step import Batch, TrainState, TrainStep
from mnet_jax.validation import one_line

EXHAUSTED = "RESOURCE_EXHAUSTED"  # XLA's word for it
MOST_PROBES = 10  # steps that are compiled to find the largest batch


class OutOfMemoryError(RuntimeError):
    """The memory does not hold what was asked for; the message is one line that says what would."""


def free_bytes() -> int | None:
    """Memory that each device of this process has left, or None where it does not say."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return host_memory.available_bytes() // len(devices)
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))


def needed_bytes(compiled: Any) -> tuple[int, int]:
    """What a compiled step takes on each device: its arguments, and all that comes on top."""
    found = compiled.memory_analysis()
    on_top = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes, on_top


def largest_that_fits(needed: Callable[[int], int], limit: int, too_large: int) -> int:
    """The largest whole number below `too_large` that needs no more than `limit`, 0 for none.

    Found by interpolation, as memory is nearly linear in the batch; after `MOST_PROBES` calls of
    `needed` it is the largest that was seen to fit.

    Args:
      needed: bytes; it never falls.
      limit: bytes.
      too_large: what is known not to fit; `needed` of it is more than `limit`.
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
    """A training step that is compiled when it is first taken, and refused if it does not fit.

    A refusal compiles the step for smaller batches, to say which is the largest that fits.

    Attributes:
      step: as it was given.
    """

    def __init__(
        self,
        step: Any,
        resized: Callable[[Batch, int], Batch],
        batch_size: int,
        multiple: int,
        free: Callable[[], int | None] = free_bytes,
    ) -> None:
        """A step that is still to be compiled.

        Args:
          step: as `Placement.compile_train` gives it.
          resized: shapes of a placed batch of another size.
          batch_size: images a step.
          multiple: what batch sizes are multiples of.
          free: bytes that each device has left, called when the first batch is there.
        """
        self.step, self._resized, self._free = step, resized, free
        self._batch_size, self._multiple = batch_size, multiple
        self._compiled: dict[Any, TrainStep] = {}  # by the numbers and the shapes

    def __call__(
        self, state: TrainState, batch: Batch, hyperparams: Hyperparameters
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The step.

        Raises:
          OutOfMemoryError: it does not fit.
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
            free = least(free)  # so that all processes are refused, and look for the same batch
        if free is not None and on_top > free:
            raise self._refusal(arguments, held + free)
        try:
            taken: tuple[TrainState, dict[str, jax.Array]] = compiled(state, batch, hyperparams)
            jax.block_until_ready(taken)
        except Exception as error:
            if not is_exhaustion(error) or jax.process_count() > 1:
                raise  # the other processes do not know, and would not look along
            # It fits by what the compiler says, so there is less than `free` in one piece.
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
            except ValueError:  # so few images cannot be normalized, which is no better
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
def exhaustion_explained(doing: str) -> Iterator[None]:
    """Turns memory that runs out into an `OutOfMemoryError`, wherever it happens.

    Args:
      doing: what runs meanwhile, for the message.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except Exception as error:
        if not is_exhaustion(error):
            raise
        said = one_line(error) or "no more from the system"
        raise OutOfMemoryError(f"out of memory in {doing}: {said}") from error


def is_exhaustion(error: Exception) -> bool:
    """Whether an error says that there is no memory left, on a device or on the host."""
    on_device = isinstance(error, jax.errors.JaxRuntimeError) and EXHAUSTED in str(error)
    return on_device or host_memory.is_exhaustion(error)


def _shape_of(x: Any) -> Any:
    """An array without its values, which a step may have taken over."""
    if isinstance(x, jax.Array):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return x


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
