"""Opens models by a local path or by a reference to the hub: `models.load` and its relatives.

A repository of the hub holds either a model that `models.save` wrote, or a model of timm, which is
converted. timm's `config.json` says what network the weights are of, what its classes are and how
images are prepared. A model of timm is converted each time it is opened, so there is no second
cache that could be out of date.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mnet_jax.architectures import NetworkSpec
from mnet_jax.data.types import View
from mnet_jax.models import saved
from mnet_jax.models.network import MobileNet
from mnet_jax.models.saved import SavedModel, SavedModelError
from mnet_jax.validation import one_line
from mnet_jax.weights import hub
from mnet_jax.weights.files import MOST_FILE_BYTES, read
from mnet_jax.weights.hub import HubError, MissingFileError, Reference
from mnet_jax.weights.timm import from_timm
from mnet_jax.weights.timm_config import TimmConfig, read_timm_config

CONFIG_NAME = "config.json"
MOST_CONFIG_BYTES = 2**22  # the names and descriptions of ImageNet-21k's classes take about 2 MB
SHARDS = ".safetensors.index.json"  # end of the name of the list of a model's several files
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True)
class _TimmModel:
    """A model of timm in the cache of the hub.

    Attributes:
      weights: path of the safetensors file.
      config: the content of timm's config.
    """

    weights: Path
    config: TimmConfig

    def load(self) -> SavedModel:
        model, side = MobileNet(spec=self.config.spec), self.config.view.resolution
        variables = from_timm(read(self.weights, model), model, image_size=(side, side))
        return SavedModel(model, variables, self.config.class_names, self.config.view)


def load(path: str | os.PathLike[str]) -> SavedModel:
    """Reads a model: `model, variables, class_names, view = load("runs/digits")`.

        models.load("hf://timm/mobilenetv4_conv_small.e2400_r224_in1k")
        models.load("hf://owner/name@revision/file.safetensors")

    A repository of the hub holds a model that `save` wrote, or a MobileNet of timm. It is
    downloaded once, if the package huggingface_hub (the extra `hub`) is installed.

    Args:
      path: a file that `save` wrote; a directory with a `model.safetensors`, such as the directory
        of a run; or a reference to the hub, which starts with `hf://`.

    Raises:
      SavedModelError: there is no such file or repository, it cannot be downloaded, it is damaged,
        or it is not a model of this family. The message is one line.
    """
    with _opened(path) as found:
        return found.load() if isinstance(found, _TimmModel) else saved.load(found)


def read_spec(path: str | os.PathLike[str]) -> NetworkSpec:
    """Reads the architecture of a model, without reading weights or initializing a device.

    Raises:
      SavedModelError: as `load`.
    """
    with _opened(path) as found:
        return found.config.spec if isinstance(found, _TimmModel) else saved.read_spec(found)


def read_view(path: str | os.PathLike[str]) -> View | None:
    """Returns how a model preprocesses images; None if that was not saved.

    Raises:
      SavedModelError: as `load`.
    """
    with _opened(path) as found:
        return found.config.view if isinstance(found, _TimmModel) else saved.read_view(found)


def is_plain(path: str | os.PathLike[str]) -> bool:
    """Returns whether a model is neither folded nor quantized.

    Raises:
      SavedModelError: as `load`.
    """
    with _opened(path) as found:
        return isinstance(found, _TimmModel) or saved.is_plain(found)


def digest(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of the weights file that `load(path)` would read, in hexadecimal digits.

    `config.Pretrained` identifies weights by this digest, and so do stored trials and checkpoints.
    The digest is computed from the bytes, not from the model, so that files of earlier versions
    keep their digests. For a model of timm, it is that of timm's file, not of the converted model.

    Raises:
      SavedModelError: as `load`, or the file cannot be read.
    """
    with _opened(path) as found:
        return saved.digest(found.weights if isinstance(found, _TimmModel) else found)


def pinned(path: str | os.PathLike[str]) -> str:
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
def _opened(path: str | os.PathLike[str]) -> Iterator[str | os.PathLike[str] | _TimmModel]:
    """Yields a local path of a saved model, or a model of timm; downloads them if necessary."""
    if not hub.is_reference(path):
        yield path
        return
    reference = _reference(str(path))
    with _named(str(path)):
        weights = _fetch_weights(reference)
        with _named(str(path), weights.path):
            if saved.is_saved_model(weights.path):
                yield weights.path
            else:
                yield _timm_model(weights.path, reference.at(weights.commit))


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


def _timm_model(weights: Path, reference: Reference) -> _TimmModel:
    """Returns the model whose weights were downloaded, with the config beside them."""
    name = str(PurePosixPath(reference.file or saved.FILE_NAME).with_name(CONFIG_NAME))
    try:
        file = hub.fetch(reference, name, MOST_CONFIG_BYTES)
    except MissingFileError as error:
        legal = "weights that models.save wrote, or timm's with their config"
        raise HubError(f"{reference}: holds no {name}, legal: {legal}") from error
    try:
        config = json.loads(file.path.read_bytes())
    except (
        ValueError,
        RecursionError,
    ) as error:  # a ValueError: 5,000 digits
        raise ValueError(f"{name}: not JSON, {one_line(error)}") from error
    return _TimmModel(weights, read_timm_config(config))
