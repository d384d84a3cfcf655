"""Models on disk: one safetensors file with the weights, the spec and the names of the classes.

The file holds no code and loading it runs none. Its tensors are named by the paths of
`architectures.variable_shapes`; the spec is JSON in the file's metadata, so that a saved model
rebuilds itself.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from mnet_jax import serialization
from mnet_jax.architectures import NetworkSpec, variable_shapes
from mnet_jax.config import Scaling
from mnet_jax.files import replace_file
from mnet_jax.models.network import MobileNet
from mnet_jax.serialization import added
from mnet_jax.validation import make_fields_plain, require, require_choice

FILE_NAME = "model.safetensors"
_MAX_LISTED = 4

Variables = Mapping[str, Any]


class SavedModelError(ValueError):
    """A file that is no model of ours; the message is one line with its path and the reason."""


@dataclass(frozen=True, kw_only=True)
class View:
    """How a model sees an image: the central square of it, resized.

    Attributes:
      resolution: side of the square in pixels.
      photographs: whether it was trained on images of many sizes, whose border is cut off.
      scaling: of its pixels; see `config.DataConfig`.
    """

    resolution: int
    photographs: bool
    scaling: Scaling = added("symmetric")

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(self.resolution >= 1, "resolution", self.resolution, "1 pixel or more")
        require_choice("scaling", self.scaling, Scaling)


class SavedModel(NamedTuple):
    """A model from disk.

    Attributes:
      model: the module.
      variables: its `params` and `batch_stats`, float32.
      class_names: by label; empty if they were not saved.
      view: how it sees an image; None if that was not saved.
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
    """Writes a model to a file, whole or not at all.

    Args:
      path: of the file.
      model: its spec is saved.
      variables: `params` and `batch_stats`.
      class_names: by label, as many as there are logits, or none.
      view: how it sees an image.

    Raises:
      ValueError: the variables are not the model's, or there are too many or too few names.
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
    if problem := _misfit(spec, {name: value.shape for name, value in tensors.items()}):
        raise ValueError(f"variables: {problem}")
    metadata = {
        "spec": spec.to_json(),
        "class_names": json.dumps(names),
        "view": serialization.to_json(view) if view else "",
    }
    replace_file(Path(path), to_bytes(tensors, metadata))


def load(path: str | os.PathLike[str]) -> SavedModel:
    """Reads a model: `model, variables, class_names, view = load("runs/digits")`.

    Args:
      path: a file that `save` wrote, or a directory with a `model.safetensors` of its own, such as
        that of a run.

    Raises:
      SavedModelError: there is none, or it is damaged, or not a model of ours.
    """
    file = _file_of(path)
    with _one_line(file):
        return _read(file)


def read_spec(path: str | os.PathLike[str]) -> NetworkSpec:
    """The architecture of a saved model, without its weights and without starting a device.

    Raises:
      SavedModelError: as `load`.
    """
    file = _file_of(path)
    with _one_line(file), safe_open(file, framework="numpy") as opened:
        return _spec_of(opened.metadata() or {})


def read_view(path: str | os.PathLike[str]) -> View | None:
    """How a saved model sees an image, if it knows; as `read_spec`."""
    file = _file_of(path)
    with _one_line(file), safe_open(file, framework="numpy") as opened:
        return _view_of(opened.metadata() or {})


def digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of the file that `load(path)` would read, in hexadecimal digits.

    Raises:
      SavedModelError: there is none, or it cannot be read.
    """
    file = _file_of(path)
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise SavedModelError(f"{file}: cannot be read, {error.strerror}") from error


@contextlib.contextmanager
def _one_line(file: Path) -> Iterator[None]:
    """Turns what a bad file makes readers raise into one line."""
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SavedModelError(f"{file}: no model of ours, {reason}") from error


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
    """What a file says; ValueError or SafetensorError where it is not what `save` writes."""
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata() or {}
        spec = _spec_of(metadata)
        view = _view_of(metadata)
        class_names = json.loads(metadata["class_names"])
        if not isinstance(class_names, list) or not all(isinstance(n, str) for n in class_names):
            raise ValueError("its class names are no list of names")
        if len(class_names) not in (0, spec.head.num_classes):
            raise ValueError(f"it names {len(class_names)} of {spec.head.num_classes} classes")
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        if problem := _misfit(spec, {n: tuple(s.get_shape()) for n, s in slices.items()}):
            raise ValueError(problem)
        if others := {s.get_dtype() for s in slices.values()} - {"F32"}:
            raise ValueError(f"its tensors are {', '.join(sorted(others))}, legal: F32")
        arrays = {name: part[...] for name, part in slices.items()}
        if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
            raise ValueError(f"{bad[0]} is not finite")
        tensors = {name: jnp.asarray(array) for name, array in arrays.items()}
    variables = traverse_util.unflatten_dict(tensors, sep="/")
    return SavedModel(MobileNet(spec=spec), variables, tuple(class_names), view)


def _spec_of(metadata: Mapping[str, str]) -> NetworkSpec:
    if metadata.keys() != {"spec", "class_names", "view"}:
        raise ValueError("its metadata are not those of a saved model")
    return NetworkSpec.from_json(metadata["spec"])


def _misfit(spec: NetworkSpec, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What tells the variables apart from the spec's, in one line; empty if nothing does."""
    expected = variable_shapes(spec)
    wrong = [n for n in {**expected, **shapes} if expected.get(n) != shapes.get(n)]
    listed = [
        f"{name} {expected[name]} is missing"
        if name not in shapes
        else f"{name} has {shapes[name]}, legal: {expected.get(name, 'no such name')}"
        for name in wrong[:_MAX_LISTED]
    ]
    more = [f"and {len(wrong) - _MAX_LISTED} more"] if len(wrong) > _MAX_LISTED else []
    return "; ".join(listed + more)
