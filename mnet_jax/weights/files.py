"""Weight files of other libraries as NumPy arrays. Nothing in a file is ever executed."""

import io
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mnet_jax.validation import one_line
from mnet_jax.weights.arrays import MOST_BYTES, as_arrays
from mnet_jax.weights.errors import WeightsError
from mnet_jax.weights.hdf5 import read_hdf5

KERAS_MEMBER = "model.weights.h5"  # of the zip archive that a .keras file is


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays in a weight file; the suffix says which kind of file it is.

    `.safetensors`; `.npz`; `.pth` and `.pt` by PyTorch's `weights_only` loader, where PyTorch is
    installed; `.keras`, `.weights.h5` and `.h5` as Keras writes them, whose arrays are named such
    as `Conv1/kernel`. What training scripts wrap as {"state_dict": ...} or {"model": ...} is
    unwrapped. Floating numbers of any precision become float32.

    Args:
      path: of the file.

    Returns:
      Names to arrays, for `from_torchvision`, `from_timm` or `from_keras`.

    Raises:
      WeightsError: the file is absent, of another kind than its suffix says, damaged, too large, or
        holds something else than arrays; one line with the path and the reason.
    """
    file = Path(path)
    kind = file.suffix.lower()
    name = one_line(file)
    if kind not in READERS:
        raise WeightsError(f"{name}: got suffix {kind!r}, legal: {', '.join(READERS)}")
    if not file.is_file():
        raise WeightsError(f"{name}: no such file")
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise WeightsError(f"{name}: got {size} bytes, legal: {MOST_BYTES} or less")
    try:
        return as_arrays(READERS[kind](file))
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    except Exception as error:  # the readers' libraries raise whatever a damaged file leads them to
        reason = one_line(str(error) or type(error).__name__)
        raise WeightsError(f"{name}: not a readable {kind} file, {reason}") from error


def _read_safetensors(path: Path) -> Mapping:
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping


def _read_npz(path: Path) -> Mapping:
    with zipfile.ZipFile(path) as archive:
        _require_small(archive)
        members = archive.infolist()
        if len({m.filename for m in members}) < len(members):
            raise WeightsError("holds several arrays of one name")
        return {m.filename.removesuffix(".npy"): _read_npy(archive, m) for m in members}


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array; NumPy's own loader would allocate what a header declares before it looks."""
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
        data = file.read()
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _read_torch(path: Path) -> Mapping:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            "needs PyTorch, legal: pip install mnet_jax[torch], or the same weights as .safetensors"
        ) from error
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _require_small(archive)
    with warnings.catch_warnings(action="ignore"):  # of what the refusal says better
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # its message recommends to run the file
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f"something else ({found[1]})" if found else "something else"
            raise WeightsError(f"holds {what} than tensors, legal: a state dict") from error


def _read_keras(path: Path) -> Mapping:
    with zipfile.ZipFile(path) as archive:
        _require_small(archive)
        if KERAS_MEMBER not in archive.namelist():
            raise WeightsError(f"holds no {KERAS_MEMBER}")
        return read_hdf5(io.BytesIO(archive.read(KERAS_MEMBER)))


def _read_h5(path: Path) -> Mapping:
    return read_hdf5(str(path))


def _require_small(archive: zipfile.ZipFile) -> None:
    """WeightsError if the archive declares too much; zipfile unpacks no more than is declared."""
    total = sum(member.file_size for member in archive.infolist())
    if total > MOST_BYTES:
        raise WeightsError(f"declares {total} bytes, legal: {MOST_BYTES} or less")


READERS: dict[str, Callable[[Path], Mapping]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".keras": _read_keras,
    ".h5": _read_h5,
}
