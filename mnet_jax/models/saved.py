"""Models on disk: one safetensors file with the weights, the spec and the class names.

The file contains no code, and loading it runs none. Its tensors are named by the paths of
`architectures.variable_shapes`. Its metadata contain the spec as JSON, from which the model is
rebuilt, and a digest of all other contents, by which `load` detects damage. Files of earlier
versions have no digest; they load nevertheless.
"""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from mnet_jax import serialization
from mnet_jax.architectures import NetworkSpec, variable_shapes
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION
from mnet_jax.data.types import View
from mnet_jax.files import replace_file
from mnet_jax.models.inputs import RGB
from mnet_jax.models.network import MobileNet
from mnet_jax.models.types import Quantization
from mnet_jax.validation import one_line, require

FILE_NAME = "model.safetensors"
MOST_SPEC_CHARACTERS = 2**17  # V4's largest network takes 8,000; a block takes about 200
_METADATA = {"spec", "class_names", "view"}
_FORM = "form"  # metadata key of a `_Form` that is not the default
_SEAL = "sha256"  # metadata key of the digest of everything else
_MAX_LISTED = 4

Variables = Mapping[str, Any]


class SavedModelError(ValueError):
    """A file that is not a readable saved model; the message is one line with path and reason."""


@dataclass(frozen=True, kw_only=True)
class _Form:
    """The fields of a module, other than its spec, on which its variables depend.

    Attributes:
      folded: as in `MobileNet`.
      quantization: as in `MobileNet`.
    """

    folded: bool = False
    quantization: Quantization | None = None


class SavedModel(NamedTuple):
    """A model loaded from disk.

    Attributes:
      model: the module.
      variables: its `params` and `batch_stats`, float32.
      class_names: names in the order of the labels; empty if they were not saved.
      view: how the model preprocesses images; None if that was not saved.
    """

    model: MobileNet
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    view: View | None


def save(
    path: str | os.PathLike[str],
    model: MobileNet,
    variables: Variables,
    *,
    class_names: Sequence[str] = (),
    view: View | None = None,
) -> None:
    """Writes a model to a file, atomically.

    Equal models give equal bytes. A file that already holds the model is left untouched, even if an
    earlier version of `save` wrote it in another form. Writing it again would change the file's
    SHA-256 (`digest`), by which stored trials identify their initial weights.

    Args:
      path: path of the file.
      model: the network; its spec, its quantization and whether it is folded are saved.
      variables: its `params` and `batch_stats`.
      class_names: one name for each logit, in order, or none at all.
      view: how the model preprocesses images; None for images of other than 3 channels.

    Raises:
      ValueError: the variables are not the model's, there are too many or too few class names, a
        view is given for images of other than 3 channels, or the spec is longer than
        `MOST_SPEC_CHARACTERS`.
      OSError: the file cannot be written.
    """
    spec, names = model.spec, list(class_names)
    texts = not isinstance(class_names, str) and all(isinstance(name, str) for name in names)
    require(texts, "class_names", class_names, "a sequence of texts")
    if names and len(names) != spec.head.num_classes:
        raise ValueError(f"class_names: got {len(names)}, legal: {spec.head.num_classes} or none")
    tensors = {
        name: np.asarray(value, np.float32)
        for name, value in traverse_util.flatten_dict(dict(variables), sep="/").items()
    }
    channels = spec.stem.inputs
    legal = f"None for images of {channels} channels, as a view is of RGB images"
    require(view is None or channels == RGB, "view", view, legal)
    require(not model.packed, "model", "packed kernels", "kernels that are not packed")
    form = _Form(folded=model.folded, quantization=model.quantization)
    if problem := _misfit(_shapes(spec, form), tensors, lambda name: tensors[name].shape):
        raise ValueError(f"variables: {problem}")
    metadata = {
        "spec": spec.to_json(),
        "class_names": json.dumps(names),
        "view": serialization.to_json(view) if view else "",
    }
    if form != _Form():
        metadata[_FORM] = serialization.to_json(form)
    _require_short(metadata["spec"])
    metadata[_SEAL] = _seal(tensors, metadata)
    if not _holds(Path(path), tensors, metadata):
        replace_file(Path(path), _to_bytes(tensors, metadata))


def load(path: str | os.PathLike[str]) -> SavedModel:
    """Reads a model of the local file system; `models.load` also reads those of the hub.

    Args:
      path: a file that `save` wrote, or a directory with a `model.safetensors`, such as the
        directory of a run.

    Raises:
      SavedModelError: there is no such file, it is damaged, or it is not a saved model.
    """
    file = _file_of(path)
    with _one_line(file):
        return _read(file)


def read_spec(path: str | os.PathLike[str]) -> NetworkSpec:
    """Reads the architecture of a saved model, without reading weights or initializing a device.

    Raises:
      SavedModelError: as `load`.
    """
    file = _file_of(path)
    with _one_line(file), safe_open(file, framework="numpy") as opened:
        return _spec_of(opened.metadata() or {})


def read_view(path: str | os.PathLike[str]) -> View | None:
    """Returns how a saved model preprocesses images; None if that was not saved.

    Raises:
      SavedModelError: as `load`.
    """
    file = _file_of(path)
    with _one_line(file), safe_open(file, framework="numpy") as opened:
        return _view_of(opened.metadata() or {})


def is_saved_model(path: str | os.PathLike[str]) -> bool:
    """Returns whether a safetensors file says that it is a saved model: its metadata have a spec.

    Raises:
      SavedModelError: the file is not a readable safetensors file.
    """
    file = _file_of(path)
    with _one_line(file), safe_open(file, framework="numpy") as opened:
        return "spec" in (opened.metadata() or {})


def is_plain(path: str | os.PathLike[str]) -> bool:
    """Returns whether a saved model is neither folded nor quantized.

    Raises:
      SavedModelError: as `load`.
    """
    file = _file_of(path)
    with _one_line(file), safe_open(file, framework="numpy") as opened:
        return _form_of(opened.metadata() or {}) == _Form()


def digest(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of the file that `load(path)` would read, in hexadecimal digits.

    Raises:
      SavedModelError: there is no such file, or it cannot be read.
    """
    file = _file_of(path)
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise SavedModelError(f"{file}: cannot be read, {error.strerror}") from error


@contextlib.contextmanager
def _one_line(file: Path) -> Iterator[None]:
    """Turns the errors that readers raise for a bad file into a `SavedModelError` of one line."""
    try:
        yield
    except SavedModelError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise _refusal(file, one_line(str(error) or type(error).__name__)) from error


def _refusal(file: Path, reason: str) -> SavedModelError:
    return SavedModelError(f"{file}: not a saved model, {reason}")


def _file_of(path: str | os.PathLike[str]) -> Path:
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    if not file.is_file():
        reason = f"holds no {FILE_NAME}" if Path(path).is_dir() else "no such file"
        raise SavedModelError(f"{path}: {reason}")
    return file


def _view_of(metadata: Mapping[str, str]) -> View | None:
    text = metadata.get("view")
    return serialization.from_json(View, text) if text else None


def _read(file: Path) -> SavedModel:
    """Reads a model.

    Raises:
      ValueError, SafetensorError: the content is not what `save` writes.
    """
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata() or {}
        spec, form = _spec_of(metadata), _form_of(metadata)
        view = _view_of(metadata)
        class_names = _class_names_of(metadata, spec)
        names = {*opened.keys()}
        if problem := _misfit(
            _shapes(spec, form), names, lambda name: tuple(opened.get_slice(name).get_shape())
        ):
            raise _refusal(file, problem)  # the message of a ValueError would be shortened
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        if others := {s.get_dtype() for s in slices.values()} - {"F32"}:
            raise ValueError(f"its tensors are {', '.join(sorted(others))}, legal: F32")
        arrays = {name: part[...] for name, part in slices.items()}
        if metadata.get(_SEAL, sealed := _seal(arrays, metadata)) != sealed:
            raise ValueError("it is damaged, its contents are not those of its digest")
        if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
            raise ValueError(f"{bad[0]} is not finite")
        tensors = {name: jnp.asarray(array) for name, array in arrays.items()}
    variables = traverse_util.unflatten_dict(tensors, sep="/")
    model = MobileNet(spec=spec, folded=form.folded, quantization=form.quantization)
    return SavedModel(model, variables, class_names, view)


def _spec_of(metadata: Mapping[str, str]) -> NetworkSpec:
    if metadata.keys() - {_SEAL, _FORM} != _METADATA:
        raise ValueError("its metadata are not those of a saved model")
    _require_short(metadata["spec"])
    return NetworkSpec.from_json(metadata["spec"])


def _form_of(metadata: Mapping[str, str]) -> _Form:
    text = metadata.get(_FORM)
    return serialization.from_json(_Form, text) if text else _Form()


def _shapes(spec: NetworkSpec, form: _Form) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a model's variables, by path."""
    if form == _Form():
        return variable_shapes(spec)
    model = MobileNet(spec=spec, folded=form.folded, quantization=form.quantization)
    side = REFERENCE_RESOLUTION // 4  # large enough for every network
    images = jax.ShapeDtypeStruct((1, side, side, spec.stem.inputs), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    return {
        name: value.shape
        for name, value in traverse_util.flatten_dict(dict(shapes), sep="/").items()
    }


def _require_short(spec: str) -> None:
    """Raises ValueError if the spec is so long that building its network would take minutes."""
    if len(spec) > MOST_SPEC_CHARACTERS:
        raise ValueError(f"spec: got {len(spec)} characters, legal: up to {MOST_SPEC_CHARACTERS}")


def _class_names_of(metadata: Mapping[str, str], spec: NetworkSpec) -> tuple[str, ...]:
    try:
        names = json.loads(metadata["class_names"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its class names are not JSON, {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its class names are not a list of texts")
    if len(names) not in (0, spec.head.num_classes):
        raise ValueError(f"it names {len(names)} of {spec.head.num_classes} classes")
    return tuple(names)


def _seal(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Returns the SHA-256 of tensors and metadata, independent of their order in the file."""
    described = {name: metadata[name] for name in metadata.keys() & {*_METADATA, _FORM}}
    shapes = {name: array.shape for name, array in tensors.items()}
    found = hashlib.sha256(json.dumps([described, shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(_little_endian(tensors[name]))
    return found.hexdigest()


def _little_endian(array: np.ndarray) -> bytes:
    return array.astype("<f4", copy=False).tobytes()


def _to_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Returns a safetensors file: the header's length in 8 bytes, the header as JSON, the arrays.

    The writer of `safetensors` is not used, since it orders the metadata differently each time.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts, end = [], 0
    for name in sorted(tensors):
        parts.append(_little_endian(tensors[name]))
        start, end = end, end + len(parts[-1])
        shape = list(tensors[name].shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays' first byte is aligned
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def _holds(file: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bool:
    """Returns whether a file holds exactly these tensors, bit for bit, and these metadata."""
    if not file.is_file():
        return False
    try:
        with safe_open(file, framework="numpy") as opened:
            return (
                {_SEAL: metadata[_SEAL], **(opened.metadata() or {})} == metadata
                and set(opened.keys()) == tensors.keys()
                and all(
                    _little_endian(opened.get_tensor(name)) == _little_endian(array)
                    for name, array in tensors.items()
                )
            )
    except (SafetensorError, OSError):  # a damaged file
        return False


def _misfit(
    expected: Mapping[str, tuple[int, ...]],
    names: Collection[str],
    shape_of: Callable[[str], tuple[int, ...]],
) -> str:
    """Describes in one line how variables differ from the expected ones; empty if they agree.

    Args:
      expected: shapes of the model's variables, by path.
      names: names of the variables.
      shape_of: function that returns the shape of one of these variables.
    """
    missing = [name for name in expected if name not in names]
    known = [name for name in expected if name in names]
    misshapen = [name for name in known if shape_of(name) != expected[name]]
    unknown = sorted(name for name in names if name not in expected)
    listed = [f"{name} {expected[name]} is missing" for name in missing[:_MAX_LISTED]]
    listed += [
        f"{one_line(name)} has {shape_of(name)}, legal: {expected.get(name, 'no such name')}"
        for name in [*misshapen[:_MAX_LISTED], *unknown[:_MAX_LISTED]]
    ]
    more = len(missing) + len(misshapen) + len(unknown) - _MAX_LISTED
    return "; ".join(listed[:_MAX_LISTED] + [f"and {more} more"] * (more > 0))
