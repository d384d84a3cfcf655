"""Compiles and loads the kernels, once for a machine."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import jax
import jaxlib

from mnet_jax.files import cache_directory

SOURCE = Path(__file__).with_name("kernels.cc")  # and the headers beside it
COMPILERS = ("c++", "g++", "clang++")
# Not -ffast-math: sums keep their order, and NaN and infinity their meaning.
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-w")
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
      NativeError: there is no C++ compiler, or it failed.
    """
    library = _library()
    if not library.exists():
        _compile(library)
    _register()
    is_built.cache_clear()  # it may have been asked before
    return library


@cache
def is_built() -> bool:
    """Whether the kernels were compiled on this machine, by `build`; loads them if so."""
    try:
        library = _library()
        if library.exists():
            _register()
            return True
    except NativeError:
        pass
    return False


@cache
def _library() -> Path:
    """Where the compiled kernels lie, or will."""
    compiler = _compiler()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    sources = [SOURCE, *sorted(SOURCE.parent.glob("*.h"))]
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


def _compile(library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        made = Path(work) / library.name
        command = [
            _compiler(), *FLAGS, f"-I{jax.ffi.include_dir()}", str(SOURCE), "-o", str(made),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise NativeError(f"lowering: the compiler ran over {BUILD_SECONDS} seconds") from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
            raise NativeError(f"lowering: {command[0]} could not compile the kernels: {lines[0]}")
        os.replace(made, library)  # at once, as others may build too


@cache
def _register() -> None:
    """Makes the kernels known to XLA, which takes them once in a process."""
    handlers = ctypes.cdll.LoadLibrary(str(_library()))
    for name in HANDLERS:
        jax.ffi.register_ffi_target(
            name, jax.ffi.pycapsule(getattr(handlers, name)), platform="cpu"
        )
