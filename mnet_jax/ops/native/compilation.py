"""Compiles and loads the kernels, once for a machine."""

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import jax
import jaxlib

from mnet_jax.files import cache_directory, locked

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

    They lie in `files.cache_directory`, under a name that tells source, compiler and jaxlib apart.

    Raises:
      NativeError: there is no C++ compiler, it failed, or there is no room for what it made.
    """
    library = _library()
    try:
        complaint = "" if library.exists() else _complaint(library)
    except OSError as error:
        cause = f"{library.parent} cannot be used: {error.strerror}"
        raise NativeError(f"lowering: the kernels are not compiled, as {cause}") from error
    if complaint:
        raise NativeError(complaint)
    _register()
    is_built.cache_clear()  # it may have been asked before
    return library


@cache
def is_built() -> bool:
    """Whether the kernels were compiled on this machine, by `build`; loads them if so."""
    with contextlib.suppress(NativeError, OSError):
        if _library().exists():
            _register()
            return True
    return False


@cache
def _library() -> Path:
    """Where the compiled kernels lie, or will."""
    compiler = _compiler()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    sources = [*(DIRECTORY / unit for unit in UNITS), *sorted(DIRECTORY.glob("*.h"))]
    parts = (*(file.read_text() for file in sources), *FLAGS, version.stdout, jaxlib.__version__)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_directory("native") / f"{digest}.so"


def _compiler() -> str:
    asked = os.environ.get("CXX")
    for name in [asked] if asked else COMPILERS:
        path = shutil.which(name)
        if path:
            return path
    legal = "a C++ compiler on the path, or named by CXX"
    raise NativeError(f"lowering: native found {asked or 'no compiler'}, legal: {legal}")


@cache
def _complaint(library: Path) -> str:
    """Compiles the kernels: why they do not, or "". A process does not ask the compiler again."""
    try:
        _compile(library)
    except NativeError as error:
        return str(error)
    return ""


def _compile(library: Path) -> None:
    """Compiles the units side by side; processes that want the same wait for the first of them."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without locks each compiles for itself
            stack.enter_context(locked(library.with_suffix(".lock")))
        if library.exists():
            return
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=library.parent)))
        pool = stack.enter_context(ThreadPoolExecutor(len(UNITS)))
        objects = [*pool.map(partial(_compile_unit, work), UNITS)]
        made = work / library.name
        _call("-shared", *objects, "-o", str(made))
        os.replace(made, library)  # at once, as others may load it


def _compile_unit(work: Path, unit: str) -> str:
    """The path of a unit's object file, which it makes."""
    made = str((work / unit).with_suffix(".o"))
    _call("-c", *FLAGS, f"-I{jax.ffi.include_dir()}", str(DIRECTORY / unit), "-o", made)
    return made


def _call(*arguments: str) -> None:
    """Calls the compiler.

    Raises:
      NativeError: it failed or took too long; its first message.
    """
    command = [_compiler(), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NativeError(f"lowering: the compiler ran over {BUILD_SECONDS} seconds") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise NativeError(f"lowering: {command[0]} could not compile the kernels: {lines[0]}")


@cache
def _register() -> None:
    """Makes the kernels known to XLA, which takes them once in a process."""
    handlers = ctypes.cdll.LoadLibrary(str(_library()))
    for name in HANDLERS:
        jax.ffi.register_ffi_target(
            name, jax.ffi.pycapsule(getattr(handlers, name)), platform="cpu"
        )
