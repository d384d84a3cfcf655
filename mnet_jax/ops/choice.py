"""Which lowering of a depthwise convolution is fastest, as a benchmark measured it.

    python -m experiments.benchmark depthwise --write-table

makes a table for the device that it runs on. It lies in `caches.cache_directory` and goes before
the one for that kind of device that comes with this package, if one does. A table speaks of no
other kind of device.
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
WIDE = 16  # channels: a vector of the widest that CPUs have
_DTYPES = (jnp.float32, jnp.bfloat16)
_PLATFORMS = {"gpu": ("cuda", "rocm")}  # the names of a backend when computations are lowered


@dataclass(frozen=True, kw_only=True)
class ShapeClass:
    """Convolutions that are taken to have one fastest lowering.

    Attributes:
      kernel: side of the window.
      stride: step of the window.
      wide: whether there are at least 16 channels.
      magnitude: n for 8^n to 8^(n + 1) positions of the input, over all images.
    """

    kernel: int
    stride: int
    wide: bool
    magnitude: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The lowerings of a class in one direction.

    Attributes:
      order: the one to take first.
      ratios: the time of each over that of grouped: the geometric mean over the class.
    """

    order: tuple[Measured, ...]
    ratios: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of a class.

    Attributes:
      shapes: the class.
      layers: how many of it were timed.
      forward: the lowerings of the convolution.
      backward: those of both of its gradients.
    """

    shapes: ShapeClass
    layers: int
    forward: Ranking
    backward: Ranking


@dataclass(frozen=True, kw_only=True)
class Table:
    """What was measured on a device.

    Attributes:
      backend: JAX's name of its platform.
      device_kind: JAX's name of its model.
      command: what measured it.
      environment: software, processor, and what was set.
      entries: one a class.
    """

    backend: str
    device_kind: str
    command: str
    environment: dict[str, str]
    entries: tuple[Entry, ...]


def class_of(shape: tuple[int, ...], kernel: int, stride: int) -> ShapeClass:
    """The class of a convolution of images [b, h, w, c]."""
    batch, height, width, channels = shape
    magnitude = (batch * height * width).bit_length() - 1
    return ShapeClass(kernel=kernel, stride=stride, wide=channels >= WIDE, magnitude=magnitude // 3)


def fastest(
    x: jax.Array, geometry: Geometry, backend: str, direction: Direction, *, native: bool
) -> Measured:
    """The lowering for a convolution on a backend, in one direction.

    Where nothing is known, accelerators have the grouped one. CPUs have that of the nearest class,
    or without one the shifted one, and the native one before it.

    Args:
      x: [b, h, w, c].
      geometry: of its rows and columns.
      backend: JAX's name of the platform.
      direction: whether it is the convolution or its gradients.
      native: whether the native one can be had.
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
    """Whether the native lowering is on a CPU, where it can be had, in both directions."""
    found = (fastest(x, geometry, "cpu", way, native=True) for way in get_args(Direction))
    return all(lowering == "native" for lowering in found)


def shifted_platforms(x: jax.Array, geometry: Geometry, direction: Direction) -> tuple[str, ...]:
    """The platforms where the shifted lowering is faster than the grouped one in a direction.

    What is traced here may be lowered for others than the present one: CPUs, and accelerators of a
    kind that nothing is known of.
    """
    backends = dict.fromkeys((present_device()[0], "cpu"))
    shifted = [b for b in backends if fastest(x, geometry, b, direction, native=False) == "shifted"]
    return tuple(platform for b in shifted for platform in _PLATFORMS.get(b, (b,)))


def present_device() -> tuple[str, str]:
    """The backend and the kind of the device of this process."""
    return jax.default_backend(), jax.local_devices()[0].device_kind


def path_in(directory: Path, device_kind: str) -> Path:
    """Where a directory has the table of a kind of device."""
    return directory / f"{re.sub('[^a-z0-9]+', '-', device_kind.lower()).strip('-')}.json"


def users_directory() -> Path:
    """Where the tables lie that were made on this machine.

    Raises:
      OSError: nowhere, as there is no home.
    """
    return caches.cache_directory("lowerings")


@cache
def _table(backend: str) -> Table | None:
    """The user's, or else the packaged one; None if there is neither.

    Of accelerators only the one at hand is known.
    """
    present, device_kind = present_device()
    if backend != present:
        if backend != "cpu":
            return None
        device_kind = "cpu"
    users = _users_table(backend, device_kind)
    return users or _read(path_in(PACKAGED, device_kind), backend, device_kind)


def _users_table(backend: str, device_kind: str) -> Table | None:
    """None if there is none, or one that cannot be read, which is said once."""
    try:
        path = path_in(users_directory(), device_kind)
    except OSError:  # without a home nobody has kept one
        return None
    try:
        return _read(path, backend, device_kind)
    except (OSError, ValueError) as error:
        caches.say_once(f"lowerings: passing over {path}: {one_line(error)}")
        return None


def _read(path: Path, backend: str, device_kind: str) -> Table | None:
    if not path.exists():
        return None
    table = serialization.from_json(Table, path.read_text())
    device = (table.backend, table.device_kind)
    require(device == (backend, device_kind), "device", device, f"{backend}, {device_kind}")
    return table


def _class_of(x: jax.Array, geometry: Geometry) -> ShapeClass | None:
    """None for what is not measured: uneven or dilated windows, other types, unknown sizes."""
    rows, columns = geometry
    even = rows.kernel == columns.kernel and rows.stride == columns.stride
    if not even or rows.dilation > 1 or columns.dilation > 1 or x.dtype not in _DTYPES:
        return None
    if not is_constant(x.shape):
        return None
    return class_of(x.shape, rows.kernel, rows.stride)


def _distance(a: ShapeClass, b: ShapeClass) -> tuple[int, ...]:
    """What matters most comes first."""
    return (
        abs(a.stride - b.stride),
        abs(a.kernel - b.kernel),
        abs(a.wide - b.wide),
        abs(a.magnitude - b.magnitude),
    )
