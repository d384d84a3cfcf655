"""Environment variables that make a training process faster, and other process settings.

XLA's CPU client allocates memory for temporaries and results at every call. By default, glibc
returns large blocks to the system at once, so the next call pays for new pages, which the system
fills with zeros. With the variables in `ALLOCATOR`, the process keeps its memory, in huge pages.
glibc reads these variables when a process starts; other C libraries ignore them.

XLA's compilation cache is on disk, so that the same step is not compiled twice.
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
_KEEP = 2**36  # bytes: more than is ever freed at once
ALLOCATOR = {
    TUNABLES: ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in {
            "hugetlb": 1,
            # All arenas but the first take large blocks from the system anyway. With one arena, the
            # threads of XLA's compiler wait for the arena's lock, about a tenth of the time. Caches
            # per thread ("tcache") do not solve this: their blocks fragmented the memory, and the
            # process grew by about a step's memory at every step.
            "arena_max": 1,
            "mmap_threshold": _KEEP,
            "trim_threshold": _KEEP,
            "top_pad": 2**26,
        }.items()
    )
}
# If processes share an accelerator, the first one would reserve most of its memory by default.
SHARED_DEVICE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def settings(
    *, tune_allocator: bool, given: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Returns the environment variables of a training process.

    Args:
      tune_allocator: whether to include the variables of the allocator.
      given: variables that are already set; these are not changed.
    """
    wanted = ALLOCATOR if tune_allocator else {}
    found = {name: value for name, value in wanted.items() if name not in given}
    return found if CACHE in given else found | {CACHE: _compilation_cache()}


def _compilation_cache() -> str:
    """Returns the directory of XLA's compilation cache, or "" (no cache) if it is unusable."""
    try:
        directory = caches.cache_directory("xla")
        caches.require_room(directory)
    except OSError as error:
        caches.warn_once(f"cache: XLA's compiled programs are not kept: {one_line(error)}")
        return ""
    return str(directory)


def timing_settings(*, tune_allocator: bool) -> dict[str, str]:
    """Returns the environment variables of processes that are timed."""
    return SHARED_DEVICE | ALLOCATOR if tune_allocator else dict(SHARED_DEVICE)


@contextlib.contextmanager
def child_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the processes that are started in this context."""
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
    """Replaces this process by `command`, with additional environment variables.

    Does nothing if `variables` is empty, and on systems other than Linux.
    """
    if variables and sys.platform == "linux":
        sys.stdout.flush()
        os.execve(command[0], list(command), os.environ | variables)


def silence_libraries() -> None:
    """Hides the warnings and errors that libraries log, such as Orbax's warnings of slow saves.

    No error is lost: each error that a thread of Orbax or TensorBoard logs is also raised.
    """
    importlib.import_module("absl.logging")  # creates its own logger
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(lambda record: record.levelno < logging.WARNING)
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda arguments: None


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
