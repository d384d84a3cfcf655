"""The HDF5 files that Keras writes, read without Keras and without executing anything in them.

Keras 3's `.weights.h5`, which is also a member of `.keras` files, has a group for each layer under
`layers`. A subgroup `vars` has the layer's name as an attribute and contains numbered arrays.

In the older whole-model `.h5`, the format of Keras' released weights, groups have an attribute
`weight_names` that lists their arrays. Such a group is a layer, or a nested model whose arrays are
named after their own layers.
"""

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO, TypeVar

import numpy as np

from mnet_jax.validation import one_line
from mnet_jax.weights.arrays import LazyArray, Limit, WeightsError, require_few

PLAIN = ("kernel", "bias")
NORMALIZATION = ("gamma", "beta", "moving_mean", "moving_variance")
MOST_NAME_BYTES = 1000
OBJECTS_PER_ARRAY = 16  # with optimizer state, and groups of layers without arrays

T = TypeVar("T")


def named_arrays(layer: str, arrays: list[T]) -> dict[str, T]:
    """Returns a layer's arrays, given in Keras' order, as a dict with keys such as `Conv1/kernel`.

    Four arrays belong to a normalization, one or two to a convolution or dense layer. The arrays of
    any other layer are numbered, so that their names match no array that a converter expects.
    """
    known: tuple[str, ...] = NORMALIZATION if len(arrays) == len(NORMALIZATION) else PLAIN
    names = known if len(arrays) <= len(known) else tuple(map(str, range(len(arrays))))
    return {f"{layer}/{name}": array for name, array in zip(names, arrays, strict=False)}


@contextlib.contextmanager
def open_hdf5(source: str | BinaryIO, limit: Limit) -> Iterator[dict[str, LazyArray]]:
    """Yields the arrays of all layers in a Keras file; read them before the context manager exits.

    Args:
      source: path, or an open file.
      limit: largest number of arrays.

    Raises:
      WeightsError: h5py is not installed; the file contains links, no Keras layers or too many
        arrays; or two layers have the same name.
    """
    try:
        import h5py
    except ImportError as error:
        raise WeightsError("needs h5py, legal: pip install mnet_jax[keras]") from error
    found: dict[str, LazyArray] = {}
    with h5py.File(source, "r") as file:
        root = file["model_weights"] if _is_hard(h5py, file, "model_weights") else file
        released = "layer_names" in root.attrs
        layers = _released_layers if released else _numbered_layers
        for layer, datasets in layers(h5py, root, limit):
            stored = {name: _stored(dataset) for name, dataset in datasets.items()}
            if stored.keys() & found.keys():
                raise WeightsError(f"two layers are called {one_line(layer)}")
            found |= stored
            require_few(found, limit)
        if not found:
            raise WeightsError("holds no layers as Keras 3.10 or later names them")
        yield found


def _is_hard(h5py: Any, group: Any, name: str) -> bool:
    """Returns whether a group contains `name`; raises WeightsError for a soft or external link."""
    link = group.get(name, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        raise WeightsError(f"{one_line(name)}: got a {type(link).__name__}, legal: data")
    return link is not None


def _groups(h5py: Any, root: Any, limit: Limit) -> Iterator[tuple[str, Any]]:
    """Yields the path and the group for `root` and every group below it.

    Raises:
      WeightsError: there is a link, a group is reached twice, or there are too many objects.
    """
    todo = [("", root)]
    seen: set[int] = set()
    objects, most = 0, limit.arrays * OBJECTS_PER_ARRAY
    while todo:
        path, group = todo.pop()
        address = h5py.h5o.get_info(group.id).addr
        objects += len(group)
        if address in seen or objects > most:
            raise WeightsError(f"is no tree of groups, or one of more than {most} objects")
        seen.add(address)
        yield path, group
        for name in reversed(group):
            if _is_hard(h5py, group, name) and isinstance(group[name], h5py.Group):
                todo.append((f"{path}/{name}" if path else name, group[name]))


def _numbered_layers(h5py: Any, root: Any, limit: Limit) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the layers of a `.weights.h5`; optimizer state, outside `layers`, is not read."""
    if not _is_hard(h5py, root, "layers"):
        return
    for path, group in _groups(h5py, root["layers"], limit):
        if path.rpartition("/")[2] == "vars" and "name" in group.attrs:
            numbers = sorted((name for name in group if name.isdecimal()), key=int)
            layer = _text(group.attrs["name"])
            yield layer, named_arrays(layer, [_dataset(h5py, group, n) for n in numbers])


def _released_layers(h5py: Any, root: Any, limit: Limit) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the layers of an older `.h5`, in which the group of each layer lists its arrays.

    A layer's arrays may be listed under other names than the layer's (`dense_2/dense/kernel:0`), so
    the arrays are named by their order. A nested model's arrays have their layers' names
    (`Conv1/kernel:0`).
    """
    for path, group in _groups(h5py, root, limit):
        if not path or "weight_names" not in group.attrs:
            continue
        names = _weight_names(group, limit)
        datasets = [_dataset(h5py, group, name) for name in names]
        if len({name.rpartition("/")[0] for name in names}) > 1:
            if len(set(names)) < len(names):
                raise WeightsError(f"{one_line(path)}: lists an array twice")
            named = [name.removesuffix(":0") for name in names]  # TensorFlow's index of an output
            yield path, dict(zip(named, datasets, strict=True))
        else:
            yield path, named_arrays(path, datasets)


def _weight_names(group: Any, limit: Limit) -> list[str]:
    declared = group.attrs.get_id("weight_names")
    count, length = math.prod(declared.shape), declared.dtype.itemsize
    if count > limit.arrays or length > MOST_NAME_BYTES:
        given = f"{count} of {length} bytes"
        legal = f"{limit.arrays} of {MOST_NAME_BYTES} bytes or fewer"
        raise WeightsError(f"weight_names: got {given}, legal: {legal}")
    return [_text(name) for name in group.attrs["weight_names"]]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _dataset(h5py: Any, group: Any, path: str) -> Any:
    """Returns the dataset at a path below a group; WeightsError if a link is on the path."""
    for part in path.split("/"):
        if not isinstance(group, h5py.Group) or not part or not _is_hard(h5py, group, part):
            raise WeightsError(f"{one_line(path)}: named in the file, but not there")
        group = group[part]
    if not isinstance(group, h5py.Dataset):
        raise WeightsError(f"{one_line(path)}: got a group, legal: an array")
    return group


def _stored(dataset: Any) -> LazyArray:
    """Returns a dataset as a `LazyArray`, whose elements are read later.

    Raises:
      WeightsError: the data are in another file, or are not numbers.
    """
    name, dtype = dataset.name, dataset.dtype
    if dataset.external or dataset.is_virtual:
        raise WeightsError(f"{one_line(name)}: its data are in another file")
    bfloat16 = _text(dataset.attrs.get("dtype", "")) == "bfloat16" and dtype == "V2"
    if dtype.kind not in "fiub" and not bfloat16:
        raise WeightsError(f"{one_line(name)}: got type {one_line(dtype)}, legal: numbers")
    chunk = math.prod(dataset.chunks or ())  # at least one chunk is unpacked as a whole
    return LazyArray(max(math.prod(dataset.shape), chunk), partial(_array, dataset))


def _array(dataset: Any) -> np.ndarray:
    array = dataset[()]
    if _text(dataset.attrs.get("dtype", "")) == "bfloat16":  # not an HDF5 type: two opaque bytes
        import ml_dtypes

        array = np.asarray(array).view(ml_dtypes.bfloat16)
    return np.asarray(array)
