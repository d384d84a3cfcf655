"""Compiles and loads the native kernels, once for each machine."""

import contextlib
import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import jax
import jaxlib

from mnet_jax import caches
from mnet_jax.files import locked
from mnet_jax.validation import one_line

DIRECTORY = Path(__file__).parent
UNITS = ("depthwise.cc", "full.cc", "inverted.cc", "pointwise.cc")
COMPILERS = ("c++", "g++", "clang++")
# The tests treat these warnings as errors. Here they are only warnings, as other compilers may warn
# of more.
# -Wno-psabi: GCC's note on the ABI of vectors does not matter, as no other library gets a vector.
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-psabi")
# Not -ffast-math: sums keep their order, and NaN and infinity their meaning.
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", *WARNINGS)
HANDLERS = (
    "mnet_pointwise_forward",
    "mnet_pointwise_backward",
    "mnet_depthwise_forward",
    "mnet_depthwise_backward",
    "mnet_full_forward",
    "mnet_full_backward",
    "mnet_inverted_forward",
)
BUILD_SECONDS = 300


class NativeError(RuntimeError):
    """The native kernels cannot be compiled or loaded; the message is one line with the reason."""


def build() -> Path:
    """Compiles the kernels if they are not in the cache, and loads them into this process.

    The cache is in `caches.cache_directory`. A library's name there is a digest of the source, the
    flags and the versions of the compiler and of jaxlib. A damaged library is compiled again.

    Returns:
      The library's path.

    Raises:
      NativeError: there is no C++ compiler, it failed, or its output could not be stored.
    """
    try:
        path = library()
    except OSError as error:
        raise NativeError(_unusable(error)) from error
    complaint = load_error(path)
    if complaint:
        raise NativeError(complaint)
    is_built.cache_clear()  # it may have returned False before
    return path


@cache
def is_built() -> bool:
    """Loads the kernels if `build` has put them into the cache; returns whether they are loaded.

    If the cached library cannot be used, there is one warning.
    """
    try:
        path = library()
        if not caches.is_intact(path):
            return False
        _load(path)
    except NativeError:  # without a compiler nothing was compiled
        return False
    except OSError as error:
        say_unavailable(_unusable(error))
        return False
    return True


@cache
def library() -> Path:
    """Returns the path of the compiled kernels in the cache, whether or not they exist.

    Raises:
      NativeError: there is no compiler.
      OSError: there is no cache directory, or the kernels' source cannot be read.
    """
    version = _output_of([*compiler(), "--version"])
    sources = [*(DIRECTORY / unit for unit in UNITS), *sorted(DIRECTORY.glob("*.h"))]
    parts = (*(file.read_text() for file in sources), *FLAGS, version, jaxlib.__version__)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return caches.cache_directory("native") / f"{digest}.so"


def compiler() -> list[str]:
    """Returns the command of the C++ compiler: CXX with its arguments, or the first of `COMPILERS`.

    Raises:
      NativeError: no compiler is installed.
    """
    requested = os.environ.get("CXX", "").strip()
    try:
        commands = [shlex.split(requested)] if requested else [[name] for name in COMPILERS]
    except ValueError:  # an unmatched quotation mark
        commands = []
    for name, *words in commands:
        path = shutil.which(name)
        if path:
            return [path, *words]
    legal = "a C++ compiler on the path, or named by CXX"
    raise NativeError(f"lowering: native found {requested or 'no compiler'}, legal: {legal}")


@cache
def load_error(path: Path) -> str:
    """Compiles and loads the kernels at the first call in a process; returns the error, if any.

    Returns:
      The error in one line, or "" if the kernels are loaded.
    """
    try:
        compile_library(path)
        _load(path)
    except NativeError as error:
        return str(error)
    except OSError as error:
        return _unusable(error)
    return ""


def _unusable(error: OSError) -> str:
    return f"lowering: native is not available: {one_line(error)}"


def say_unavailable(complaint: str) -> None:
    """Warns once that this process continues without the kernels, and why."""
    caches.warn_once(f"{complaint}; continuing without it, more slowly")


def compile_library(path: Path) -> None:
    """Compiles the kernels, all files of `UNITS` in parallel, unless the library exists already.

    If several processes call this function, the first one compiles and the others wait.

    Args:
      path: path of the library.

    Raises:
      NativeError: the compiler failed.
      OSError: the directory cannot be read or written.
    """
    if caches.is_intact(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without locks each process compiles for itself
            stack.enter_context(locked(path.with_suffix(".lock")))
        if caches.is_intact(path):
            return
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent)))
        pool = stack.enter_context(ThreadPoolExecutor(len(UNITS)))
        objects = [*pool.map(partial(_compile_unit, work), UNITS)]
        linked = work / path.name
        _output_of([*compiler(), "-shared", *objects, "-o", str(linked)])
        caches.store_in_cache(linked, path)


def _compile_unit(work: Path, unit: str) -> str:
    """Compiles one file of `UNITS`; returns the path of its object file."""
    target = str((work / unit).with_suffix(".o"))
    _output_of([*compiler(), "-c", *FLAGS, *includes(), str(DIRECTORY / unit), "-o", target])
    return target


def includes() -> tuple[str, str]:
    """Returns the compiler arguments that find XLA's headers and suppress warnings in them."""
    return "-isystem", jax.ffi.include_dir()


def _output_of(command: list[str]) -> str:
    """Runs a compiler and returns its standard output.

    Raises:
      NativeError: the compiler failed (the message has its first error) or took too long.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NativeError(f"lowering: the compiler ran over {BUILD_SECONDS} seconds") from error
    except OSError as error:  # no executable, or one for another machine
        raise NativeError(f"lowering: {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        errors = (line for line in done.stderr.splitlines() if _is_error(line))
        cause = one_line(next(errors, "no message"))
        raise NativeError(f"lowering: {command[0]} could not compile the kernels: {cause}")
    return done.stdout


def _is_error(line: str) -> bool:
    """Whether a line of the compiler's output is an error, not a warning that contains "error"."""
    return "error" in line and "warning:" not in line


def _load(path: Path) -> None:
    """Loads a library of the kernels and registers them with XLA.

    Raises:
      OSError: the system refuses to load the library, for example from a `noexec` file system.
    """
    ctypes.cdll.LoadLibrary(str(path))
    _register()


@cache
def _register() -> None:
    """Registers the C++ functions `HANDLERS` with XLA, once: XLA refuses a second registration."""
    handlers = ctypes.cdll.LoadLibrary(str(library()))
    for name in HANDLERS:
        capsule = jax.ffi.pycapsule(getattr(handlers, name))
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")
