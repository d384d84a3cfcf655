"""Weight files of other libraries as NumPy arrays. Nothing in a file is ever executed."""

import argparse
import contextlib
import io
import math
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from mnet_jax.architectures import variable_shapes
from mnet_jax.models import MobileNet
from mnet_jax.validation import one_line
from mnet_jax.weights.arrays import LARGEST, LazyArray, Limit, WeightsError, as_arrays, require_few
from mnet_jax.weights.frozen_graph import floating_constants
from mnet_jax.weights.hdf5 import open_hdf5
from mnet_jax.weights.tensorflowjs import layers_model

KERAS_MEMBER = "model.weights.h5"  # in a .keras file, which is a zip archive
MOST_FILE_BYTES = 2**31  # with optimizer state, averaged weights and metadata
ZIP_ENTRY = b"PK\x01\x02"  # first bytes of a member's entry in the directory of an archive
MEMBERS_PER_ARRAY = 8  # in an archive, with optimizer state and averaged weights
CHUNK = 2**20
PICKLES = 5  # number of pickles in a file of PyTorch before 1.6
MOST_OPCODES = 500_000  # V4's largest network with AdamW state and averaged weights takes 100,000


def read(path: str | os.PathLike, model: MobileNet | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of a weight file, whose suffix determines the format.

    The formats are `.safetensors`; `.npz`; `.pth`, `.pt` and `.pth.tar`, by PyTorch's
    `weights_only` loader, if PyTorch is installed; `.keras`, `.weights.h5` and `.h5` as Keras
    writes them, whose arrays get names such as `Conv1/kernel`; `.json`, a layers model of
    TensorFlow.js with its shards beside it, whose arrays have the same names; and `.pb`, a frozen
    TensorFlow graph, of which the floating-point constants are read. Floating-point numbers of any
    precision become float32.

    The wrapping that training scripts add is removed. A state dict may be stored under `state_dict`
    or `model`. Averaged weights, under `state_dict_ema` or `model_ema`, are preferred, as in
    `timm.models.load_state_dict`. The prefixes `module.` and `_orig_mod.` are removed from names.
    Besides PyTorch's own classes, a file may contain only one class, `argparse.Namespace`.

    Args:
      path: path of the file.
      model: the network that the weights are for. A file that declares far more data than the
        network can use is an error, raised before its arrays are read. None stands for the largest
        network.

    Returns:
      Arrays by name, for `from_torchvision`, `from_timm`, `from_keras` or `from_slim`.

    Raises:
      WeightsError: the file does not exist, is damaged or too large, does not have the format of
        its suffix, or contains something other than arrays. The message is one line with the path
        and the reason.
    """
    file = Path(path)
    name = one_line(file)
    suffix = next((end for end in READERS if file.name.lower().endswith(end)), None)
    if suffix is None:
        legal = ", ".join(READERS)
        raise WeightsError(f"{name}: got suffix {one_line(repr(file.suffix))}, legal: {legal}")
    if not file.is_file():
        raise WeightsError(f"{name}: no such file")
    size = file.stat().st_size
    if size > MOST_FILE_BYTES:
        raise WeightsError(f"{name}: got {size} bytes, legal: {MOST_FILE_BYTES} or fewer")
    limit = LARGEST if model is None else Limit.of(variable_shapes(model.spec).values())
    try:
        with READERS[suffix](file, limit) as entries:
            return as_arrays(entries, limit)
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    except Exception as error:  # on a damaged file, the libraries raise errors of any type
        reason = one_line(str(error) or type(error).__name__)
        raise WeightsError(f"{name}: not a readable {suffix} file, {reason}") from error


@contextlib.contextmanager
def _opened_safetensors(path: Path, limit: Limit) -> Iterator[Mapping]:
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        require_few(names, limit)
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in names}
        yield {
            name: LazyArray(size, partial(file.get_tensor, name)) for name, size in sizes.items()
        }


@contextlib.contextmanager
def _opened_npz(path: Path, limit: Limit) -> Iterator[Mapping]:
    with _opened_zip(path, limit) as archive:
        _require_small(archive, limit)
        members = archive.infolist()
        if len({m.filename for m in members}) < len(members):
            raise WeightsError("holds several arrays of one name")
        yield {
            m.filename.removesuffix(".npy"): LazyArray(  # an element takes two bytes or more
                m.file_size // 2, partial(_read_npy, archive, m)
            )
            for m in members
        }


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Reads one array; NumPy's own loader would allocate memory before it checks the header."""
    name = one_line(member.filename)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in headers:
            raise WeightsError(f"{name}: got format {version}, legal: {list(headers)}")
        shape, fortran, dtype = headers[version](file)
        if dtype.hasobject:
            raise WeightsError(f"{name}: got Python objects, legal: numbers")
        data = bytearray(file.read())
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


@contextlib.contextmanager
def _opened_torch(path: Path, limit: Limit) -> Iterator[Mapping]:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            "needs PyTorch, legal: pip install mnet_jax[torch], or the same weights as .safetensors"
        ) from error
    is_mapped = _require_loadable(path, limit)
    # Training scripts store their arguments in a Namespace. PyTorch restricts its contents, too.
    allowed = torch.serialization.safe_globals([argparse.Namespace])
    with allowed, warnings.catch_warnings(action="ignore"):  # the error below is clearer
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
        except pickle.UnpicklingError as error:  # its message recommends executing the file
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f"something else ({found[1]})" if found else "something else"
            raise WeightsError(f"holds {what} than tensors, legal: a state dict") from error
    yield loaded


def _require_loadable(path: Path, limit: Limit) -> bool:
    """Checks the size of a PyTorch file, and returns whether PyTorch may memory-map it.

    From a memory-mapped file, PyTorch loads only the parts in use.

    Raises:
      WeightsError: the file unpacks to too much data, or its pickles have too many opcodes (a
        single byte of a pickle can create an object).
    """
    if not zipfile.is_zipfile(path):  # PyTorch before 1.6: pickles, then raw data
        size = path.stat().st_size
        if size > limit.bytes:
            raise WeightsError(f"got {size} bytes, legal: {limit.bytes} or fewer")
        with path.open("rb") as file:
            _require_few_opcodes(file, PICKLES)
        return False
    with _opened_zip(path, limit) as archive:
        packed = [m for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED]
        _require_small(archive, limit if packed else Limit(limit.arrays, MOST_FILE_BYTES))
        for member in archive.namelist():
            if member.endswith("data.pkl"):
                with archive.open(member) as pickled:
                    _require_few_opcodes(pickled, 1)
    return not packed


def _require_few_opcodes(file: IO[bytes], pickles: int) -> None:
    count = 0
    for _ in range(pickles):
        for _ in pickletools.genops(file):
            count += 1
            if count > MOST_OPCODES:
                raise WeightsError(f"holds more objects than the legal {MOST_OPCODES}")


@contextlib.contextmanager
def _opened_keras(path: Path, limit: Limit) -> Iterator[Mapping]:
    with _opened_zip(path, limit) as archive:
        _require_small(archive, limit)
        if KERAS_MEMBER not in archive.namelist():
            raise WeightsError(f"holds no {KERAS_MEMBER}")
        content = io.BytesIO(archive.read(KERAS_MEMBER))
    with open_hdf5(content, limit) as entries:
        yield entries


@contextlib.contextmanager
def _opened_h5(path: Path, limit: Limit) -> Iterator[Mapping]:
    with open_hdf5(str(path), limit) as entries:
        yield entries


@contextlib.contextmanager
def _opened_graph(path: Path, limit: Limit) -> Iterator[Mapping]:
    size = path.stat().st_size
    if size > limit.bytes:
        raise WeightsError(f"got {size} bytes, legal: {limit.bytes} or fewer")
    yield floating_constants(path.read_bytes())


@contextlib.contextmanager
def _opened_layers_model(path: Path, limit: Limit) -> Iterator[Mapping]:
    yield layers_model(path, limit)


@contextlib.contextmanager
def _opened_zip(path: Path, limit: Limit) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive; raises WeightsError if it has too many members.

    The members are counted first, because `zipfile` reads an archive's whole directory at once.
    """
    most, count = limit.arrays * MEMBERS_PER_ARRAY, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            count += chunk.count(ZIP_ENTRY)
    if count > most:
        raise WeightsError(f"holds {count} members, legal: {most} or fewer")
    with zipfile.ZipFile(path) as archive:
        yield archive


def _require_small(archive: zipfile.ZipFile, limit: Limit) -> None:
    """Raises WeightsError if the members of an archive declare more bytes than the limit.

    `zipfile` unpacks no more bytes of a member than the member declares.
    """
    total = sum(member.file_size for member in archive.infolist())
    if total > limit.bytes:
        raise WeightsError(f"declares {total} bytes, legal: {limit.bytes} or fewer")


READERS: dict[str, Callable[[Path, Limit], contextlib.AbstractContextManager[Mapping]]] = {
    ".safetensors": _opened_safetensors,
    ".npz": _opened_npz,
    ".pth": _opened_torch,
    ".pt": _opened_torch,
    ".pth.tar": _opened_torch,
    ".keras": _opened_keras,
    ".h5": _opened_h5,
    ".pb": _opened_graph,
    ".json": _opened_layers_model,
}
