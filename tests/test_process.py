"""What a training process is started with, and that nothing of it happens on import."""

import os
import subprocess
import sys

import pytest

from mnet_jax import process
from mnet_jax.files import cache_directory

CHILD = f"import os; print(os.environ.get('{process.TUNABLES}'))"
PARENT = f"""
import sys
from mnet_jax import process
print("started")
process.restart([sys.executable, "-c", {CHILD!r}], process.settings(tune_allocator=True))
print("went on")
"""


def printed(program, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in process.settings(
        tune_allocator=True
    )}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings are Linux's")
def test_a_process_starts_anew_with_the_settings_that_it_lacks():
    assert printed(PARENT) == ["started", process.ALLOCATOR[process.TUNABLES]]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings are Linux's")
def test_what_the_user_has_set_stays():
    assert printed(PARENT, **{process.TUNABLES: "x"}) == ["started", "x"]


def test_a_process_that_has_all_goes_on():
    settings = process.settings(tune_allocator=True)
    assert printed(PARENT, **settings) == ["started", "went on"]


def test_importing_changes_nothing():
    assert printed(f"import mnet_jax.models, mnet_jax.run; {CHILD}") == ["None"]


def test_the_allocator_may_be_left_alone():
    assert process.TUNABLES not in process.settings(tune_allocator=False)


def test_caches_lie_where_xdg_says_and_kinds_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = cache_directory("one"), cache_directory("other")
    assert one.parent == other.parent == tmp_path / "mnet_jax"
    assert one != other
    assert process.settings(tune_allocator=True)["JAX_COMPILATION_CACHE_DIR"] == str(
        cache_directory("xla")
    )
