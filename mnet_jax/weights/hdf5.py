"""The HDF5 files that Keras writes, read without Keras and without running anything in them.

Keras 3's `.weights.h5` (which is also a member of `.keras`) has a group per layer under `layers`,
whose `vars` bear the layer's name and hold numbered arrays. The older whole-model `.h5`, in which
Keras' released weights come, has groups whose attribute `weight_names` lists the arrays.
"""

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from mnet_jax.validation import one_line
from mnet_jax.weights.arrays import MOST_BYTES
from mnet_jax.weights.errors import WeightsError

PLAIN = ("kernel", "bias")
NORMALIZATION = ("gamma", "beta", "moving_mean", "moving_variance")
MOST_OBJECTS = 100_000


def named_arrays(layer: str, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    """A layer's arrays, in Keras' order, under names such as `Conv1/kernel`.

    Four are a normalization's, one or two a convolution's or dense layer's; the arrays of any other
    layer are numbered, and so will fit nothing.
    """
    known: tuple[str, ...] = NORMALIZATION if len(arrays) == len(NORMALIZATION) else PLAIN
    names = known if len(arrays) <= len(known) else tuple(map(str, range(len(arrays))))
    return {f"{layer}/{name}": array for name, array in zip(names, arrays, strict=False)}


def read_hdf5(source: str | BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of every layer in a file that Keras wrote.

    Args:
      source: path, or an open file.

    Raises:
      WeightsError: h5py is not installed, the file links elsewhere or holds no Keras layers, or
        two layers have one name.
    """
    try:
        import h5py
    except ImportError as error:
        raise WeightsError("needs h5py, legal: pip install mnet_jax[keras]") from error
    found: dict[str, np.ndarray] = {}
    with h5py.File(source, "r") as file:
        root = file["model_weights"] if _is_hard(h5py, file, "model_weights") else file
        if "layer_names" in root.attrs:
            layers = _released_layers(h5py, root)
        else:
            layers = _numbered_layers(h5py, root)
        budget = MOST_BYTES
        for layer, datasets in layers:
            budget -= sum(_checked_bytes(dataset) for dataset in datasets)
            if budget < 0:
                raise WeightsError(f"declares more than the legal {MOST_BYTES} bytes")
            named = named_arrays(layer, [_array(dataset) for dataset in datasets])
            if named.keys() & found.keys():
                raise WeightsError(f"two layers are called {one_line(layer)}")
            found |= named
    if not found:
        raise WeightsError("holds no layers as Keras 3.10 or later names them")
    return found


def _is_hard(h5py: Any, group: Any, name: str) -> bool:
    """Whether `name` is there; WeightsError where it is a link, to this or another file."""
    link = group.get(name, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        raise WeightsError(f"{one_line(name)}: got a {type(link).__name__}, legal: data")
    return link is not None


def _groups(h5py: Any, root: Any) -> Iterator[tuple[str, Any]]:
    """Path and object of every group below `root`, each once; links are refused."""
    todo = [("", root)]
    seen: set[int] = set()
    while todo:
        path, group = todo.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or len(seen) > MOST_OBJECTS:
            raise WeightsError("is no tree of groups, or too large a one")
        seen.add(address)
        yield path, group
        for name in reversed(group):
            if _is_hard(h5py, group, name) and isinstance(group[name], h5py.Group):
                todo.append((f"{path}/{name}" if path else name, group[name]))


def _numbered_layers(h5py: Any, root: Any) -> Iterator[tuple[str, list[Any]]]:
    """The layers of a `.weights.h5`; the state of an optimizer stands beside `layers`."""
    if not _is_hard(h5py, root, "layers"):
        return
    for path, group in _groups(h5py, root["layers"]):
        if path.rpartition("/")[2] == "vars" and "name" in group.attrs:
            numbers = sorted((name for name in group if name.isdecimal()), key=int)
            yield str(group.attrs["name"]), [_dataset(h5py, group, n) for n in numbers]


def _released_layers(h5py: Any, root: Any) -> Iterator[tuple[str, list[Any]]]:
    """The layers of an older `.h5`."""
    for path, group in _groups(h5py, root):
        if path and "weight_names" in group.attrs:
            names = [_text(name) for name in group.attrs["weight_names"]]
            yield path, [_dataset(h5py, group, name) for name in names]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _dataset(h5py: Any, group: Any, path: str) -> Any:
    """The dataset at a path below a group, reached through no link."""
    for part in path.split("/"):
        if not isinstance(group, h5py.Group) or not part or not _is_hard(h5py, group, part):
            raise WeightsError(f"{one_line(path)}: named in the file, but not there")
        group = group[part]
    if not isinstance(group, h5py.Dataset):
        raise WeightsError(f"{one_line(path)}: got a group, legal: an array")
    return group


def _checked_bytes(dataset: Any) -> int:
    """Bytes that reading a dataset takes; WeightsError where its data are in another file."""
    if dataset.external or dataset.is_virtual:
        raise WeightsError(f"{one_line(dataset.name)}: its data are in another file")
    if dataset.dtype.kind not in "fiubV":
        kind = one_line(dataset.dtype)
        raise WeightsError(f"{one_line(dataset.name)}: got type {kind}, legal: numbers")
    return math.prod(dataset.shape) * max(4, dataset.dtype.itemsize)


def _array(dataset: Any) -> np.ndarray:
    array = dataset[()]
    if _text(dataset.attrs.get("dtype", "")) == "bfloat16":  # which HDF5 has not: two opaque bytes
        import ml_dtypes

        array = np.asarray(array).view(ml_dtypes.bfloat16)
    return np.asarray(array)
