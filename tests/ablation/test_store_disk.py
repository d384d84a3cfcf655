"""An event is in the journal whole or not at all, whatever kills, fails or writes at once."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from stored_trials import journal_of, make_trial, recorded, snapshot, write_all

from mnet_jax.ablation import store
from mnet_jax.ablation.store import Store, StoreError
from mnet_jax.files import replace_file


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for directory in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(StoreError, match=r"^cannot write .*file.*journal.jsonl: ") as caught:
            Store(directory).append(make_trial())
        assert "\n" not in str(caught.value)
        with pytest.raises(StoreError, match=r"^cannot read .*file.*journal.jsonl: "):
            Store(directory).read()


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    def fail(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "picture.png"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        replace_file(path, b"after")
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC
    assert snapshot(tmp_path) == {path: b"before"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(tmp_path):
    trial = make_trial()
    Store(tmp_path).append(trial)
    (leases := tmp_path / "leases").mkdir()
    journal_of(tmp_path).chmod(0o400)
    for directory in (leases, tmp_path):
        directory.chmod(0o500)
    with pytest.raises(StoreError, match=r"^cannot write .*: Permission denied$"):
        Store(tmp_path).append(make_trial(1))
    assert Store(tmp_path).read().trials == {trial.key: trial}, "reading needs no right to write"


@pytest.mark.parametrize(
    ("broken", "kept"),
    [("os.write", 0), ("os.write", 100), ("os.fsync", None), ("fcntl.flock", 0), ("os.open", 0)],
)
def test_a_disk_that_fails_leaves_the_journal_as_it_was(tmp_path, monkeypatch, broken, kept):
    """Also where the failing write had put a part of the line on disk, or all of it."""
    earlier = make_trial(accuracy=0.8)
    trials = Store(tmp_path)
    trials.append(earlier)
    before, write = snapshot(tmp_path), os.write

    def fail(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_a_part(file, content):
        return write(file, content[:kept]) if kept and len(content) > kept else fail()

    with monkeypatch.context() as patch:
        patch.setattr(broken, write_a_part if broken == "os.write" else fail)
        with pytest.raises(StoreError, match=r"^cannot write .*jsonl: No space left on device$"):
            trials.append(make_trial(1))
    assert snapshot(tmp_path) == before
    trials.append(later := make_trial(2))
    assert trials.read().trials == {t.key: t for t in (earlier, later)}
    assert trials.complaints == ()


def run_program(code, *arguments, **options):
    paths = [str(Path(__file__).parents[1] / "support"), *sys.path]
    code = f"import sys; sys.path[:0] = {paths!r}\n" + (
        "from stored_trials import *\n" + textwrap.dedent(code)
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_a_file_that_may_not_grow(tmp_path):
    """The system itself cuts a write short, as a full disk does, at every fiftieth byte."""
    Store(tmp_path).append(make_trial())
    before = snapshot(tmp_path)
    program = run_program(
        """
        import resource, signal
        from pathlib import Path
        from mnet_jax.ablation.events import to_line

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = journal_of(Path(sys.argv[1])).stat().st_size
        line = make_trial(1)
        for more in range(0, len(to_line(line)), 50):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + more, resource.RLIM_INFINITY))
            try:
                Store(sys.argv[1]).append(line)
            except ValueError as error:
                print(error)
        """,
        tmp_path,
    )
    lines = program.communicate(timeout=60)[0].splitlines()
    assert len(lines) > 50 and program.returncode == 0
    assert {*lines} == {f"cannot write {journal_of(tmp_path)}: File too large"}
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("delay", [0.0, 0.0013, 0.0031])
def test_a_kill_loses_nothing_that_had_finished(tmp_path, delay):
    writer = run_program(
        """
        seed = 0
        while True:
            Store(sys.argv[1]).append(make_trial(seed, accuracy=seed / 1e6))
            seed += 1
            print(seed, flush=True)  # so many are promised
        """,
        tmp_path,
    )
    promised = 0
    while promised < 5:
        promised = int(writer.stdout.readline())
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    rest, _ = writer.communicate()
    promised = max([promised, *map(int, rest.split())])
    trials = Store(tmp_path)
    found = trials.read().trials
    assert all("cut off" in complaint for complaint in trials.complaints)
    assert {trial.config.seed for trial in found.values()} >= set(range(promised))
    assert all(t.result.test_accuracy == t.config.seed / 1e6 for t in found.values())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux what was synced")
def test_it_is_on_disk_when_append_returns(tmp_path, monkeypatch):
    """What a loss of power needs: the new directories, the file's name and its content synced."""
    calls, fsync, write = [], os.fsync, os.write
    path_of = lambda fd: Path(f"/proc/self/fd/{fd}").resolve()  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(path_of(fd)), fsync(fd)))
    monkeypatch.setattr(os, "write", lambda fd, text: calls.append("write") or write(fd, text))
    home = tmp_path.resolve()
    Store(tmp_path / "new").append(make_trial())
    assert calls == [home, home / "new", "write", home / "new" / "journal.jsonl"]
    calls.clear()
    Store(tmp_path / "new").append(make_trial(1))
    assert calls == ["write", home / "new" / "journal.jsonl"]


def test_processes_write_at_once(tmp_path):
    """Four writers, half of their trials the same: every line whole, and none is missing."""
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        writers = [
            pool.submit(write_all, tmp_path, range(10 * i, 10 * i + 20), i / 8) for i in range(4)
        ]
        reader = Store(tmp_path)
        while not all(writer.done() for writer in writers):
            reader.read()
        for writer in writers:
            writer.result()
    assert reader.complaints == (), "nobody sees a line that is being written"
    written = [(t.config.seed, t.result.test_accuracy) for t in recorded(tmp_path)]
    assert sorted(written) == sorted(
        (seed, i / 8) for i in range(4) for seed in range(10 * i, 10 * i + 20)
    )
    assert sorted(t.config.seed for t in reader.read().trials.values()) == list(range(50))
    assert [*snapshot(tmp_path)] == [journal_of(tmp_path)]


def test_threads_write_at_once(tmp_path):
    trials = Store(tmp_path)

    def write(first):
        for seed in range(first, first + 20):
            trials.append(make_trial(seed))

    threads = [threading.Thread(target=write, args=(20 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(trial.config.seed for trial in recorded(tmp_path)) == list(range(80))


def test_write_file_leaves_no_other_file(tmp_path):
    for content in (b"one", b"two"):
        store.write_file(tmp_path / "deep" / "er" / "report.md", content)
        assert list(snapshot(tmp_path).values()) == [content]
