"""A core for a process whose results are compared bit for bit: they depend on its threads.

Each of pytest's workers has one for the processes that it starts, so that they do not wait for
each other's.
"""

import os


def take_a_core():
    """Pins this process; to be called before JAX starts."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})
