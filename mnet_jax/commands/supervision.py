"""A supervisor process: filters a command's standard error, and turns aborts into one line.

A C++ library aborts the process if it gets no memory, and the JAX runtime aborts it if another
process of the run has died. Both print a page of messages. The supervisor prints one line instead,
and exits with code 1. It is started only if such aborts are possible: if the address space is
limited (`ulimit -v`), or if one training runs in several processes.

A second process is needed because an abort runs no Python code. No option of JAX 0.10.2 avoids the
abort: `jax.distributed` does not forward callbacks, jaxlib's callback for missed heartbeats itself
aborts (`std::bad_cast`), and with `jax_enable_recoverability` the loss of the coordinator is still
fatal. `TF_CPP_MIN_LOG_LEVEL` does not suppress the page of a fatal error, and would hide other
errors.

This module imports nothing slow.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

from mnet_jax import host_memory
from mnet_jax.commands.messages import FAILED, program, say, tell
from mnet_jax.training.stopping import SIGNALS, blocked

GONE = "another process of the run is gone, start all of them again to go on"
EXHAUSTED = "out of memory: the system gives no more, ulimit -v may be too low"
_PARENT = "MNET_JAX_SUPERVISOR"  # an environment variable: the process id of the supervisor
_DRAIN_SECONDS = 10
IDLE_SECONDS = 20.0
_IDLE_SHARE = 0.02  # of a core; a process that does work uses a larger share
_JOINING = {"--coordinator", "--cluster"}
_CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# _NOISE matches the first line of a message from the runtime or Orbax about lost processes, and
# _MESSAGE the first line of any message. Lines in between belong to the message before them, such
# as the line "RPC: ..." of a failed remote call.
_NOISE = re.compile(
    r"coordination_service|preemption_sync_manager|^\[Gloo\]|^ERROR:absl:\[process=\d+\] Failed"
)
_MESSAGE = re.compile(
    r"[IWEF]\d{4} |(DEBUG|INFO|WARNING|ERROR|CRITICAL|FATAL):|experiments\.|mnet "
)
_ABORT = "Terminating process because the JAX distributed service detected fatal errors"
# The messages with which C++ libraries abort if they get no memory.
_NO_MEMORY = re.compile(
    r"^terminate called .*bad_alloc|^F\d{4} .*pthread_create\(\) failed|^LLVM ERROR: out of memory"
)


def begin(command: str) -> None:
    """If a supervisor is needed, turns this process into one and runs the command in a child.

    Returns only in the process that runs the command, never in the supervisor.

    Args:
      command: the name of the command, for error messages.
    """
    if os.environ.get(_PARENT) == str(os.getppid()):
        _end_with_parent()
    elif host_memory.has_address_limit() or _joins_others(sys.argv[1:]):
        _supervise(command)


def _joins_others(flags: Sequence[str]) -> bool:
    return any(flag.partition("=")[0] in _JOINING for flag in flags)


def _end_with_parent() -> None:
    """Makes the kernel send SIGTERM to this process if the supervisor is killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _supervise(command: str) -> None:
    """Runs this process's command line in a child, and exits with the child's exit code or signal.

    The child gets its own process group, so the signal of Ctrl-C in a terminal reaches the child
    only once: this process forwards it.
    """
    numbers = (*SIGNALS, signal.SIGHUP)
    with blocked(*numbers):
        child = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=os.environ | {_PARENT: str(os.getpid())},
            stderr=subprocess.PIPE,
            process_group=0,
        )
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: child.send_signal(number))
    page = StderrFilter(command)
    assert child.stderr is not None
    reader = threading.Thread(target=_relay, args=(child.stderr, page), daemon=True)
    reader.start()
    code = _ended(child)
    reader.join(_DRAIN_SECONDS)  # the child's own children may keep standard error open
    if code is None or -code in _CRASHES:
        reason = EXHAUSTED
        if code is not None and not host_memory.has_address_limit():
            reason = f"crashed by {signal.Signals(-code).name}"
        if not page.has_reported_cause:
            tell(command, reason)
        code = FAILED
    elif code < 0:
        if -code in numbers:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _ended(child: "subprocess.Popen[bytes]") -> int | None:
    """Returns the child's exit code; None if the child hung for lack of memory and was killed.

    Libraries wait for ever for a thread that could not be started. So the child is killed if the
    child and its own children are all idle, and one of these processes has nearly reached the limit
    of the address space.
    """
    before: dict[int, host_memory.Usage] = {}
    while host_memory.has_address_limit():
        try:
            return child.wait(IDLE_SECONDS)
        except subprocess.TimeoutExpired:
            now = host_memory.usage(child.pid)
        spent = sum(
            used.seconds - before[number].seconds
            for number, used in now.items()
            if number in before
        )
        are_idle = now.keys() == before.keys() and spent < _IDLE_SHARE * IDLE_SECONDS
        if are_idle and any(map(host_memory.is_near_address_limit, now.values())):
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return None
        before = now
    return child.wait()


class StderrFilter:
    """A filter for a command's standard error.

    Attributes:
      has_reported_cause: whether a printed line says why the command ends.
    """

    def __init__(self, command: str) -> None:
        self.has_reported_cause = False
        self._begin = f"{program(command)}: "  # the prefix that `tell` prints
        self._is_noise = self._is_over = False

    def lines(self, line: str) -> list[str]:
        """Returns the lines to print for `line`: itself, a replacement, or nothing.

        The first line of an abort's messages is replaced by a line that says why the command ends;
        the other lines are dropped. Nothing is printed after the line on the death of another
        process, because several threads report this death.
        """
        if self._is_over:
            return []
        if _ABORT in line or line == self._begin + GONE:
            self.has_reported_cause = self._is_over = True
            return [self._begin + GONE]
        if _NO_MEMORY.search(line):
            reported, self.has_reported_cause, self._is_noise = self.has_reported_cause, True, True
            return [] if reported else [self._begin + EXHAUSTED]
        self._is_noise = bool(_NOISE.search(line)) or (self._is_noise and not _MESSAGE.match(line))
        if self._is_noise:
            return []
        is_ours = line.startswith(self._begin)
        self.has_reported_cause |= is_ours and not line.startswith(f"{self._begin}warning: ")
        return [line]


def _relay(stream: IO[bytes], page: StderrFilter) -> None:
    for line in stream:
        for shown in page.lines(line.decode(errors="replace").removesuffix("\n")):
            say(shown)
