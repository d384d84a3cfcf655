"""Agreement between the processes of one run on values and decisions.

Each process has its own command line, clock, memory and view of the file system. The functions are
collective calls: each waits until all processes of the run have called it.
"""

import hashlib
from collections import Counter
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mnet_jax import serialization
from mnet_jax.changes import changes


class DisagreementError(ValueError):
    """Processes of one run differ where they must not; the message is one line.

    All processes raise it together, with the same message.
    """


def any_process(value: bool) -> bool:
    """Returns whether `value` is true in any process; a collective call with one result for all.

    Processes that decided separately could wait for each other forever: some would save a
    checkpoint, for example, while others took a step.
    """
    if jax.process_count() == 1:
        return value
    return bool(np.any(multihost_utils.process_allgather(np.array(value))))


def max_over_processes(value: int) -> int:
    """Returns the maximum of `value` over all processes; a collective call."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def min_over_processes(value: int) -> int:
    """Returns the minimum of `value` over all processes, rounded to float32; a collective call."""
    if jax.process_count() == 1:
        return value
    return int(np.min(multihost_utils.process_allgather(np.float32(value))))


def require_equal(value: Any) -> None:
    """Checks that a dataclass is equal in all processes of the run; a collective call.

    Args:
      value: a value that `serialization` supports, of the same class in every process.

    Raises:
      DisagreementError: the values differ, or the processes have different numbers of devices. The
        message names the first differing field and both values.
    """
    if jax.process_count() == 1:
        return
    _require_equal_devices()
    text = serialization.to_json(value).encode()
    digests = _gathered(hashlib.sha256(text).digest())
    if len({*digests}) == 1:
        return
    lengths = [int.from_bytes(length) for length in _gathered(len(text).to_bytes(8))]
    padded = _gathered(text.ljust(max(lengths)))
    index = next(i for i, digest in enumerate(digests) if digest != digests[0])
    raise DisagreementError(_difference(type(value), padded[0], padded[index], index))


def _require_equal_devices() -> None:
    """Checks that all processes have equally many devices, as JAX's collectives require.

    This check needs no collective: every process sees all devices.
    """
    counts = Counter(device.process_index for device in jax.devices())
    for index, count in sorted(counts.items()):
        if count != counts[0]:
            raise DisagreementError(_line("devices", counts[0], count, index))


def _gathered(content: bytes) -> list[bytes]:
    """Gathers bytes from all processes; every process contributes the same number of bytes."""
    gathered = multihost_utils.process_allgather(np.frombuffer(content, np.uint8))
    return [row.astype(np.uint8).tobytes() for row in gathered]


def _difference(cls: type, first: bytes, other: bytes, index: int) -> str:
    """Returns the message for the first field in which process `index` differs from process 0."""
    try:
        before: Any = serialization.from_json(cls, first.decode())
        after: Any = serialization.from_json(cls, other.decode())
    except ValueError:  # two development versions with one version number but different fields
        return _line("mnet_jax", "one version", "another", index)
    change = changes(before, after)[0]
    return _line(change.path, change.before, change.after, index)


def _line(name: str, first: object, other: object, index: int) -> str:
    return (
        f"{name}: got {other} in process {index} and {first} in process 0, "
        "legal: the same in all processes of a run"
    )
