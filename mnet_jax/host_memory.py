"""How much memory this machine has left for a process."""

import sys
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Memory that is left: the machine's, or less where a container or the process has a limit."""
    return min([psutil.virtual_memory().available, *_left_in_containers(), *_left_to_address()])


def _left_to_address() -> list[int]:
    """What this process may still ask the system for, if that is limited (`ulimit -v`)."""
    if sys.platform == "win32":
        return []
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return []
    return [max(limit - psutil.Process().memory_info().vms, 0)]


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
