"""Chooses the fastest lowering of a depthwise convolution from a table of measurements.

The command

    python -m experiments.benchmark depthwise --write-table

measures the device that it runs on and writes such a table to `caches.cache_directory`. This table
takes precedence over the table that the package contains for the same kind of device. A table
applies only to the kind of device on which it was measured.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp

from mnet_jax import caches, serialization
from mnet_jax.ops.distribution import is_constant
from mnet_jax.ops.shifted import Geometry
from mnet_jax.ops.types import Direction, Measured
from mnet_jax.validation import one_line, require

PACKAGED = Path(__file__).with_name("lowerings")
WIDE = 16  # channels; the widest vectors of CPUs hold 16 floats
_DTYPES = (jnp.float32, jnp.bfloat16)
_PLATFORMS = {"gpu": ("cuda", "rocm")}  # a backend's names in `lax.platform_dependent`


@dataclass(frozen=True, kw_only=True)
class ShapeClass:
    """Convolutions of similar shapes, which are assumed to have the same fastest lowering.

    Attributes:
      kernel: side of the window.
      stride: step of the window.
      wide: whether there are at least 16 channels.
      magnitude: n, where 8^n <= b * h * w < 8^(n + 1) for an input [b, h, w, c].
    """

    kernel: int
    stride: int
    wide: bool
    magnitude: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The lowerings, ranked by their measured times for one `ShapeClass`.

    The times are those of the convolutions or those of the gradients; see `TableEntry`.

    Attributes:
      order: the lowerings, the preferred one first.
      ratios: time of each lowering over the time of `grouped`, as a geometric mean over the layers
        of the class that were timed.
    """

    order: tuple[Measured, ...]
    ratios: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TableEntry:
    """The measurements of one `ShapeClass`.

    Attributes:
      shapes: the class of convolutions.
      layers: number of layers of the class that were timed.
      forward: ranking for the convolution.
      backward: ranking for the convolution's two gradients, computed together.
    """

    shapes: ShapeClass
    layers: int
    forward: Ranking
    backward: Ranking


@dataclass(frozen=True, kw_only=True)
class Table:
    """The measured rankings of the lowerings on one device.

    Attributes:
      backend: JAX's name of the device's platform.
      device_kind: JAX's name of the device's model.
      command: the command line of the benchmark.
      environment: software versions, processor and settings.
      entries: one for each `ShapeClass`.
    """

    backend: str
    device_kind: str
    command: str
    environment: dict[str, str]
    entries: tuple[TableEntry, ...]


def class_of(shape: tuple[int, ...], kernel: int, stride: int) -> ShapeClass:
    """Returns the `ShapeClass` of a convolution with an input of shape [b, h, w, c]."""
    batch, height, width, channels = shape
    magnitude = (batch * height * width).bit_length() - 1
    return ShapeClass(kernel=kernel, stride=stride, wide=channels >= WIDE, magnitude=magnitude // 3)


def fastest(
    x: jax.Array, geometry: Geometry, backend: str, direction: Direction, *, native: bool
) -> Measured:
    """Returns the fastest available lowering of a convolution, or of its gradients, on a backend.

    If the convolution's `ShapeClass` was not measured, accelerators use `grouped`, and CPUs use the
    ranking of the nearest class. CPUs without any ranking use `native` if it is available, else
    `shifted`.

    Args:
      x: [b, h, w, c].
      geometry: rows and columns of the convolution.
      backend: JAX's name of the platform.
      direction: `forward` for the convolution, `backward` for its gradients.
      native: whether the native lowering is available.
    """
    on_cpu = backend == "cpu"
    order: tuple[Measured, ...] = ("native", "shifted") if on_cpu else ("grouped",)
    table, shapes = _table(backend), _class_of(x, geometry)
    if table and shapes:
        entries = {entry.shapes: entry for entry in table.entries}
        entry = entries.get(shapes)
        if entry is None and on_cpu and entries:
            entry = min(table.entries, key=lambda entry: _distance(entry.shapes, shapes))
        order = getattr(entry, direction).order if entry else order
    possible = (lowering for lowering in order if lowering != "native" or native)
    return next(possible, "shifted" if on_cpu else "grouped")


def native_is_fastest(x: jax.Array, geometry: Geometry) -> bool:
    """Whether `native` is the fastest lowering on a CPU for a convolution and for its gradients.

    The function assumes that `native` is available.
    """
    found = (fastest(x, geometry, "cpu", way, native=True) for way in get_args(Direction))
    return all(lowering == "native" for lowering in found)


def shifted_platforms(x: jax.Array, geometry: Geometry, direction: Direction) -> tuple[str, ...]:
    """Returns the platforms on which `shifted` is faster than `grouped`.

    `direction` selects the measured computation: `forward` is the convolution, `backward` its
    gradients. The candidates are the platform of this process and CPUs, since a function that is
    traced here may be lowered for CPUs too. Other platforms have no table and use `grouped`.
    """
    backends = dict.fromkeys((present_device()[0], "cpu"))
    shifted = [b for b in backends if fastest(x, geometry, b, direction, native=False) == "shifted"]
    return tuple(platform for b in shifted for platform in _PLATFORMS.get(b, (b,)))


def present_device() -> tuple[str, str]:
    """Returns the backend and the device kind of this process."""
    return jax.default_backend(), jax.local_devices()[0].device_kind


def path_in(directory: Path, device_kind: str) -> Path:
    """Returns the path, in `directory`, of the table for a kind of device."""
    return directory / f"{re.sub('[^a-z0-9]+', '-', device_kind.lower()).strip('-')}.json"


def users_directory() -> Path:
    """Returns the directory of the tables that were measured on this machine.

    Raises:
      OSError: there is no home directory.
    """
    return caches.cache_directory("lowerings")


@cache
def _table(backend: str) -> Table | None:
    """Returns the table measured on this machine for a backend, else the packaged one, else None.

    For an accelerator other than this process's, the function returns None.
    """
    present, device_kind = present_device()
    if backend != present:
        if backend != "cpu":
            return None
        device_kind = "cpu"
    users = _users_table(backend, device_kind)
    return users or _read(path_in(PACKAGED, device_kind), backend, device_kind)


def _users_table(backend: str, device_kind: str) -> Table | None:
    """Returns the table measured on this machine, or None.

    The function returns None if the table is missing or unreadable. For an unreadable table there
    is one warning.
    """
    try:
        path = path_in(users_directory(), device_kind)
    except OSError:  # no home directory, so no table
        return None
    try:
        return _read(path, backend, device_kind)
    except (OSError, ValueError) as error:
        caches.warn_once(f"lowerings: ignoring {path}: {one_line(error)}")
        return None


def _read(path: Path, backend: str, device_kind: str) -> Table | None:
    if not path.exists():
        return None
    table = serialization.from_json(Table, path.read_text())
    device = (table.backend, table.device_kind)
    require(device == (backend, device_kind), "device", device, f"{backend}, {device_kind}")
    return table


def _class_of(x: jax.Array, geometry: Geometry) -> ShapeClass | None:
    """Returns the `ShapeClass` of a convolution, or None if the benchmark never measures it.

    The benchmark does not measure convolutions whose rows and columns differ in kernel or stride,
    nor dilated ones, nor dtypes other than float32 and bfloat16, nor symbolic sizes.
    """
    rows, columns = geometry
    even = rows.kernel == columns.kernel and rows.stride == columns.stride
    if not even or rows.dilation > 1 or columns.dilation > 1 or x.dtype not in _DTYPES:
        return None
    if not is_constant(x.shape):
        return None
    return class_of(x.shape, rows.kernel, rows.stride)


def _distance(a: ShapeClass, b: ShapeClass) -> tuple[int, ...]:
    """Returns the distance between two classes as a tuple, the most important property first."""
    return (
        abs(a.stride - b.stride),
        abs(a.kernel - b.kernel),
        abs(a.wide - b.wide),
        abs(a.magnitude - b.magnitude),
    )
