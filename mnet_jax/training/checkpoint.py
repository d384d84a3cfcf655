"""Orbax checkpoints of all that a run needs to go on: state, data position, config and history."""

import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from mnet_jax import serialization
from mnet_jax.config import RunConfig
from mnet_jax.result import EpochRecord
from mnet_jax.training.loop import NonFiniteError
from mnet_jax.training.position import PositionHandler, RestorePosition, SavePosition
from mnet_jax.training.step import TrainState
from mnet_jax.validation import one_line

DAMAGED = "damaged-"  # and its step: the name of a checkpoint that was set aside


class CheckpointError(ValueError):
    """A checkpoint that cannot be used for this run; the message is one line saying why."""


class Restored(NamedTuple):
    """A run as it was when it was saved.

    Attributes:
      state: after the last epoch.
      history: the epochs.
      seconds: wall time up to then.
    """

    state: TrainState
    history: tuple[EpochRecord, ...]
    seconds: float


class Checkpoints:
    """The checkpoints of one run in one directory, a step each; the last two are kept.

    Use as a context manager: saving is asynchronous, and leaving waits for it and raises what it
    raised.
    """

    def __init__(self, directory: Path, config: RunConfig) -> None:
        """Opens or makes the directory.

        Args:
          directory: where.
          config: of the run; what is saved under another is refused.
        """
        self._config = config
        self._directory = directory
        try:
            self._manager = ocp.CheckpointManager(
                directory.absolute(),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=checkpoint_managers.LatestN(2), create=True
                ),
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "data": PositionHandler(),
                    "run": ocp.JsonCheckpointHandler(),
                },
            )
        except OSError as error:
            raise CheckpointError(f"{directory}: cannot keep checkpoints here, {error}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(
        self,
        state: TrainState,
        batches: Iterator[Any],
        history: tuple[EpochRecord, ...],
        seconds: float,
    ) -> None:
        """Saves the run after `len(history)` epochs, in the background.

        Args:
          state: one copy of it, as `Placement.get` gives.
          batches: the grain iterator, after the last batch that the state has seen.
          history: the epochs so far.
          seconds: wall time of the run so far.

        Raises:
          NonFiniteError: the state is not finite; nothing is written.
        """
        step = int(state.step)
        if not bool(_all_finite(state)):
            raise NonFiniteError(f"step {step}: the state is not finite and is not saved")
        run = {
            "config": serialization.to_plain(self._config),
            "history": [serialization.to_plain(record) for record in history],
            "seconds": seconds,
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=SavePosition(batches),
                run=ocp.args.JsonSave(run),
            ),
        )

    def restore(self, like: TrainState, batches: Iterator[Any]) -> Restored | None:
        """What was saved last, or None if there is no checkpoint.

        A damaged checkpoint is set aside, with a warning, and the one before it is taken.

        Args:
          like: a state of the same run, as at its start; it gives shapes and placement.
          batches: a grain iterator as at the start; it is moved to where the saved one stood.

        Raises:
          CheckpointError: the checkpoint is another run's or another network's, or all are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._restore(step, like, batches)
            except CheckpointError:
                raise
            except Exception as error:  # Orbax raises whatever a torn file leads it to
                self._set_aside(step, error)
        if steps:
            raise CheckpointError(f"{self._directory}: all its checkpoints are damaged")
        return None

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self._directory / f"{DAMAGED}{step}"
        reason = one_line(error) or type(error).__name__
        warnings.warn(
            f"the checkpoint at step {step} is damaged and now in {aside}: {reason}", stacklevel=3
        )
        self._wait_for_all(f"found {step}")  # none of them is gone, which is no damage
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            (self._directory / str(step)).rename(aside)
        self._wait_for_all(f"renamed {step}")
        self._manager.reload()

    def _wait_for_all(self, name: str) -> None:
        """Waits until every process of the run is here."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"{self._directory} {name}")

    def _restore(self, step: int, like: TrainState, batches: Iterator[Any]) -> Restored:
        run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
        self._require_same_config(run["config"])
        self._require_same_structure(step, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)),
                data=RestorePosition(batches),
            ),
        )
        history = tuple(serialization.from_plain(EpochRecord, r) for r in run["history"])
        return Restored(restored.state, history, run["seconds"])

    def _require_same_config(self, saved: Mapping[str, Any]) -> None:
        now = _flat(serialization.to_plain(self._config))
        before = _flat(saved)
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise CheckpointError(
                    f"{name}: got {now.get(name)!r}, but {self._directory} holds a run with "
                    f"{before.get(name)!r}; legal: the same config, or another directory"
                )

    def _require_same_structure(self, step: int, like: TrainState) -> None:
        """Orbax restores a deeper tree into a shallower one without a word, so compare first."""
        leaves = jax.tree_util.tree_leaves_with_path(
            self._manager.item_metadata(step).state.tree, is_leaf=lambda x: hasattr(x, "shape")
        )
        saved = {_name(path): tuple(leaf.shape) for path, leaf in leaves}
        expected = {
            _name(path): tuple(_stored_shape(leaf))
            for path, leaf in jax.tree_util.tree_leaves_with_path(like)
        }
        for name in sorted(saved.keys() | expected.keys()):
            if saved.get(name) != expected.get(name):
                raise CheckpointError(
                    f"{name}: the checkpoint at step {step} in {self._directory} has shape "
                    f"{saved.get(name)}, the network needs {expected.get(name)}"
                )


@jax.jit
def _all_finite(state: TrainState) -> jax.Array:
    trees = (state.params, state.batch_stats, state.opt_state, state.average)
    finite = [jax.numpy.all(jax.numpy.isfinite(leaf)) for leaf in jax.tree.leaves(trees)]
    return jax.numpy.all(jax.numpy.stack(finite))


def _stored_shape(leaf: jax.Array) -> tuple[int, ...]:
    """A typed key is stored as its words."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return leaf.shape


def _name(path: tuple[Any, ...]) -> str:
    """A tree path as text, alike for attributes, dictionary keys and positions."""
    return ".".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def _flat(plain: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as one dictionary with dotted names."""
    if isinstance(plain, list | tuple):
        plain = {str(i): child for i, child in enumerate(plain)}
    if not isinstance(plain, Mapping):
        return {prefix: plain}
    return {
        name: value
        for key, child in plain.items()
        for name, value in _flat(child, f"{prefix}.{key}" if prefix else key).items()
    }
