"""Runs programs on several virtual devices."""

import os
import signal
import subprocess
import sys


def printed_on_eight_devices(*command):
    """What a Python program prints that has 8 virtual devices on however few cores.

    With a pool of as few threads as cores, six devices of eight were seen to wait in XLA's
    all-reduce for ten minutes, with nothing else at work; in 80 other runs they did not. So there
    are more threads than devices, XLA ends the process sooner, and then there is another try.
    """
    flags = "--xla_cpu_collective_call_terminate_timeout_seconds=120"
    environment = os.environ | {"XLA_FLAGS": flags, "PJRT_NPROC": "16"}
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            env=environment, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        if done.returncode != -signal.SIGABRT or "rendezvous" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
