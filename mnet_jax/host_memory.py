"""How much memory this machine has left for a process, and what a lack of it looks like."""

import contextlib
import errno
import re
import sys
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")
# Bytes of addresses. On two cores, with a network of two blocks, limits of 300 to 1500 MiB ended in
# an interrupt by OpenBLAS, in waiting without end for threads, in an import that failed, and in
# aborts of XLA and LLVM; with this much it trained.
FEWEST_ADDRESSES = 2 * 2**30
_FEW_THREADS = 64 * 2**20  # bytes: eight stacks
# How libraries say that there is no more, who raise no MemoryError.
_NO_MORE = re.compile(
    r"bad_alloc|can't start new thread|Cannot allocate memory|failed to map segment"
)


class Usage(NamedTuple):
    """What a process uses: CPU time, in seconds; addresses, in bytes."""

    seconds: float
    addresses: int


def require_addresses() -> None:
    """Looks at the limit on this process's address space (`ulimit -v`), before it is used up.

    Raises:
      MemoryError: it is too low to train anything; one line.
    """
    limit = _address_limit()
    if limit is not None and limit < FEWEST_ADDRESSES:
        raise MemoryError(
            f"ulimit -v: got {limit // 2**10}, legal: {FEWEST_ADDRESSES // 2**10} KiB or more, "
            "or no limit"
        )


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error of Python or of a library says that the host has no memory left."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, MemoryError) or bool(_NO_MORE.search(str(error)))


def has_limit() -> bool:
    """Whether this process may run out of addresses before the machine runs out of memory."""
    return _address_limit() is not None


def may_address(count: int) -> bool:
    """Whether this process may have so many bytes of addresses in all."""
    limit = _address_limit()
    return limit is None or limit >= count


def usage(root: int) -> dict[int, Usage]:
    """What the process with the number `root` uses, and every one that it has started."""
    import psutil  # here and below: a command begins before it is imported

    found = {}
    with contextlib.suppress(psutil.Error):  # it has just ended
        for process in (parent := psutil.Process(root), *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                found[process.pid] = Usage(times.user + times.system, process.memory_info().vms)
    return found


def is_full(of: Usage) -> bool:
    """Whether a process with this process's limit has no addresses left for a few threads."""
    limit = _address_limit()
    return limit is not None and limit - of.addresses < _FEW_THREADS


def available_bytes() -> int:
    """Memory that is left: the machine's, or less where a container or the process has a limit."""
    import psutil

    return min([psutil.virtual_memory().available, *_left_in_containers(), *_left_to_address()])


def _left_to_address() -> list[int]:
    """What this process may still ask the system for, if that is limited (`ulimit -v`)."""
    import psutil

    limit = _address_limit()
    return [] if limit is None else [max(limit - psutil.Process().memory_info().vms, 0)]


def _address_limit() -> int | None:
    """Bytes that this process may have addresses of, if that is limited."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _left_in_containers() -> list[int]:
    """What each control group that this process is in has left, of those with a limit."""
    innermost = CGROUPS / _group()
    left = []
    for group in (innermost, *innermost.parents):
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            kept = (group / "memory.stat").read_text().split()
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
        cached = int(kept[kept.index("inactive_file") + 1])  # files that can be read again
        left.append(max(limit - used + cached, 0))
    return left


def _group() -> str:
    """The control group that this process is in, by its path below the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
