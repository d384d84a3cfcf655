"""Options of the tests, the environment of their processes, and fixtures of several files."""

import os
from pathlib import Path

import pytest
from compiled_programs import kept_programs, programs_of_this_run
from hypothesis import settings
from tiny_network import make_tiny_spec

from mnet_jax.architectures import NetworkSpec

# Here, as pytest asks for a profile before it imports the tests; see test_random_specs.py.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
settings.register_profile("thousands", max_examples=5000, deadline=None)

ROOT = Path(__file__).parents[1]
COMPILATION_CACHE = "JAX_COMPILATION_CACHE_DIR"
QUICK = "jax_disable_most_optimizations"


def pytest_addoption(parser):
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="cut and stop at every byte, write and step, not at some of them; run every case",
    )


def pytest_collection_modifyitems(config, items):
    """Puts files with slow tests first, and leaves out cases that --exhaustive asks for.

    If the slow ones came last, one worker would begin a long file when the others are done.
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


@pytest.fixture(scope="module")
def quickly_compiled(request):
    """Has a module's programs, and those of its processes, compiled fast rather than well.

    For tests of other things than XLA's code; with --exhaustive it is what it is in use.
    """
    import jax  # here: it is not imported before the environment is set

    if request.config.getoption("exhaustive"):
        yield
        return
    before = jax.config.read(QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(QUICK.upper(), "1")
        jax.config.update(QUICK, True)
        yield
    jax.config.update(QUICK, before)


def pytest_configure(config):
    """Sets the environment of the tests and of the processes that they start.

    What JAX compiles is kept for all of them and for later runs: most of the tests' time is XLA's,
    and their networks are few. JAX is not yet imported here. The commands of a clone are found from
    every directory.
    """
    if hasattr(config, "workerinput"):
        return
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    if COMPILATION_CACHE not in os.environ:
        os.environ[COMPILATION_CACHE] = str(kept_programs(config) or programs_of_this_run(config))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


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


@pytest.fixture
def hub_server(monkeypatch, tmp_path):
    """A hub of this test, with an empty cache."""
    from hub_server import serving  # here: few tests need it

    with serving(monkeypatch, tmp_path / "hf") as server:
        yield server
