"""Opens models by a local path or by a reference to the hub: `models.load` and its relatives."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mnet_jax.architectures import NetworkSpec
from mnet_jax.data.types import View
from mnet_jax.models import saved
from mnet_jax.models.saved import SavedModel, SavedModelError
from mnet_jax.validation import one_line
from mnet_jax.weights import hub
from mnet_jax.weights.files import MOST_FILE_BYTES
from mnet_jax.weights.hub import HubError, MissingFileError, Reference

SHARDS = ".safetensors.index.json"  # end of the name of the list of a model's several files
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

ModelPath = str | os.PathLike[str]


def load(path: ModelPath) -> SavedModel:
    """Reads a model: `model, variables, class_names, view = load("runs/digits")`.

        models.load("hf://owner/name")
        models.load("hf://owner/name@revision/file.safetensors")

    A repository of the hub holds a model that `save` wrote. It is downloaded once, if the package
    huggingface_hub (the extra `hub`) is installed.

    Args:
      path: a file that `save` wrote; a directory with a `model.safetensors`, such as the directory
        of a run; or a reference to the hub, which starts with `hf://`.

    Raises:
      SavedModelError: there is no such file or repository, it cannot be downloaded, it is damaged,
        or it is not a model of this family. The message is one line.
    """
    with _opened(path) as found:
        return saved.load(found)


def read_spec(path: ModelPath) -> NetworkSpec:
    """Reads the architecture of a model, without reading weights or initializing a device.

    Raises:
      SavedModelError: as `load`.
    """
    with _opened(path) as found:
        return saved.read_spec(found)


def read_view(path: ModelPath) -> View | None:
    """Returns how a model preprocesses images; None if that was not saved.

    Raises:
      SavedModelError: as `load`.
    """
    with _opened(path) as found:
        return saved.read_view(found)


def is_plain(path: ModelPath) -> bool:
    """Returns whether a model is neither folded nor quantized.

    Raises:
      SavedModelError: as `load`.
    """
    with _opened(path) as found:
        return saved.is_plain(found)


def digest(path: ModelPath) -> str:
    """Returns the SHA-256 of the weights file that `load(path)` would read, in hexadecimal digits.

    `config.Pretrained` identifies weights by this digest, and so do stored trials and checkpoints.
    The digest is computed from the bytes, not from the model, so that files of earlier versions
    keep their digests.

    Raises:
      SavedModelError: as `load`, or the file cannot be read.
    """
    with _opened(path) as found:
        return saved.digest(found)


def pinned(path: ModelPath) -> str:
    """Returns the path, or the reference to the hub with the commit that it stands for now.

    A config that keeps the result can be run again when the repository has changed, and without a
    network if the files are in the cache.

    Raises:
      SavedModelError: as `load`.
    """
    if not hub.is_reference(path):
        return os.fspath(path)
    reference = _reference(str(path))
    with _named(str(path)):
        return str(reference.at(_fetch_weights(reference).commit))


@contextlib.contextmanager
def _opened(path: ModelPath) -> Iterator[ModelPath]:
    """Yields the local path of a saved model, which is downloaded if necessary."""
    if not hub.is_reference(path):
        yield path
        return
    reference = _reference(str(path))
    with _named(str(path)):
        weights = _fetch_weights(reference)
        with _named(str(path), weights.path):
            yield weights.path


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise SavedModelError(str(error)) from error


@contextlib.contextmanager
def _named(reference: str, file: Path | None = None) -> Iterator[None]:
    """Turns errors into a SavedModelError of one line that starts with the reference.

    Args:
      reference: the reference that the caller gave.
      file: the file in the cache, whose path is left out of messages.
    """
    try:
        yield
    except (HubError, ValueError) as error:  # among them those of weights, saved models, JSON
        reason = re.sub(rf"^{hub.SCHEME}\S+: ", "", str(error)).removeprefix(f"{file}: ")
        raise SavedModelError(f"{one_line(reference)}: {reason}") from error


def _fetch_weights(reference: Reference) -> hub.CachedFile:
    file = reference.file or saved.FILE_NAME
    try:
        return hub.fetch(reference, file, MOST_FILE_BYTES)
    except MissingFileError as error:
        others = _other_weights(reference)
        if reference.file or not others:
            raise
        raise HubError(f"{reference}: holds no {file}, {others}") from error


def _other_weights(reference: Reference) -> str:
    """Describes weights in a form that is refused; empty if a repository has none."""
    try:
        names = hub.file_names(reference)
    except HubError:
        return ""
    if shards := [name for name in names if name.endswith(SHARDS)]:
        return f"but weights in several files ({one_line(shards[0])}), legal: one file"
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return f"but {one_line(pickles[0])}, which can run code when it is read, legal: safetensors"
    return ""
