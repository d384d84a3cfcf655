"""One training in several processes: the flags that join them, and the line that ends them all.

The same goes for a process whose address space is limited: where C++ finds no memory it aborts.

Where a process is gone, the others must not wait for it. JAX notices within `HEARTBEAT_SECONDS`, at
once if the connection breaks. Then either a step fails, or the runtime aborts the process with a
page of its own; `python -m experiments.processes` reads what a process writes on standard error,
and has one line in the place of that page.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from experiments import entry
from mnet_jax import host_memory
from mnet_jax.training.stopping import INTERRUPTED, SIGNALS, TERMINATED, blocked
from mnet_jax.validation import require

HEARTBEAT_SECONDS = 30
JOIN_SECONDS = 300
LEAVE_SECONDS = 60
WATCHER_SECONDS = 10
GONE = "another process of the run is gone, start all of them again to go on"
EXHAUSTED = "out of memory: the system gives no more, ulimit -v may be too low"
# Where what the runtime and Orbax write about others that are gone begins, and where any message;
# an error of a remote call goes on in lines of its own, one of which begins with "RPC:".
_NOISE = re.compile(
    r"coordination_service|preemption_sync_manager|^\[Gloo\]|^ERROR:absl:\[process=\d+\] Failed"
)
_MESSAGE = re.compile(r"[IWEF]\d{4} |(DEBUG|INFO|WARNING|ERROR|CRITICAL|FATAL):|experiments\.")
_ABORT = "Terminating process because the JAX distributed service detected fatal errors"
# With what C++ aborts where it finds no memory.
_NO_MEMORY = re.compile(
    r"^terminate called .*bad_alloc|^F\d{4} .*pthread_create\(\) failed|^LLVM ERROR: out of memory"
)
_LOST = re.compile(r"Gloo|CoordinationService|coordination service|UNAVAILABLE|DEADLINE_EXCEEDED")


@dataclass(frozen=True, kw_only=True)
class ProcessArguments:
    """How a process finds the others of its run."""

    coordinator: str | None = None
    """HOST:PORT on the machine of process 0, to train in several processes"""
    processes: int | None = None
    """how many there are, over all machines"""
    process_id: int | None = None
    """which of them this is, from 0"""
    cluster: bool = False
    """train in the processes that a TPU pod, Slurm or Open MPI has started"""

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.cluster or self.coordinator is not None


def require_processes(arguments: ProcessArguments) -> None:
    """Raises ValueError unless the flags name one process of several, or none of them is given."""
    coordinator, count, index = arguments.coordinator, arguments.processes, arguments.process_id
    if arguments.cluster:
        for name in ("coordinator", "processes", "process_id"):
            value = getattr(arguments, name)
            require(value is None, name, value, "none of these where the cluster says them")
        return
    if coordinator is None:
        require(count is None, "processes", count, "with a coordinator only")
        require(index is None, "process_id", index, "with a coordinator only")
        return
    host, _, port = coordinator.rpartition(":")
    is_port = port.isdecimal() and 0 < int(port) < 2**16
    require(bool(host) and is_port, "coordinator", coordinator, "HOST:PORT")
    require(count is not None and count >= 1, "processes", count, "1 or more")
    legal = f"from 0 to {(count or 1) - 1}"
    require(index is not None and 0 <= index < (count or 0), "process_id", index, legal)


def join(arguments: ProcessArguments) -> None:
    """Makes this process one of several, if it is to be; before anything of JAX runs.

    Raises:
      ValueError: the others cannot be found.
    """
    if not arguments.several:
        return
    import jax

    # It takes SIGTERM for itself, and one process that is told to stop is no reason for all.
    if hasattr(jax.config, "jax_enable_preemption_service"):
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            arguments.coordinator,
            arguments.processes,
            arguments.process_id,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        if arguments.cluster:
            legal = "a process that a TPU pod, Slurm or Open MPI has started"
            raise ValueError(f"cluster: got True, legal: in {legal} ({first})") from error
        raise ValueError(
            f"coordinator: got {arguments.coordinator}, cannot join the other processes: {first}"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that prints and keeps."""
    import jax

    return jax.process_index() == 0


class LostError(RuntimeError):
    """Another process of the run is gone; the message is one line."""


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Raises `LostError` for whatever a step says when another process is gone."""
    import jax

    try:
        yield
    except Exception as error:
        if jax.process_count() > 1 and _LOST.search(str(error)):
            raise LostError(GONE) from error
        raise


@contextlib.contextmanager
def left_at_once(arguments: ProcessArguments, command: str) -> Iterator[None]:
    """Ends this process, if it is one of several, as soon as anything ends what runs meanwhile.

    To leave in order would be to wait for the others, and they wait for this one; but where all of
    them end alike, none may leave before the others know why. A process whose address space is
    limited ends in the same way, as C++ aborts it where it finds no memory.
    """
    if not arguments.several and not host_memory.has_limit():
        yield
        return
    watcher = _watch_standard_error(command)
    try:
        yield
    except BaseException as error:
        code = entry.conclude(command, error)
        together = code in (INTERRUPTED, TERMINATED) or _is_disagreement(error.__context__)
        if arguments.several and together:  # all stop here, and none may leave others waiting
            with contextlib.suppress(Exception):
                _leave()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        with contextlib.suppress(subprocess.TimeoutExpired):  # or the last line might come too late
            watcher.wait(WATCHER_SECONDS)
        os._exit(code)


def _is_disagreement(error: BaseException | None) -> bool:
    """Whether it is what all processes raise together."""
    from mnet_jax.training.agreement import DisagreementError  # here: it imports JAX

    return isinstance(error, DisagreementError)


def _leave() -> None:
    """Waits for the others, as the first process has what all of them are joined by."""
    import jax

    jax.distributed.shutdown()


def _watch_standard_error(command: str) -> "subprocess.Popen[bytes]":
    """Puts a process between this one's standard error, C++'s included, and the real one."""
    with blocked(*SIGNALS):  # a terminal's Ctrl-C goes to both; this one decides
        watcher = subprocess.Popen(
            [sys.executable, "-m", "experiments.processes", command], stdin=subprocess.PIPE
        )
    assert watcher.stdin is not None
    sys.stderr.flush()
    os.dup2(watcher.stdin.fileno(), sys.stderr.fileno())
    watcher.stdin.close()
    return watcher


def watch(command: str) -> None:
    """Passes standard input on to standard error, but for a page of the runtime's: one line.

    The signals are blocked in this process, as long as anyone writes.
    """
    has_said_why = is_noise = False
    with open(sys.stdin.fileno(), errors="replace") as lines:
        for line in lines:
            if _ABORT in line:
                if not has_said_why:
                    entry.tell(command, GONE)
                for _ in lines:  # or the writer would wait
                    pass
                return
            if _NO_MEMORY.search(line):
                entry.tell(command, EXHAUSTED)
                for _ in lines:
                    pass
                return
            is_noise = bool(_NOISE.search(line)) or (is_noise and not _MESSAGE.match(line))
            if not is_noise:
                has_said_why = has_said_why or line.startswith(f"experiments.{command}: ")
                entry.say(line.removesuffix("\n"))


if __name__ == "__main__":
    watch(sys.argv[1])
