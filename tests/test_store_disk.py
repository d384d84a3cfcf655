"""A trial is on disk whole or not at all, whatever kills, fails or writes at once."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from stored_trials import make_trial, snapshot, write_all

from mnet_jax.ablation import store
from mnet_jax.ablation.store import Store


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for directory in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ValueError, match=r"^cannot write .*file.*trials.*: ") as caught:
            Store(directory).write(make_trial())
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=r"^cannot read .*file.*: "):
            Store(directory).read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"^cannot write .*: Permission denied$"):
        Store(tmp_path).write(make_trial())


@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "builtins.open"])
def test_a_disk_that_fails_leaves_the_earlier_trial(tmp_path, monkeypatch, call):
    earlier = make_trial(accuracy=0.8)
    trials = Store(tmp_path)
    trials.write(earlier)
    before = snapshot(tmp_path)

    def fail(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(ValueError, match=r"^cannot write .*: No space left on device$"):
            trials.write(make_trial(accuracy=0.9))
    assert snapshot(tmp_path) == before


def _run_until_killed(directory, ready):
    """A process that writes trials, seed after seed, for ever; killed once `ready()`."""
    code = f"""
    import sys
    sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
    from stored_trials import Store, make_trial
    seed = 0
    while True:
        Store({str(directory)!r}).write(make_trial(seed, accuracy=seed / 1e6))
        seed += 1
        print(seed, flush=True)  # so many are promised
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    try:
        ready(process)
    finally:
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
    return output


@pytest.mark.parametrize("delay", [0.0, 0.0013, 0.0031])
def test_a_kill_loses_nothing_that_had_finished(tmp_path, delay):
    promised = 0

    def ready(process):
        nonlocal promised
        while promised < 5:
            promised = int(process.stdout.readline())
        time.sleep(delay)

    rest = _run_until_killed(tmp_path, ready)
    promised = max([promised, *map(int, rest.split())])
    found, complaints = Store(tmp_path).read()
    assert complaints == ()
    assert {trial.config.seed for trial in found.values()} >= set(range(promised))
    assert all(t.result.test_accuracy == t.config.seed / 1e6 for t in found.values())


def test_a_kill_between_the_write_and_the_rename(tmp_path):
    """The one instant with two files: killed there, the earlier trial stands, unharmed."""
    earlier = make_trial(accuracy=0.8)
    Store(tmp_path).write(earlier)
    code = f"""
    import os, signal, sys
    sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
    from stored_trials import Store, make_trial
    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    Store({str(tmp_path)!r}).write(make_trial(accuracy=0.9))
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert run.returncode == -signal.SIGKILL
    left = [path.name for path in snapshot(tmp_path)]
    assert len(left) == 2
    assert Store(tmp_path).read() == ({earlier.key: earlier}, ())
    Store(tmp_path).write(make_trial(accuracy=0.9))
    assert Store(tmp_path).read()[0][earlier.key].result.test_accuracy == 0.9


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux what was synced")
def test_it_is_on_disk_before_it_is_named(tmp_path, monkeypatch):
    """What a loss of power needs: file synced, then renamed, then its directory synced."""
    calls = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(Path(f"/proc/self/fd/{fd}").resolve()), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda *p: (calls.append("rename"), rename(*p)))
    trial = make_trial()
    Store(tmp_path / "new").write(trial)
    made, file, renamed, named = calls[:-3], *calls[-3:]
    assert made == [tmp_path.resolve(), tmp_path.resolve() / "new"]
    assert file.name.startswith(f".{trial.key}.json.") and renamed == "rename"
    assert named == (tmp_path / "new" / "trials").resolve()


def test_processes_write_at_once(tmp_path):
    """Four writers, half of their trials the same: all whole, each as one of them wrote it."""
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        writers = [
            pool.submit(write_all, tmp_path, range(10 * i, 10 * i + 20), i / 8) for i in range(4)
        ]
        while not all(writer.done() for writer in writers):
            _, complaints = Store(tmp_path).read()
            assert complaints == ()
        for writer in writers:
            writer.result()
    found, complaints = Store(tmp_path).read()
    assert complaints == ()
    assert sorted(trial.config.seed for trial in found.values()) == list(range(50))
    for trial in found.values():
        writer = 8 * trial.result.test_accuracy
        assert trial.config.seed - 10 * writer in range(20)
    assert all(path.suffix == ".json" for path in snapshot(tmp_path))


def test_write_file_leaves_no_other_file(tmp_path):
    for content in (b"one", b"two"):
        store.write_file(tmp_path / "deep" / "er" / "report.md", content)
        assert list(snapshot(tmp_path).values()) == [content]
