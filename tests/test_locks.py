"""Files that one process has at a time, and the directory of a run, which one run has."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import pytest
from messages import one_line
from tiny_network import make_tiny_spec

from mnet_jax.config import DataConfig, RunConfig
from mnet_jax.files import locked, read_file
from mnet_jax.runs.run import run
from mnet_jax.runs.run_directory import LOCK, DirectoryInUseError, directory_lock

ROOT = Path(__file__).parents[1]
CONFIG = RunConfig(spec=make_tiny_spec(), data=DataConfig(resolution=8, batch_size=64))
HOLDER = """
import sys
from pathlib import Path
from mnet_jax.runs.run_directory import directory_lock
with directory_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("shared", "free"), [((True, True), True), ((True, False), False)])
def test_who_does_not_wait_is_refused_unless_both_share(tmp_path, shared, free):
    (tmp_path / "file").touch()
    with locked(tmp_path / "file", shared=shared[0]):
        if free:
            with locked(tmp_path / "file", shared=shared[1], wait=False):
                return
        with (
            pytest.raises(BlockingIOError),
            locked(tmp_path / "file", shared=shared[1], wait=False),
        ):
            pass
    with locked(tmp_path / "file", wait=False):
        pass


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("fifo", "directory"):
        one_line(OSError, lambda name=name: read_file(tmp_path / name), "not a regular file", name)
    with pytest.raises(OSError, match="not a regular file"), locked(tmp_path / "fifo"):
        pass
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")


def test_a_second_run_is_refused_at_once_naming_the_holder_and_leaves_all_as_it_is(tmp_path):
    with directory_lock(tmp_path):
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        holder = f"process {os.getpid()} on "
        one_line(DirectoryInUseError, lambda: run(CONFIG, tmp_path), "run: got", tmp_path, holder)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with directory_lock(tmp_path):
        pass


def test_another_thread_is_another_run(tmp_path):
    refused = []

    def enter():
        try:
            with directory_lock(tmp_path):
                pass
        except DirectoryInUseError as error:
            refused.append(error)

    with directory_lock(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert refused


def test_a_lock_ends_with_its_holder_however_that_ends(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"

    def enter():
        with directory_lock(tmp_path):
            pass

    one_line(DirectoryInUseError, enter, f"process {holder.pid} on ")
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    enter()


def test_of_a_runs_several_processes_the_first_one_holds_the_lock(tmp_path, monkeypatch):
    with directory_lock(tmp_path):
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with directory_lock(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_without_locks_there_is_a_warning_and_the_run_goes_on(tmp_path, monkeypatch, number):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match=f"{tmp_path}: cannot be locked"), directory_lock(tmp_path):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_a_lock_that_is_no_file_is_an_error_that_names_it(tmp_path, make):
    make(tmp_path / LOCK)

    def enter():
        with directory_lock(tmp_path):
            pass

    one_line(OSError, enter, tmp_path / LOCK)
