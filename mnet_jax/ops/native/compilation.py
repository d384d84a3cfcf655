"""Compiles and loads the kernels, once for a machine."""

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
# Not -ffast-math: sums keep their order, and NaN and infinity their meaning.
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-w")
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
    """The kernels cannot be had on this machine; one line that says why."""


def build() -> Path:
    """Compiles the kernels unless that is done already, and loads them into this process.

    They lie in `caches.cache_directory`, under a name that tells source, compiler and jaxlib apart.
    Damaged ones are compiled anew.

    Raises:
      NativeError: there is no C++ compiler, it failed, or there is no room for what it made.
    """
    try:
        path = library()
    except OSError as error:
        raise NativeError(_unusable(error)) from error
    complaint = failure(path)
    if complaint:
        raise NativeError(complaint)
    is_built.cache_clear()  # it may have been asked before
    return path


@cache
def is_built() -> bool:
    """Whether the kernels were compiled on this machine, by `build`; loads them if so.

    What was compiled and cannot be used is passed over, and said once.
    """
    try:
        path = library()
        if not caches.is_intact(path):
            return False
        _load(path)
    except NativeError:  # no compiler, so nothing that it has compiled
        return False
    except OSError as error:
        say_unavailable(_unusable(error))
        return False
    return True


@cache
def library() -> Path:
    """Where the compiled kernels lie, or will.

    Raises:
      NativeError: there is no compiler.
      OSError: there is no place, or the kernels' source cannot be read.
    """
    version = _output_of([*compiler(), "--version"])
    sources = [*(DIRECTORY / unit for unit in UNITS), *sorted(DIRECTORY.glob("*.h"))]
    parts = (*(file.read_text() for file in sources), *FLAGS, version, jaxlib.__version__)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return caches.cache_directory("native") / f"{digest}.so"


def compiler() -> list[str]:
    """The command that compiles C++: CXX, which may have words of its own, or what there is.

    Raises:
      NativeError: there is none.
    """
    asked = os.environ.get("CXX", "").strip()
    try:
        commands = [shlex.split(asked)] if asked else [[name] for name in COMPILERS]
    except ValueError:  # a quotation mark without its partner
        commands = []
    for name, *words in commands:
        path = shutil.which(name)
        if path:
            return [path, *words]
    legal = "a C++ compiler on the path, or named by CXX"
    raise NativeError(f"lowering: native found {asked or 'no compiler'}, legal: {legal}")


@cache
def failure(path: Path) -> str:
    """Has the kernels compiled and loaded, once in a process: why they are not, or ""."""
    try:
        compile_library(path)
        _load(path)
    except NativeError as error:
        return str(error)
    except OSError as error:
        return _unusable(error)
    return ""


def _unusable(error: OSError) -> str:
    return f"lowering: native cannot be had: {one_line(error)}"


def say_unavailable(complaint: str) -> None:
    """Warns that a process goes on without the kernels."""
    caches.say_once(f"{complaint}; everything is computed without it, more slowly")


def compile_library(path: Path) -> None:
    """Compiles the units side by side, unless that is done; of processes, the first one does it.

    Raises:
      NativeError: the compiler failed.
      OSError: the directory cannot be used.
    """
    if caches.is_intact(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without locks each compiles for itself
            stack.enter_context(locked(path.with_suffix(".lock")))
        if caches.is_intact(path):
            return
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent)))
        pool = stack.enter_context(ThreadPoolExecutor(len(UNITS)))
        objects = [*pool.map(partial(_compile_unit, work), UNITS)]
        made = work / path.name
        _output_of([*compiler(), "-shared", *objects, "-o", str(made)])
        caches.keep(made, path)


def _compile_unit(work: Path, unit: str) -> str:
    """The path of a unit's object file, which it makes."""
    made, include = str((work / unit).with_suffix(".o")), f"-I{jax.ffi.include_dir()}"
    _output_of([*compiler(), "-c", *FLAGS, include, str(DIRECTORY / unit), "-o", made])
    return made


def _output_of(command: list[str]) -> str:
    """What the compiler prints.

    Raises:
      NativeError: it failed or took too long; its first message.
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
    except OSError as error:  # no program, or one for another machine
        raise NativeError(f"lowering: {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        cause = one_line(lines[0])
        raise NativeError(f"lowering: {command[0]} could not compile the kernels: {cause}")
    return done.stdout


def _load(path: Path) -> None:
    """Makes the kernels known to XLA.

    Raises:
      OSError: the system does not load them, as from a file system mounted with `noexec`.
    """
    ctypes.cdll.LoadLibrary(str(path))
    _register()


@cache
def _register() -> None:
    """Of this process's library; XLA takes them once in a process."""
    handlers = ctypes.cdll.LoadLibrary(str(library()))
    for name in HANDLERS:
        jax.ffi.register_ffi_target(
            name, jax.ffi.pycapsule(getattr(handlers, name)), platform="cpu"
        )
