"""What the supervisor of a command prints and how it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnet_jax.commands import supervision

ROOT = Path(__file__).parents[2]
BEGINNING = """
import os, signal, sys, time
from mnet_jax.commands import supervision
supervision.begin("train")
"""
WAITING = """
signal.signal(signal.SIGTERM, lambda *a: (os.write(2, b"told\\n"), os._exit(7)))
signal.signal(signal.SIGINT, lambda *a: (os.write(2, b"interrupted\\n"), os._exit(8)))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])
print(os.getpid(), flush=True)
time.sleep(60)
"""
GONE = f"experiments.train: {supervision.GONE}"
EXHAUSTED = f"experiments.train: {supervision.EXHAUSTED}"
ABOUT_OTHERS = """\
ERROR:absl:[process=1] Failed to run 4 Handler Commit operations or the Commit callback
Traceback (most recent call last):
E1127 00:52:32.711300 17653 coordination_service_agent.cc:289] Polled an error
whose explanation goes on:
1
ERROR:absl:[process=1] Failed to wait at a barrier: ABORTED: Barrier failed
RPC: /xla.coordination.CoordinationService/Barrier [type.googleapis.com/tensorflow.BarrierError='']
F1127 00:52:32.711309 17653 client.h:80] Terminating process because the JAX distributed \
service detected fatal errors. This most likely indicates that another task died
*** Check failure stack trace: ***
    @     0x7f9bfd1f0321  tsl::RPCState<>::OnCompleted()
"""
ABOUT_MEMORY = [
    "terminate called after throwing an instance of 'St9bad_alloc'\n  what():  bad_alloc\n",
    "F1130 03:02:50.769532 1514 env.cc:93] Check failed: ret == 0 (11 vs. 0) Thread x creation "
    "via pthread_create() failed.\n*** Check failure stack trace: ***\n    @ 0x7efd3e100634\n",
    "LLVM ERROR: out of memory\nAllocation failed\nPLEASE submit a bug report\n",
]


def started(program, *flags):
    return subprocess.Popen(
        [sys.executable, "-c", BEGINNING + program, *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(program, *flags):
    """Exit code and the lines on standard error."""
    process = started(program, *(flags or ["--coordinator", "host:1"]))
    _, output = process.communicate(timeout=60)
    return process.returncode, output.splitlines()


def aborting(page):
    return f"sys.stderr.write({page!r})\nsys.stderr.flush()\nos.abort()"


@pytest.mark.parametrize("page", ABOUT_MEMORY)
def test_a_page_about_memory_becomes_one_line(page):
    assert ended(aborting(f"a warning\n{page}")) == (1, ["a warning", EXHAUSTED])


@pytest.mark.parametrize("said_before", ["", GONE + "\n"])
def test_a_page_about_others_becomes_one_line(said_before):
    """Whether or not the step has failed before the runtime aborts the process."""
    page = ABOUT_OTHERS + "ERROR:root:Barrier failed\n" + GONE + "\n"  # other threads notice too
    code, lines = ended(aborting(f"a warning\n{said_before}{page}"))
    assert (code, lines) == (1, ["a warning", GONE])


def test_what_is_written_after_a_page_is_passed_on():
    """A worker's page is not the end of a sweep."""
    page = ABOUT_MEMORY[2] + "experiments.train: warning: one of 2 trials failed\n"
    assert ended(f"sys.stderr.write({page!r})\nsys.exit(3)")[1][1:] == [page.splitlines()[-1]]


def test_a_crash_without_a_word_becomes_one_line():
    warning = "experiments.train: warning: few images\n"
    program = f"sys.stderr.write({warning!r})\nos.kill(os.getpid(), signal.SIGSEGV)"
    crashed = "experiments.train: crashed by SIGSEGV"  # and not for want of memory
    assert ended(program) == (1, [warning.strip(), crashed])


@pytest.mark.parametrize("flags", [["--coordinator", "host:1"], ["--cluster"], ["--other"]])
def test_the_exit_code_is_the_commands(flags):
    assert ended("sys.exit(3)", *flags) == (3, [])
    assert ended("os.kill(os.getpid(), signal.SIGKILL)", *flags) == (-signal.SIGKILL, [])


def test_a_command_has_a_supervisor_only_where_it_may_be_aborted():
    program = "print(os.environ.get('MNET_JAX_SUPERVISOR'))"
    plain, _ = started(program).communicate(timeout=60)
    assert plain.strip() == os.environ.get("MNET_JAX_SUPERVISOR", "None")
    joining = started(program, "--coordinator=host:1")
    assert joining.communicate(timeout=60)[0].strip() == str(joining.pid)


LIMITED = """
import mmap, resource, sys, time
from mnet_jax.commands import supervision
supervision.IDLE_SECONDS = 0.5
resource.setrlimit(resource.RLIMIT_AS, (2**33, resource.getrlimit(resource.RLIMIT_AS)[1]))
supervision.begin("train")
free = 2**33 - 1024 * int(next(
    line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize")
))
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for what a process uses")


def ended_with_a_limit(program):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + program],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stderr.splitlines()


@linux
def test_a_command_with_few_addresses_has_a_supervisor():
    assert ended_with_a_limit("import os\nos.abort()") == (1, [EXHAUSTED])


@linux
def test_a_command_without_addresses_that_waits_for_ever_is_ended():
    """As libraries do for threads that could not be started."""
    full = "taken = mmap.mmap(-1, free - 2**24)\ntime.sleep(1000)"
    assert ended_with_a_limit(full) == (1, [EXHAUSTED])


@linux
@pytest.mark.parametrize(
    "program",
    [
        "taken = mmap.mmap(-1, free - 2**28)\ntime.sleep(3)",  # it waits, and has addresses
        "taken = mmap.mmap(-1, free - 2**24)\nend = time.time() + 3\nwhile time.time() < end: pass",
    ],
)
def test_a_command_that_waits_or_computes_is_not_ended(program):
    assert ended_with_a_limit(program + "\nsys.exit(4)") == (4, [])


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 7, "told"), (signal.SIGINT, 8, "interrupted")],
)
def test_a_signal_is_the_commands(number, code, word):
    process = started(WAITING, "--cluster")
    process.stdout.readline()
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert (process.returncode, output) == (code, f"{word}\n")


@linux
def test_a_command_is_told_when_its_supervisor_is_killed():
    process = started(WAITING, "--cluster")
    process.stdout.readline()
    process.kill()
    _, output = process.communicate(timeout=60)  # until the command has closed them
    assert (process.returncode, output) == (-signal.SIGKILL, "")
