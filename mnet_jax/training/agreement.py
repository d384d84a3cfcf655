"""What the processes of one run must have or decide alike.

Each of them has its own command line, clock, memory and view of the file system.
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
    """Processes of one run that differ where they must not; the message is one line.

    All processes raise it together, with the same message.
    """


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


def require_alike(mine: Any) -> None:
    """Compares a dataclass with those of all other processes of the run, each of which has to ask.

    Args:
      mine: what `serialization` takes, of the same class in every process.

    Raises:
      DisagreementError: they differ, or the processes have different numbers of devices; the
        message names the first field and both values.
    """
    if jax.process_count() == 1:
        return
    _require_equal_devices()
    text = serialization.to_json(mine).encode()
    digests = _gathered(hashlib.sha256(text).digest())
    if len({*digests}) == 1:
        return
    lengths = [int.from_bytes(length) for length in _gathered(len(text).to_bytes(8))]
    padded = _gathered(text.ljust(max(lengths)))
    index = next(i for i, digest in enumerate(digests) if digest != digests[0])
    raise DisagreementError(_difference(type(mine), padded[0], padded[index], index))


def _require_equal_devices() -> None:
    """As JAX's own collectives need; every process sees all devices without one."""
    counts = Counter(device.process_index for device in jax.devices())
    for index, count in sorted(counts.items()):
        if count != counts[0]:
            raise DisagreementError(_line("devices", counts[0], count, index))


def _gathered(content: bytes) -> list[bytes]:
    """The bytes of each process, equally many of all."""
    gathered = multihost_utils.process_allgather(np.frombuffer(content, np.uint8))
    return [row.astype(np.uint8).tobytes() for row in gathered]


def _difference(cls: type, first: bytes, other: bytes, index: int) -> str:
    """The first field that the process `index` has otherwise than the first process."""
    try:
        before: Any = serialization.from_json(cls, first.decode())
        after: Any = serialization.from_json(cls, other.decode())
    except ValueError:  # a version in development: equal by its number, with other fields
        return _line("mnet_jax", "one version", "another", index)
    change = changes(before, after)[0]
    return _line(change.path, change.before, change.after, index)


def _line(name: str, first: object, other: object, index: int) -> str:
    return (
        f"{name}: got {other} in process {index} and {first} in process 0, "
        "legal: the same in all processes of a run"
    )
