"""A command as it is typed, told to stop: `entry_program.py SIGNAL MOMENT MODULE COMMAND WORDS...`.

It sends the signal to itself when MODULE is looked for, at a MOMENT:

- `at once`: there.
- `collecting`: in a callback of the garbage collector, where exceptions are lost.
- `computing`: from another thread, while the main one is in C for hours.
"""

import contextlib
import gc
import hashlib
import importlib.abc
import os
import runpy
import signal
import sys
import threading

NUMBER = signal.Signals[sys.argv[1]]


def tell():
    os.kill(os.getpid(), NUMBER)


def tell_while_collecting():
    def callback(phase, info):
        gc.callbacks.remove(callback)
        tell()

    gc.callbacks.append(callback)
    gc.collect()


def tell_while_computing():
    threading.Timer(0.5, tell).start()  # any time will do, so long as the other one is in C
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


MOMENTS = {
    "at once": tell,
    "collecting": tell_while_collecting,
    "computing": tell_while_computing,
}


class AtImport(importlib.abc.MetaPathFinder):
    """Acts when a module is looked for."""

    def __init__(self, name, action):
        self._name, self._action = name, action

    def find_spec(self, name, path, target=None):
        if name == self._name:
            self._action()


if __name__ == "__main__":
    _, _, moment, module, command, *words = sys.argv
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    sys.meta_path.insert(0, AtImport(module, MOMENTS[moment]))
    sys.argv = [command, *words]
    with contextlib.suppress(SystemExit):
        runpy.run_module(f"experiments.{command}", run_name="__main__", alter_sys=False)
    print("went on")
