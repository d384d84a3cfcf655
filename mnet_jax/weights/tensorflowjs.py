"""The layers models of TensorFlow.js: a `model.json`, and shards of weights in files beside it.

The JSON lists the weights in groups. A group's shards, one after the other, are its weights in
order, little-endian. The converter of TensorFlow.js can store floating-point weights as float16, or
as whole numbers q of 8 or 16 bits that stand for q scale + min. The format is described in
TensorFlow.js's `tfjs-core/src/io/types.ts`. Only the weights are read, not the topology.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnet_jax.validation import is_number, is_whole, one_line
from mnet_jax.weights.arrays import LazyArray, Limit, WeightsError, require_few

MOST_JSON_BYTES = 2**24  # the topology of Keras' largest MobileNet takes 250,000
TYPES = {"float32": "<f4", "int32": "<i4", "bool": "|b1"}
QUANTIZED = {"uint8": "|u1", "uint16": "<u2"}  # legal for float32
HALF = "float16"


class Weight(NamedTuple):
    """An entry of the manifest.

    Attributes:
      name: such as `Conv1/kernel`.
      shape: of the array.
      stored: NumPy's name of the type in the shards.
      scale: of quantized weights; 1 for others.
      least: the number for which a quantized 0 stands; 0 for others.
    """

    name: str
    shape: tuple[int, ...]
    stored: str
    scale: float
    least: float

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in the shards."""
        return self.elements * np.dtype(self.stored).itemsize


def layers_model(path: Path, limit: Limit) -> dict[str, LazyArray]:
    """Returns the arrays of a layers model by name.

    Args:
      path: path of the `model.json`.
      limit: largest size of all arrays together.

    Raises:
      WeightsError: the file is not the JSON of a layers model, a shard is missing or has another
        size than the manifest says, or the limit is exceeded.
    """
    found: dict[str, LazyArray] = {}
    for paths, weights in _groups(path):
        require_few([*found, *weights], limit)
        names = [weight.name for weight in weights]
        if twice := {*names} & {*found} or {name for name in names if names.count(name) > 1}:
            raise WeightsError(f"holds {one_line(min(twice))} twice")
        size = sum(weight.bytes for weight in weights)
        if size > limit.bytes:
            raise WeightsError(f"declares {size} bytes, legal: {limit.bytes} or fewer")
        content = _content([_shard(path.parent, name) for name in paths], size)
        start = 0
        for weight in weights:
            part = content[start : start + weight.bytes]
            found[weight.name] = LazyArray(weight.elements, partial(_array, weight, part))
            start += weight.bytes
    return found


def _groups(path: Path) -> Iterator[tuple[list[str], list[Weight]]]:
    """Yields the names of the shards, and the weights, of each group of the manifest."""
    size = path.stat().st_size
    if size > MOST_JSON_BYTES:
        raise WeightsError(f"got {size} bytes of JSON, legal: {MOST_JSON_BYTES} or fewer")
    model = json.loads(path.read_bytes())
    kind = model.get("format", "layers-model") if isinstance(model, Mapping) else None
    if kind != "layers-model":
        raise WeightsError(f"got format {one_line(repr(kind))}, legal: layers-model")
    manifest = model.get("weightsManifest")
    if not _is_list(manifest, Mapping):
        raise WeightsError("has no list weightsManifest, legal: a layers model of TensorFlow.js")
    for group in manifest:
        paths, weights = group.get("paths"), group.get("weights")
        if not (_is_list(paths, str) and _is_list(weights, Mapping)):
            raise WeightsError("has a group in weightsManifest without lists paths and weights")
        yield paths, [_weight(entry) for entry in weights]


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)


def _weight(entry: Mapping[str, Any]) -> Weight:
    """Returns an entry of the manifest, checked."""
    name, shape, kind = entry.get("name"), entry.get("shape"), entry.get("dtype")
    if not isinstance(name, str):
        raise WeightsError(f"has a weight called {one_line(repr(name))}, legal: a text")
    where = one_line(name)
    if not (isinstance(shape, list) and all(is_whole(n) and n >= 0 for n in shape)):
        raise WeightsError(f"{where}: got shape {one_line(repr(shape))}, legal: whole numbers")
    if kind not in TYPES:
        raise WeightsError(f"{where}: got {one_line(repr(kind))}, legal: {', '.join(TYPES)}")
    stored, scale, least = TYPES[kind], 1.0, 0.0
    quantization = entry.get("quantization")
    if quantization is not None:
        stored, scale, least = _quantization(where, kind, quantization)
    return Weight(name, tuple(shape), stored, scale, least)


def _quantization(where: str, kind: str, quantization: Any) -> tuple[str, float, float]:
    """Returns the type in the shards, the scale and the least number of a quantized weight."""
    given = quantization.get("dtype") if isinstance(quantization, Mapping) else quantization
    if kind != "float32" or given not in (HALF, *QUANTIZED):
        legal = f"{', '.join((HALF, *QUANTIZED))} for float32"
        raise WeightsError(f"{where}: got quantization {one_line(repr(given))}, legal: {legal}")
    if given == HALF:
        return "<f2", 1.0, 0.0
    scale, least = quantization.get("scale"), quantization.get("min")
    if not (is_number(scale) and is_number(least)):
        raise WeightsError(f"{where}: got no scale and min of its quantization, legal: numbers")
    return QUANTIZED[given], scale, least


def _shard(directory: Path, name: str) -> Path:
    """Returns the path of a shard, which must be beside the JSON."""
    if name in ("", ".", "..") or any(sign in name for sign in ("/", "\\", ":", "\0")):
        legal = "names of files beside model.json"
        raise WeightsError(f"got a shard called {one_line(repr(name))}, legal: {legal}")
    path = directory / name
    if not path.is_file():
        raise WeightsError(f"its shard {one_line(name)} is missing")
    return path


def _content(shards: Sequence[Path], size: int) -> memoryview:
    """Returns the content of shards, one after the other, which must have `size` bytes."""
    found = sum(shard.stat().st_size for shard in shards)
    if found != size:
        names = ", ".join(one_line(shard.name) for shard in shards)
        raise WeightsError(f"its shards have {found} bytes ({names}), legal: {size}")
    return memoryview(b"".join(shard.read_bytes() for shard in shards))


def _array(weight: Weight, content: memoryview) -> np.ndarray:
    """Returns the array of a weight from its bytes."""
    values = np.frombuffer(content, weight.stored).reshape(weight.shape)
    if weight.stored not in QUANTIZED.values():
        return values
    return (values * np.float64(weight.scale) + weight.least).astype(np.float32)
