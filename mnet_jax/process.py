"""Settings that make a training process faster, which it takes from its environment.

XLA's CPU client takes fresh memory for its temporaries and results at every call. By default glibc
gives large blocks back to the system at once, so that the next call pays for new pages, which the
system fills with zeros. Here memory stays with the process, in huge pages. glibc reads this when a
process starts; other systems pass over it.

What XLA compiled is kept on disk, so that the same step is not compiled twice.
"""

import contextlib
import importlib
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from mnet_jax import caches
from mnet_jax.validation import one_line

CACHE = "JAX_COMPILATION_CACHE_DIR"
TUNABLES = "GLIBC_TUNABLES"
_KEEP = 2**36  # bytes: more than anyone frees at a time
ALLOCATOR = {
    TUNABLES: ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in {
            "hugetlb": 1,
            # Other arenas than the first take large blocks from the system anyway. The threads of
            # XLA's compiler wait for its lock, some tenth of the time; but blocks that each kept
            # for itself ("tcache") came to lie all over, and the memory grew by a step's, step by
            # step.
            "arena_max": 1,
            "mmap_threshold": _KEEP,
            "trim_threshold": _KEEP,
            "top_pad": 2**26,
        }.items()
    )
}
# Of processes that share an accelerator, JAX's first one would take most of its memory.
SHARED_DEVICE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def settings(
    *, tune_allocator: bool, given: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """The environment variables of a process that trains.

    Args:
      tune_allocator: whether those of the allocator are among them.
      given: variables that are set already, and stay as they are.
    """
    wanted = ALLOCATOR if tune_allocator else {}
    found = {name: value for name, value in wanted.items() if name not in given}
    return found if CACHE in given else found | {CACHE: _compilation_cache()}


def _compilation_cache() -> str:
    """Where XLA keeps what it compiled; "", which is nowhere, if that cannot be used."""
    try:
        directory = caches.cache_directory("xla")
        caches.require_room(directory)
    except OSError as error:
        caches.say_once(f"cache: what XLA compiles is not kept: {one_line(error)}")
        return ""
    return str(directory)


def timing_settings(*, tune_allocator: bool) -> dict[str, str]:
    """The environment variables of processes that are timed."""
    return SHARED_DEVICE | ALLOCATOR if tune_allocator else dict(SHARED_DEVICE)


@contextlib.contextmanager
def started_with(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables of the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def restart(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Starts this process anew as `command` with more variables, if there are any."""
    if variables and sys.platform == "linux":
        sys.stdout.flush()
        os.execve(command[0], list(command), os.environ | variables)


def quiet() -> None:
    """Keeps off the screen what libraries log: warnings of Orbax's, such as of slow saves.

    An error is said once: the threads of Orbax and TensorBoard log what is raised as well.
    """
    importlib.import_module("absl.logging")  # makes a logger of its own
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(lambda record: record.levelno < logging.WARNING)
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda arguments: None


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
