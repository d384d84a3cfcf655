"""Training of one network in several processes: how the processes connect, and how they end.

If a process dies, the others must not wait for it. JAX notices the death within
`HEARTBEAT_SECONDS`, or immediately if the connection breaks. Then either a step fails, or the
runtime aborts the process (see `supervision`).
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from mnet_jax.commands import entry
from mnet_jax.commands.supervision import GONE
from mnet_jax.training.stopping import INTERRUPTED, TERMINATED
from mnet_jax.validation import require

HEARTBEAT_SECONDS = 30
JOIN_SECONDS = 300
LEAVE_SECONDS = 60
_LOST = re.compile(r"Gloo|CoordinationService|coordination service|UNAVAILABLE|DEADLINE_EXCEEDED")


@dataclass(frozen=True, kw_only=True)
class ProcessArguments:
    """The flags by which a process finds the other processes of its run."""

    coordinator: str | None = None
    """to train in several processes: HOST:PORT on the machine of process 0"""
    processes: int | None = None
    """with --coordinator: the number of processes on all machines together"""
    process_id: int | None = None
    """with --coordinator: the index of this process, from 0"""
    cluster: bool = False
    """train in several processes that a TPU pod, Slurm or Open MPI has started"""

    @property
    def several(self) -> bool:
        """Whether the run has several processes."""
        return self.cluster or self.coordinator is not None


def require_processes(arguments: ProcessArguments) -> None:
    """Raises ValueError if the given flags do not identify this process among the others."""
    coordinator, count, index = arguments.coordinator, arguments.processes, arguments.process_id
    if arguments.cluster:
        for name in ("coordinator", "processes", "process_id"):
            value = getattr(arguments, name)
            require(value is None, name, value, "none with --cluster, which provides it")
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
    """Connects to the other processes, if the flags name any; call it before any JAX computation.

    Raises:
      ValueError: the other processes cannot be reached.
    """
    if not arguments.several:
        return
    import jax

    # This service handles SIGTERM itself, and would stop all processes if one receives SIGTERM.
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
    """Returns whether this is process 0, which prints and writes files."""
    import jax

    return jax.process_index() == 0


class LostError(RuntimeError):
    """Raised if another process of the run has died; the message is one line."""


@contextlib.contextmanager
def name_lost_processes() -> Iterator[None]:
    """If the block fails because another process has died, raises `LostError` instead."""
    import jax

    try:
        yield
    except Exception as error:
        if jax.process_count() > 1 and _LOST.search(str(error)):
            raise LostError(GONE) from error
        raise


@contextlib.contextmanager
def exit_at_once_on_error(arguments: ProcessArguments, command: str) -> Iterator[None]:
    """In a run of several processes, exits this process at once on an exception in the block.

    A normal exit would wait for the other processes, which wait for this one. But if all processes
    end for the same reason (a signal or a `DisagreementError`), this process first waits until all
    processes leave.
    """
    if not arguments.several:
        yield
        return
    try:
        yield
    except BaseException as error:
        code = entry.report_error(command, error)
        if code in (INTERRUPTED, TERMINATED) or _is_disagreement(error.__context__):
            with contextlib.suppress(Exception):
                _leave()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def _is_disagreement(error: BaseException | None) -> bool:
    """Returns whether an error is `DisagreementError`, which all processes raise together."""
    from mnet_jax.training.agreement import DisagreementError  # here: it imports JAX

    return isinstance(error, DisagreementError)


def _leave() -> None:
    """Waits until all processes leave, as process 0 hosts the service that connects them."""
    import jax

    jax.distributed.shutdown()
