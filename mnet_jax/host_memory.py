"""Measures the memory available to a process, and recognizes errors of exhausted memory."""

import contextlib
import errno
import re
import sys
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")
# Bytes of address space. On two cores, with a network of two blocks, limits of 300 to 1500 MiB
# caused an interrupt by OpenBLAS, endless waiting for threads, a failed import, and aborts of XLA
# and LLVM. With this limit, training worked.
MIN_ADDRESS_BYTES = 2 * 2**30
_THREAD_STACK_BYTES = 64 * 2**20  # bytes: the stacks of eight threads
# Messages of libraries that report exhausted memory without a MemoryError.
_NO_MORE = re.compile(
    r"bad_alloc|can't start new thread|Cannot allocate memory|failed to map segment"
)


class Usage(NamedTuple):
    """The CPU time in seconds and the address space in bytes that a process uses."""

    seconds: float
    addresses: int


def require_addresses() -> None:
    """Checks that the limit on this process's address space (`ulimit -v`) allows training.

    Raises:
      MemoryError: the limit is too low to train anything; the message is one line.
    """
    limit = _address_limit()
    if limit is not None and limit < MIN_ADDRESS_BYTES:
        raise MemoryError(
            f"ulimit -v: got {limit // 2**10}, legal: {MIN_ADDRESS_BYTES // 2**10} KiB or more, "
            "or no limit"
        )


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error of Python or of a library means that the host's memory is exhausted."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, MemoryError) or bool(_NO_MORE.search(str(error)))


def has_address_limit() -> bool:
    """Whether this process's address space is limited (`ulimit -v`)."""
    return _address_limit() is not None


def allows_address_space(count: int) -> bool:
    """Whether the limit on this process's address space allows `count` bytes in all."""
    limit = _address_limit()
    return limit is None or limit >= count


def usage(root: int) -> dict[int, Usage]:
    """Returns the usage, by process ID, of the process `root` and of all its descendants."""
    import psutil  # here and below, so that commands start faster

    found = {}
    with contextlib.suppress(psutil.Error):  # a process may just have ended
        for process in (parent := psutil.Process(root), *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                found[process.pid] = Usage(times.user + times.system, process.memory_info().vms)
    return found


def is_near_address_limit(used: Usage) -> bool:
    """Whether the address space of a process with this usage has no room for more threads.

    The process is assumed to have the same limit (`ulimit -v`) as this one.
    """
    limit = _address_limit()
    return limit is not None and limit - used.addresses < _THREAD_STACK_BYTES


def available_bytes() -> int:
    """Returns the bytes left to this process: the minimum of machine, container and `ulimit`."""
    import psutil

    return min([psutil.virtual_memory().available, *_left_in_containers(), *_left_to_address()])


def _left_to_address() -> list[int]:
    """Returns a list with the bytes of address space left to this process; empty if unlimited."""
    import psutil

    limit = _address_limit()
    return [] if limit is None else [max(limit - psutil.Process().memory_info().vms, 0)]


def _address_limit() -> int | None:
    """Returns the limit on this process's address space in bytes, or None if there is none."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _left_in_containers() -> list[int]:
    """Returns the bytes left in each of this process's control groups that has a limit."""
    innermost = CGROUPS / _group()
    left = []
    for group in (innermost, *innermost.parents):
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            kept = (group / "memory.stat").read_text().split()
        except (OSError, ValueError):  # no such file, or "max" for no limit
            continue
        cached = int(kept[kept.index("inactive_file") + 1])  # files that can be read again
        left.append(max(limit - used + cached, 0))
    return left


def _group() -> str:
    """Returns the path of this process's control group, relative to `CGROUPS`."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
