"""Processes of a program without its imports, which take most of their time.

One process of the program imports what it needs, and then forks for every call. A call is a JSON
list on a line of its standard input: files for standard output and standard error, changes of the
environment, arguments. Its answer is a line with the exit code.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

MOST_SECONDS = 240


def has_backend():
    """Whether this process has threads of XLA's; they are not in a fork, which waits for them."""
    if not Path("/proc/self/task").exists():
        return False
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return any("XLA" in name for name in names)


def take_a_call(modules):
    """Imports `modules`, and returns in a child for each call; its arguments are in `sys.argv`.

    The parent has no threads: nothing here may start JAX's backends.
    """
    for module in modules:
        importlib.import_module(module)
        assert not has_backend(), f"{module} starts JAX's backend, and a fork of it would hang"
    for line in sys.stdin:
        child = os.fork()
        if not child:
            output, errors, changes, *sys.argv[1:] = json.loads(line)
            os.environ.update(changes)
            signal.alarm(MOST_SECONDS)
            for descriptor, path in enumerate((os.devnull, output, errors)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


class Forking:
    """The process that forks, from outside; `call` is as `subprocess.run`."""

    def __init__(self, program, streams, environment):
        """Starts it.

        Args:
          program: its path; without arguments it calls `take_a_call`.
          streams: an empty directory for what the calls print.
          environment: its environment variables.
        """
        self._streams, self._calls = streams, 0
        self._process = subprocess.Popen(
            [sys.executable, program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def call(self, arguments, **changes):
        self._calls += 1
        paths = [self._streams / f"{self._calls}-{name}" for name in ("output", "errors")]
        call = [*map(str, paths), changes, *map(str, arguments)]
        print(json.dumps(call), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(p.read_text() for p in paths))

    def close(self):
        self._process.communicate(timeout=MOST_SECONDS)
