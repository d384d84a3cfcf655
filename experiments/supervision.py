"""A second process that reads what a command writes on standard error, and gives its exit code.

C++ aborts a process where it finds no memory, and the JAX runtime does where another process of a
run is gone. Both print a page of their own. The supervisor prints one line instead, and ends with
exit code 1. It is there where this can happen: where addresses are limited (`ulimit -v`), and where
one training runs in several processes.

Only another process can say why, as an abort runs nothing of Python. No option of JAX 0.10.2 avoids
it: `jax.distributed` passes no callback on, jaxlib's for missed heartbeats aborts by itself
(`std::bad_cast`), and with `jax_enable_recoverability` a lost coordinator is as fatal.
`TF_CPP_MIN_LOG_LEVEL` leaves the fatal page as it is, and would hide errors that are to be seen.

Imports nothing that takes time.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

from experiments.messages import FAILED, say, tell
from mnet_jax import host_memory
from mnet_jax.training.stopping import SIGNALS, blocked

GONE = "another process of the run is gone, start all of them again to go on"
EXHAUSTED = "out of memory: the system gives no more, ulimit -v may be too low"
_PARENT = "MNET_JAX_SUPERVISOR"  # an environment variable with the supervisor's process number
_DRAIN_SECONDS = 10
IDLE_SECONDS = 20.0
_IDLE_SHARE = 0.02  # of a core, which is less than what a process takes to show that it works
_JOINING = {"--coordinator", "--cluster"}
_CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
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


def begin(command: str) -> None:
    """Makes this process the supervisor of another one that does the same, where one is needed.

    Returns in the process that is to do the work; in the supervisor it never returns.

    Args:
      command: the name in the line that is printed.
    """
    if os.environ.get(_PARENT) == str(os.getppid()):
        _end_with_parent()
    elif host_memory.has_limit() or _joins_others(sys.argv[1:]):
        _supervise(command)


def _joins_others(flags: Sequence[str]) -> bool:
    return any(flag.partition("=")[0] in _JOINING for flag in flags)


def _end_with_parent() -> None:
    """Asks for SIGTERM when the supervisor is killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _supervise(command: str) -> None:
    """Does this process's work in a child, and ends as the child does.

    The child has a process group of its own, so that a terminal's Ctrl-C reaches it once.
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
    page = Page(command)
    assert child.stderr is not None
    reader = threading.Thread(target=_relay, args=(child.stderr, page), daemon=True)
    reader.start()
    code = _ended(child)
    reader.join(_DRAIN_SECONDS)  # what the child has started may still hold its standard error
    if code is None or -code in _CRASHES:
        reason = EXHAUSTED
        if code is not None and not host_memory.has_limit():
            reason = f"crashed by {signal.Signals(-code).name}"
        if not page.has_said_why:
            tell(command, reason)
        code = FAILED
    elif code < 0:
        if -code in numbers:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _ended(child: "subprocess.Popen[bytes]") -> int | None:
    """Waits for the child's exit code; None if it had to be killed, as it had no memory to go on.

    Libraries wait for ever for a thread that could not be started. So a child is killed where it or
    a process of its own is about as large as it may be, and none of them computes.
    """
    before: dict[int, host_memory.Usage] = {}
    while host_memory.has_limit():
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
        if are_idle and any(map(host_memory.is_full, now.values())):
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return None
        before = now
    return child.wait()


class Page:
    """What of a command's standard error is printed.

    Attributes:
      has_said_why: whether a line of the command says why it ends.
    """

    def __init__(self, command: str) -> None:
        self.has_said_why = False
        self._begin = f"experiments.{command}: "  # of what `tell` prints
        self._is_noise = self._is_over = False

    def lines(self, line: str) -> list[str]:
        """What is printed for `line`: itself, one line for the first of a page, or nothing.

        After the line that another process is gone there is nothing: several threads notice.
        """
        if self._is_over:
            return []
        if _ABORT in line or line == self._begin + GONE:
            self.has_said_why = self._is_over = True
            return [self._begin + GONE]
        if _NO_MEMORY.search(line):
            said, self.has_said_why, self._is_noise = self.has_said_why, True, True
            return [] if said else [self._begin + EXHAUSTED]
        self._is_noise = bool(_NOISE.search(line)) or (self._is_noise and not _MESSAGE.match(line))
        if self._is_noise:
            return []
        told = line.startswith(self._begin)
        self.has_said_why |= told and not line.startswith(f"{self._begin}warning: ")
        return [line]


def _relay(stream: IO[bytes], page: Page) -> None:
    for line in stream:
        for shown in page.lines(line.decode(errors="replace").removesuffix("\n")):
            say(shown)
