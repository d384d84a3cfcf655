"""Sweeps that share a directory or are killed: each trial runs once, and none is lost."""

import collections
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from stored_trials import (
    ENVIRONMENT,
    journal_of,
    make_config,
    make_result,
    make_sweep,
    make_trial,
    recorded,
    sweep_of,
)

from mnet_jax.ablation.events import Started, Sweep, Trial, failure, key_of, success
from mnet_jax.ablation.store import Store
from mnet_jax.architectures import mobilenet_v2
from mnet_jax.quantization import QuantizationConfig

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parents[1] / "support" / "sweep_program.py"
ARMS = ["--bottleneck", "linear", "relu6", "--width", "0.1"]


@pytest.fixture
def start(tmp_path):
    """Starts `sweep_program`, which waits for a line; kills what is left at the end."""
    begun = []

    def call(*words, code=None):
        program = ["-c", code] if code else [str(PROGRAM)]
        begun.append(process := subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PROGRAM.parent), str(ROOT)])},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ))  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        return process

    yield call
    for process in begun:
        process.kill()
        process.communicate()


def log_of(path):
    return [line.split() for line in path.read_text().splitlines()]


def table_of(directory):
    return (directory / "report.csv").read_text()


@pytest.mark.slow
def test_three_sweeps_at_once_run_each_trial_once(tmp_path, start):
    """Each is in its first trial before any goes on, so all three take part."""
    words = ["together", "log", *ARMS, "--seeds", "6", "--results", "R"]
    sweeps = [start(*words) for _ in range(3)]
    for sweep in sweeps:
        sweep.stdin.write("\n")
        sweep.stdin.flush()
    for sweep in sweeps:
        out, err = sweep.communicate(timeout=300)
        assert (sweep.returncode, err) == (0, ""), out
    log = log_of(tmp_path / "log")
    assert len({process for process, _ in log}) == 3
    assert len(log) == len({key for _, key in log}) == 12
    keys = {key_of(config) for config in recorded(tmp_path / "R", Sweep)[0].configs}
    for kind in (Started, Trial):
        assert sorted(event.key for event in recorded(tmp_path / "R", kind)) == sorted(keys)
    assert len({event.worker for event in recorded(tmp_path / "R", Started)}) == 3
    assert len(recorded(tmp_path / "R", Sweep)) == 3
    found = Store(tmp_path / "R").read()
    assert {*found.trials} == keys and found.running == {}
    assert all(trial.result for trial in found.trials.values())


@pytest.mark.slow
def test_a_kill_at_every_write_of_the_journal(tmp_path, exhaustive):
    mode = "kill" if exhaustive else "kill within"
    done = subprocess.run(
        [sys.executable, PROGRAM, mode, tmp_path / "log", *ARMS, "--seeds", "1"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PROGRAM.parent), str(ROOT)])},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ended")]
    kill, fine = str(-signal.SIGKILL), "0"
    # One write for the sweep, two for each of two trials; then the last of each share, unharmed.
    writes = 1 + 2 * 2
    expected = [(str(n), kill if n <= writes else fine, fine) for n in range(1, writes + 2)]
    assert [tuple(run[1:]) for run in runs] == expected * (3 if exhaustive else 1)
    whole = tmp_path / f"0.5 {writes + 1}"
    for share, number, *_ in runs:
        results = tmp_path / f"{share} {number}"
        trials = recorded(results)
        assert len(trials) == len({trial.key for trial in trials}) == 2
        assert table_of(results) == table_of(whole)
        # A line that is whole is never run again; a trial whose line is not, once more.
        tried = collections.Counter(key for _, key in log_of(tmp_path / f"{results.name}.log"))
        torn = int(number) in (3, 5) and float(share) < 1
        assert sorted(tried.values()) == ([1, 2] if torn else [1, 1]), results.name
        aside = [*results.glob("journal.torn-*")]
        assert len(aside) == (share == "0.5" and int(number) <= writes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_frees_the_lease_and_says_how_to_go_on(tmp_path, start, number):
    sweep = start("stuck", "log", *ARMS, "--seeds", "1", "--results", "R")
    sweep.stdin.write("\n")
    sweep.stdin.flush()
    while not (tmp_path / "log").exists():
        assert sweep.poll() is None
        time.sleep(0.01)
    (key,) = Store(tmp_path / "R").read().running
    sweep.send_signal(number)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    message = "interrupted; 0 of 2 trials are stored in R, the same command goes on"
    assert err == f"experiments.ablate: {message}\n"
    assert Store(tmp_path / "R").read().running == {}
    again = start("quick", "log", *ARMS, "--seeds", "1", "--results", "R")
    again.communicate("\n", timeout=60)
    assert again.returncode == 0 and len(recorded(tmp_path / "R")) == 2
    assert [line[1] for line in log_of(tmp_path / "log")].count(key) == 2


HOLDER = """
import sys
from stored_trials import *
with Store(sys.argv[1]) as store:
    leases = store.lease_trials({}, [make_config(0)])
    assert next(leases) == make_config(0)
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_a_dead_holders_trial_is_taken_over(tmp_path, start):
    holder = start(tmp_path, code=HOLDER)
    store = Store(tmp_path)
    running = store.read().running
    assert {key: lease.pid for key, lease in running.items()} == {
        key_of(make_config(0)): holder.pid
    }
    leases = store.lease_trials({}, [make_config(0), make_config(1)])
    assert next(leases) == make_config(1), "what is free comes first"
    store.append(make_trial(1))
    assert [next(leases), next(leases)] == [None, None], "it lives"
    holder.kill()
    holder.wait()
    assert store.read().running == {}
    assert next(leases) == make_config(0)
    (lease,) = store.read().running.values()
    assert lease.pid == os.getpid()
    store.append(make_trial(0))
    assert [*leases] == []
    assert [event.pid for event in recorded(tmp_path, Started)] == [
        holder.pid, os.getpid(), os.getpid(),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "ending",
    [success(make_config(0), make_result(), ENVIRONMENT), failure(make_config(0), "killed", {})],
    ids=["finished", "failed"],
)
def test_what_ended_elsewhere_is_not_run_again(tmp_path, ending):
    """A failure is run again by the next call, not by one that was there when it failed."""
    with Store(tmp_path) as one, Store(tmp_path) as other:
        assert next(one.lease_trials({}, [make_config(0)])) == make_config(0)
        leases = other.lease_trials({}, [make_config(0)])
        assert next(leases) is None
        one.append(ending)
        assert [*leases] == []
        known = other.read().trials
        again = [*other.lease_trials(known, [make_config(0)])]
        assert again == ([] if ending.result else [make_config(0)])


def test_a_store_that_is_closed_holds_nothing(tmp_path):
    with Store(tmp_path) as store:
        first, second = [make_config(seed) for seed in (0, 1)]
        leases = store.lease_trials({}, [first, second])
        assert [next(leases), next(leases)] == [first, second]
        assert len(Store(tmp_path).read().running) == 2
        store.append(make_trial(0))
        assert [*Store(tmp_path).read().running] == [key_of(second)]
    assert Store(tmp_path).read().running == {}
    with Store(tmp_path) as store:
        assert [*store.lease_trials(store.read().trials, [first, second])] == [second]


def test_a_lease_that_cannot_be_recorded_is_given_up(tmp_path, monkeypatch):
    with Store(tmp_path) as one, Store(tmp_path) as other:
        one.append(make_sweep())
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, line: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                next(one.lease_trials({}, [make_config()]))
        assert next(other.lease_trials({}, [make_config()])) == make_config()


def test_a_place_for_leases_that_is_none(tmp_path):
    (tmp_path / "leases").write_text("in the way")
    with pytest.raises(ValueError, match=r"^cannot write .*leases.*: [\w ]+$"):
        next(Store(tmp_path).lease_trials({}, [make_config()]))


def test_a_grid_may_change_between_calls(tmp_path):
    """Arms and seeds come, go and change places; what ran is found, and belongs to its config."""
    linear, relu6 = (
        make_config(spec=mobilenet_v2(bottleneck=name, num_classes=10))
        for name in ("linear", "relu6")
    )
    calls = [([linear], (0, 1)), ([relu6, linear], (1, 0)), ([relu6], (2, 1)), ([linear], (2,))]
    accuracies = {}
    for arms, seeds in calls:
        with Store(tmp_path) as store:
            sweep = sweep_of("ablate", arms, seeds, arms[0], ["bottleneck"])
            known = store.read().trials
            store.append(sweep)
            ran = []
            for config in store.lease_trials(known, sweep.configs):
                accuracies[config] = len(accuracies) / 16
                store.append(success(config, make_result(accuracies[config]), ENVIRONMENT))
                ran.append(config)
            assert ran == [config for config in sweep.configs if key_of(config) not in known]
    assert len(recorded(tmp_path)) == len(accuracies) == 6
    found = Store(tmp_path).read()
    assert [(sweep.arms, sweep.seeds) for sweep in found.sweeps] == [
        (tuple(arms), seeds) for arms, seeds in calls
    ]
    assert {t.config: t.result.test_accuracy for t in found.trials.values()} == accuracies


def test_files_that_leases_leave_are_empty(tmp_path):
    with Store(tmp_path) as store:
        next(store.lease_trials({}, [make_config()]))
    sizes = {str(path.relative_to(tmp_path)): path.stat().st_size for path in tmp_path.rglob("*.*")}
    assert sizes.pop(journal_of(tmp_path).name)
    (lease,) = sizes
    assert re.fullmatch(r"leases/[0-9a-f]{16}\.lock", lease) and sizes[lease] == 0


def test_a_trial_that_quantizes_waits_for_the_trial_of_its_network(tmp_path):
    source, other = make_config(0), make_config(1)
    dependent = replace(source, quantization=QuantizationConfig())
    assert dependent.source == source
    with Store(tmp_path) as one, Store(tmp_path) as two:
        leases = one.lease_trials({}, [dependent, source, other])
        assert [next(leases), next(leases), next(leases)] == [source, other, None]
        elsewhere = two.lease_trials({}, [dependent])
        assert next(elsewhere) is None, "its source runs"
        one.finish(source, make_result(), ENVIRONMENT)
        assert next(leases) == dependent
        assert next(elsewhere) is None, "it runs itself"
