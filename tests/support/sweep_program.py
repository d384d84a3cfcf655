"""`experiments.ablate` as it is typed, but for its trials, which compute nothing, and its charts.

`sweep_program.py MODE LOG WORDS...` calls `ablate WORDS...`; LOG gets a line for each trial that is
run, with the process that runs it and the trial's key. MODE says what a trial does:

- `quick`: it ends at once.
- `together`: a process's first one ends when each of three processes has begun one.
- `stuck`: it never ends.
- `kill`: as `quick`, thrice for every write to the journal: in a directory of its own the sweep is
  killed before, within or after that write, and called again.
- `kill within`: the same within each write only.
"""

import itertools
import os
import runpy
import signal
import sys
import time
import types
from pathlib import Path

from trial_stand_ins import result_of

from mnet_jax.ablation import figure, page, runners  # noqa: F401  # the page: before any fork
from mnet_jax.ablation.store import key_of
from mnet_jax.commands import planning


def run_here(mode, log):
    """What stands in for `runners.run`."""

    def run(configs, runner, directory_of, begun, report):
        for config in configs:
            if config is None:
                time.sleep(0.01)
                continue
            begun(config)
            with log.open("a") as file:
                file.write(f"{os.getpid()} {key_of(config)}\n")
            while mode == "stuck":
                runner.wait(0.01)
            while mode == "together" and len(processes(log)) < 3:
                time.sleep(0.01)
            yield runners.Outcome(
                config=config, result=result_of(config.seed), cause=None, environment={}
            )

    return run


def processes(log):
    return {line.split()[0] for line in log.read_text().splitlines()}


def ablate(words):
    sys.argv = ["ablate", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    runpy.run_module("experiments.ablate", run_name="__main__", alter_sys=False)


def forked(call):
    """How a copy of this process ends that does no more than `call`: negative for a signal."""
    sys.stdout.flush()
    if not (child := os.fork()):
        code = 1
        try:
            call()
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number, share):
    """Makes the write of that number, from 1, put a share of its line on disk, and a kill."""
    write, count = os.write, itertools.count(1)

    def write_or_die(file, line):
        if next(count) < number:
            return write(file, line)
        write(file, line[: int(len(line) * share)])
        os.kill(os.getpid(), signal.SIGKILL)

    os.write = write_or_die


def kill_at_every_write(root, words, shares):
    for share in shares:
        for number in itertools.count(1):
            results = root / f"{share} {number}"
            call = [*words, "--results", str(results)]

            def cut(number=number, share=share, call=call):
                killed_at(number, share)
                ablate(call)

            log = root / f"{results.name}.log"
            runners.run = run_here("quick", log)
            code = forked(cut)
            print("ended", results.name, code, forked(lambda call=call: ablate(call)), flush=True)
            if code == 0:  # there are fewer writes than that
                break


if __name__ == "__main__":
    mode, log, *words = sys.argv[1:]
    # Not a `data.Dataset`, which takes seconds to import.
    images = types.SimpleNamespace(num_classes=10, train=range(1167), listing="")
    planning.load = lambda config: images
    figure.obstacle = lambda: "no charts: they take a second each"
    if mode.startswith("kill"):
        shares = (0.0, 0.5, 1.0) if mode == "kill" else (0.5,)
        kill_at_every_write(Path(log).parent, words, shares)
    else:
        runners.run = run_here(mode, Path(log))
        print("ready", flush=True)
        sys.stdin.readline()
        ablate(words)
