"""What a training process is started with, and that nothing of it happens on import."""

import os
import subprocess
import sys
import warnings

import pytest

from mnet_jax import process
from mnet_jax.caches import cache_directory

CHILD = f"import os; print(os.environ.get('{process.TUNABLES}'))"
PARENT = f"""
import os, sys
from mnet_jax import process
print("started")
settings = process.settings(tune_allocator=True, given=os.environ)
process.restart([sys.executable, "-c", {CHILD!r}], settings)
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
    assert printed(f"import mnet_jax.models, mnet_jax.runs.run; {CHILD}") == ["None"]


def test_the_allocator_may_be_left_alone():
    assert process.TUNABLES not in process.settings(tune_allocator=False)


def test_what_xla_compiled_is_kept_where_caches_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wanted = str(cache_directory("xla"))
    assert process.settings(tune_allocator=True)[process.CACHE] == wanted


def test_variables_that_are_given_are_neither_set_nor_looked_into(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    given = {process.CACHE: "mine", process.TUNABLES: "mine"}
    with warnings.catch_warnings(action="error"):
        assert process.settings(tune_allocator=True, given=given) == {}


@pytest.mark.parametrize("place", ["/proc/none", "file"])
def test_where_nothing_can_be_kept_xla_keeps_nothing_which_is_said_once(
    place, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    with pytest.warns(UserWarning, match="cache: XLA's compiled programs are not kept") as message:
        found = [process.settings(tune_allocator=False) for _ in range(2)]
    assert found == [{process.CACHE: ""}] * 2 and len(message) == 1
