"""Caches on disk: they save time, and no program fails for want of them.

The kernels are the cache whose damage would do most harm, as a library that is loaded is run.
"""

import os
import pwd
import resource
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import pytest
from depthwise_taps import needs_compiler
from messages import one_line

from mnet_jax import caches, ops
from mnet_jax.ops import native
from mnet_jax.ops.native import compilation


def put(path, content):
    """In the place of a file, which a process that has loaded it keeps."""
    beside = path.with_name("new")
    beside.write_bytes(content)
    os.replace(beside, path)


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


every_damage = pytest.mark.parametrize("damage", [cut, flipped, lambda content: b""])


def test_caches_lie_where_xdg_says_and_kinds_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = caches.cache_directory("one"), caches.cache_directory("other")
    assert one.parent == other.parent == tmp_path / "mnet_jax"
    assert one != other


@pytest.fixture
def homeless(monkeypatch):
    """As in a container that runs as a user whom its system does not know."""

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_home_there_is_no_place(homeless, monkeypatch):
    one_line(OSError, lambda: caches.cache_directory("one"), "HOME", "XDG_CACHE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "here")  # XDG: relative paths are invalid
    one_line(OSError, lambda: caches.cache_directory("one"), "HOME", "XDG_CACHE_HOME")


def test_a_directory_without_room_is_told_before_anything_is_kept(tmp_path):
    caches.require_room(tmp_path / "new" / "one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            caches.require_room(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@every_damage
def test_a_kept_file_is_known_and_a_damaged_one_is_not(tmp_path, damage):
    made, path = tmp_path / "made", tmp_path / "kept.so"
    made.write_bytes(bytes(range(256)))
    assert not caches.is_intact(path)
    caches.store_in_cache(made, path)
    with warnings.catch_warnings(action="error"):
        assert caches.is_intact(path) and not made.exists()
    put(path, damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="cache: .* is damaged") as expected:
        assert not any(caches.is_intact(path) for _ in range(2))
    (warning,) = expected
    assert str(path) in str(warning.message)


FORGET = (
    compilation.library.cache_clear,
    native.is_built.cache_clear,
    compilation.load_error.cache_clear,
    caches.warn_once.cache_clear,
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A place for the kernels in which there are none yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for forget in FORGET:
        forget()
    yield tmp_path
    for forget in FORGET:
        forget()


@pytest.fixture
def logging_compiler(elsewhere, monkeypatch):
    """Makes a shell's line the compiler; returns where the calls of it are written."""

    def use(line, command="{}"):
        calls, compiler = elsewhere / "calls", elsewhere / "compiler"
        compiler.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{line}\n')
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", command.format(compiler))
        return calls

    return use


@pytest.fixture(scope="module")
def compiled():
    """The kernels, compiled where this machine keeps them."""
    return native.build()


@pytest.fixture
def quick_compiler(compiled, logging_compiler):
    """A compiler that makes the kernels at once, of those that are compiled already."""
    copies = f'for last; do true; done; test "$last" = --version || cp {compiled} "$last"'
    return lambda command="{}": logging_compiler(copies, command)


def objects_in(calls):
    """What a compiler was to make."""
    return [line.rsplit("-o ")[1] for line in calls.read_text().splitlines() if "-o" in line]


@needs_compiler
def test_the_kernels_are_compiled_once_whoever_wants_them(elsewhere, quick_compiler):
    calls = quick_compiler()
    assert not native.is_built()
    library = compilation.library()
    with ThreadPoolExecutor() as pool:  # no lock tells threads from processes
        assert not any(pool.map(compilation.compile_library, [library, library]))
    assert library.is_relative_to(elsewhere)
    assert native.build() == library and native.is_built()
    made = objects_in(calls)
    assert len(made) == len(set(made)) == len(compilation.UNITS) + 1
    suffixes = {path.suffix for path in library.parent.iterdir()}
    assert suffixes == {".so", ".sha256", ".lock"}  # nothing else


@needs_compiler
@every_damage
def test_damaged_kernels_are_not_loaded_but_compiled_anew(elsewhere, quick_compiler, damage):
    calls = quick_compiler()
    library, whole = native.build(), compilation.library().read_bytes()
    before = len(objects_in(calls))
    put(library, damage(whole))
    for forget in FORGET:  # as a process that starts
        forget()
    with pytest.warns(UserWarning, match="is damaged and ignored") as expected:
        assert not native.is_built()
        assert ops.best_lowering() == "native"
    assert len(expected) == 1
    assert native.is_built() and library.read_bytes() == whole
    assert len(objects_in(calls)) == 2 * before


def test_a_compiler_that_fails_is_not_asked_again(logging_compiler):
    calls = logging_compiler('test "$1" = --version || { echo error: too old >&2; exit 1; }')
    for _ in range(2):
        one_line(ops.NativeError, native.build, "lowering: ", "too old")
    assert 0 < len(objects_in(calls)) <= len(compilation.UNITS)


@needs_compiler
def test_the_name_of_a_compiler_may_have_words_of_its_own(elsewhere, quick_compiler):
    calls = quick_compiler("env LANG=C {} -Wall")
    assert ops.best_lowering() == "native"
    lines = calls.read_text().splitlines()
    assert lines[0] == "-Wall --version" and all(line.startswith("-Wall ") for line in lines)


def refused_where_asked_for():
    """The message; everything else goes on without the kernels, and says so once."""
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2))
    message = one_line(
        ops.NativeError, lambda: ops.depthwise_conv(x, kernel, lowering="native"), "lowering: "
    )
    with pytest.warns(UserWarning) as expected:
        assert [ops.best_lowering() for _ in range(2)] == ["auto", "auto"]
        assert ops.depthwise_conv(x, kernel, lowering="auto")[0, 1, 1, 0] == 9
    (warning,) = expected
    assert str(warning.message).startswith(message) and "\n" not in str(warning.message)
    return message


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "g++ '", "/proc/self/status"])
def test_without_a_compiler_native_is_refused_and_auto_goes_on(elsewhere, compiler, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    assert compiler in refused_where_asked_for()


def test_a_compiler_for_another_machine_is_none(logging_compiler):
    logging_compiler("")
    compiler = os.environ["CXX"]
    with open(compiler, "wb") as file:
        file.write(b"\x7fELF of another machine")
    assert compiler in refused_where_asked_for()


@needs_compiler
def test_without_a_place_native_is_refused_and_auto_goes_on(elsewhere):
    (elsewhere / "mnet_jax").write_text("a file where a directory is to be")
    assert f"{elsewhere / 'mnet_jax'}" in refused_where_asked_for()


@needs_compiler
def test_without_a_home_native_is_refused_and_auto_goes_on(elsewhere, homeless):
    assert "XDG_CACHE_HOME" in refused_where_asked_for()


@needs_compiler
def test_kernels_that_the_system_does_not_load_are_passed_over(elsewhere, quick_compiler):
    quick_compiler()
    library = compilation.library()
    library.parent.mkdir(parents=True)
    made = library.with_name("made")
    made.write_text("as the system sees a file that it may not execute")
    caches.store_in_cache(made, library)
    assert str(library) in refused_where_asked_for()
