"""What several test files share: a small network, a data folder, errors of one line."""

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib

import pytest
from hypothesis import settings

from mnet_jax import architectures
from mnet_jax.architectures import ConvNorm, Head, InvertedResidual, NetworkSpec

# Here, as pytest asks for a profile before it imports the tests; see test_random_specs.py.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
settings.register_profile("thousands", max_examples=5000, deadline=None)

COMPILATION_CACHE = "JAX_COMPILATION_CACHE_DIR"
KEPT_BYTES = 2**30  # of compiled programs


def pytest_addoption(parser):
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="cut and stop at every byte, write and step, not at some of them; run every case",
    )


def pytest_collection_modifyitems(config, items):
    """Leaves out the cases marked `exhaustive` unless they are asked for; files of slow tests first.

    With these last, one worker would begin a long file when the other has nothing left to do.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if config.getoption("exhaustive"):
        return
    left_out = [item for item in items if item.get_closest_marker("exhaustive")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]


@pytest.fixture
def exhaustive(request):
    return request.config.getoption("exhaustive")


def pytest_configure(config):
    """What JAX compiles is kept for all tests, the processes that they start, and later runs.

    Most of the tests' time is XLA's, and their networks are few. JAX is not yet imported here.
    """
    if hasattr(config, "workerinput") or COMPILATION_CACHE in os.environ:
        return
    os.environ[COMPILATION_CACHE] = str(kept_programs(config) or programs_of_this_run(config))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def kept_programs(config):
    """The compiled programs of earlier runs, a directory that `pytest --cache-clear` removes.

    None where pytest keeps nothing: with `-p no:cacheprovider`, or in a read-only checkout.
    """
    try:
        directory = config.cache.mkdir("xla")
        remove_unusable_programs(directory)
    except (AttributeError, OSError):
        return None
    return directory


def programs_of_this_run(config):
    directory = tempfile.mkdtemp(prefix="mnet_jax-compiled-")
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    return directory


def remove_unusable_programs(directory):
    """Removes compiled programs that are not whole, or all if they take too much room.

    A process that is killed can leave half a program, of which JAX would warn in every later run.
    """
    checked = directory / "checked"  # was touched when all older programs were whole
    since, now = checked.stat().st_mtime if checked.exists() else 0, time.time()
    programs = {path: path.stat() for path in directory.glob("*-cache")}
    too_large = sum(status.st_size for status in programs.values()) > KEPT_BYTES
    for path, status in programs.items():
        if too_large or (status.st_mtime >= since and not is_whole(path)):
            path.unlink(missing_ok=True)
    checked.touch()
    os.utime(checked, (now, now))


def is_whole(path):
    """Whether a file that JAX compressed has its end."""
    try:
        zlib.decompress(path.read_bytes())
    except zlib.error:
        return False
    return True


def make_tiny_spec(num_classes: int = 10, dropout: float = 0.2, count: int = 2) -> NetworkSpec:
    """A stem, one or two inverted residuals, the first with a shortcut, and a last convolution."""
    blocks = (
        InvertedResidual(inputs=8, expanded=16, outputs=8, shortcut="bottleneck"),
        InvertedResidual(inputs=8, expanded=16, outputs=12, stride=2),
    )[:count]
    published = architectures.mobilenet_v2(norm_momentum=0.9)
    return NetworkSpec(
        name="tiny",
        width=1.0,
        dialect=published.dialect,
        stem=ConvNorm(inputs=3, outputs=8, kernel=3),
        blocks=blocks,
        head=Head(
            conv=ConvNorm(inputs=blocks[-1].outputs, outputs=16, kernel=1),
            dropout=dropout,
            num_classes=num_classes,
        ),
    )


def make_short_spec(dropout: float = 0.2) -> NetworkSpec:
    """The tiny network without its second block and last convolution: compiles in half the time."""
    tiny = make_tiny_spec(dropout=dropout)
    head = dataclasses.replace(tiny.head, conv=None)
    return dataclasses.replace(tiny, blocks=tiny.blocks[:1], head=head)


@pytest.fixture
def tiny_spec() -> NetworkSpec:
    return make_tiny_spec()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A TFDS data folder for the module, so that nothing is written to the home."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def data_folder(stored, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(stored))
    # TFDS leaves an empty temporary folder behind for each builder that is not ours.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.getbasetemp()))
    return stored


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


def call_command(module, words, monkeypatch, capfd):
    """The exit code, standard output and standard error of a command in this process."""
    monkeypatch.setattr(sys, "argv", [module.COMMAND, *words])
    try:
        module.main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    return (code, *capfd.readouterr())


def assert_refused(answer, command, *told):
    """The answer of `call_command` is one line that says each of `told`, and code 2.

    Nothing is printed before, but for what says that a data set is read.
    """
    code, out, err = answer
    assert code == 2 and (not out or re.fullmatch(r"reading .+ \.\.\.\n", out)), out
    assert err.startswith(f"experiments.{command}: ") and err.count("\n") == 1, err
    for text in told:
        assert text in err


def one_line(error, call, *words):
    """The message of the error that `call` raises: one line that says each of `words`."""
    with pytest.raises(error) as caught:
        call()
    (message,) = str(caught.value).splitlines()
    for word in words:
        assert str(word) in message
    return message


def make_special(path, kind, monkeypatch):
    """Something at `path` that is no regular file; to open a FIFO would wait for ever."""
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        monkeypatch.chdir(path.parent)  # a socket's path must be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    else:
        path.symlink_to("/dev/zero" if kind == "a character device" else "/proc/kmsg")
