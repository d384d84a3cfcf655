"""Checks that a checkpoint belongs to the run that wants to resume from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mnet_jax import serialization
from mnet_jax.changes import changes
from mnet_jax.config import RunConfig
from mnet_jax.training.step import TrainState


class CheckpointError(ValueError):
    """A checkpoint cannot be used for this run; the message is one line with the reason."""


# Legal values in error messages, for fields whose name does not suggest them.
_LEGAL = {"data.listing": "the folder's files as they were, or another directory"}


def saved_config(directory: Path) -> RunConfig | None:
    """Returns the config in a directory's checkpoints; None if no checkpoint's config is readable.

    The newest readable config is returned, even if that checkpoint is damaged. The config is needed
    before the data is loaded, when no state can be restored yet.
    """
    steps = [path for path in directory.glob("*") if path.name.isdecimal()]
    for step in sorted(steps, key=lambda path: int(path.name), reverse=True):
        try:
            if (kept := step / "run" / "metadata").is_file():
                return serialization.from_plain(RunConfig, json.loads(kept.read_bytes())["config"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # reported when it is restored
    return None


def require_same_config(config: RunConfig, saved: Mapping[str, Any], directory: Path) -> None:
    """Raises CheckpointError, naming a field and both values, if two configs differ.

    Args:
      config: the run's config.
      saved: the saved config of the run in `directory`, made by `serialization.to_plain`.
      directory: the directory's name for the message.
    """
    try:
        before = serialization.from_plain(RunConfig, saved)
    except ValueError as error:
        raise CheckpointError(f"{directory}: holds a run of another version, {error}") from error
    for change in changes(before, config):
        legal = _LEGAL.get(change.path, "the same config, or another directory")
        raise CheckpointError(
            f"{change.path}: got {change.after}, but {directory} holds a run with "
            f"{change.before}; legal: {legal}"
        )


def require_same_structure(like: TrainState, shapes: Any, checkpoint: Path) -> None:
    """Raises CheckpointError, naming an array and both shapes, if two states do not match.

    This is needed because Orbax silently restores a deeper tree into a shallower one.

    Args:
      like: a state of the run.
      shapes: a tree of leaves with a `shape`, from the metadata of an Orbax checkpoint.
      checkpoint: the checkpoint's name for the message.
    """
    leaves = jax.tree_util.tree_leaves_with_path(shapes, is_leaf=lambda x: hasattr(x, "shape"))
    saved = {_name(path): tuple(leaf.shape) for path, leaf in leaves}
    expected = {
        _name(path): tuple(_stored_shape(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    for name in sorted(saved.keys() | expected.keys()):
        if saved.get(name) != expected.get(name):
            raise CheckpointError(
                f"{name}: the checkpoint {checkpoint} has shape "
                f"{saved.get(name)}, the network needs {expected.get(name)}"
            )


def _stored_shape(leaf: jax.Array) -> tuple[int, ...]:
    """Returns the shape of an array as stored; a typed key is stored as its key data."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return leaf.shape


def _name(path: tuple[Any, ...]) -> str:
    """Returns a tree path as text; attributes, dictionary keys and positions have the same form."""
    return ".".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)
