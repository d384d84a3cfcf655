"""Monitoring of a run: its divergence, its dead channels, and logs of its scalars.

Divergence is a loss or gradient that is not finite, or a loss that spikes. A channel is dead if its
output is the same for every image. Scalars are logged by step: as JSON, one object per line, and as
TensorBoard event files.
"""

import json
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnet_jax.files import read_file, replace_file
from mnet_jax.training.hyperparameters import Hyperparameters
from mnet_jax.training.step import Tree
from mnet_jax.training.types import OnDivergence
from mnet_jax.validation import is_number, is_whole


class DivergenceError(FloatingPointError):
    """Training has diverged and stops; the message is one line with the step.

    Attributes:
      step: the step with the bad loss, gradient or state, counted from 1.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step = step


class NonFiniteError(DivergenceError):
    """A loss, a gradient or a state is not finite."""


class NonFiniteStateError(NonFiniteError):
    """A state that is about to be saved is not finite; this always stops the run.

    A rollback would make the result depend on when the state happens to be saved.
    """


class SpikeError(DivergenceError):
    """A loss is far above the losses before it."""


WINDOW = 100  # the number of previous losses that a loss is compared with
MIN_LOSSES = 10  # the least number of previous losses for a comparison
MOST_SKIPPED = 10  # the most updates that are skipped in a row
MOST_ROLLBACKS = 3  # the most rollbacks of a run


@dataclass(frozen=True, kw_only=True)
class DivergencePolicy:
    """The definition of divergence and the reaction to it; fields as in `TrainingConfig`."""

    on_divergence: OnDivergence = "halt"
    spike_factor: float = 0.0

    @property
    def checks_every_step(self) -> bool:
        """Whether each step is checked before the next step starts; the device waits for the check.

        True if divergence is rolled back or spikes are detected. Otherwise the result of such a run
        would depend on when a step happens to be checked.
        """
        return self.on_divergence == "rollback" or self.spike_factor > 0

    def limit(self, losses: Sequence[float]) -> float:
        """Returns the limit above which the next loss is a spike; infinite if there is none."""
        if not self.spike_factor or len(losses) < MIN_LOSSES:
            return float("inf")
        return float(np.float32(self.spike_factor * statistics.median(losses[-WINDOW:])))

    def hyperparams(self, hyperparams: Hyperparameters, limit: float) -> Hyperparameters:
        """Returns a step's hyperparameters, with the loss limit if the step skips spikes itself."""
        if self.on_divergence == "skip" and self.spike_factor:
            return hyperparams._replace(loss_limit=np.float32(limit))
        return hyperparams


_DEAD_DEVIATION = 1e-3  # standard deviation after normalization; about 1 for a live channel
DEAD_WARNING_SHARE = 0.25  # share of dead channels above which a run warns
_MOST_EPSILON = 1e-3  # added to variances: the largest value of the dialects


def dead_share(values: Tree) -> float:
    """Returns the share of depthwise channels that are dead; 0 if no layer is depthwise.

    A ReLU that is never above zero passes on neither its input nor a gradient. This is the V2
    paper's reason for linear bottlenecks (arXiv 1801.04381, section 3.2). A depthwise layer does
    not mix channels. If a channel's input is always zero, or the channel's kernel or scale has
    become zero, the channel's standard deviation over the training images after normalization is
    close to zero. The statistics of the normalization show this, so no forward pass is needed.

    Args:
      values: `params` and `batch_stats`, as in `TrainState.values`.
    """
    deviations = [
        np.abs(np.asarray(params["norm"]["scale"]))
        * _normalized_deviation(np.asarray(stats["norm"]["var"]))
        for params, stats in _depthwise_layers(values["params"], values["batch_stats"])
    ]
    return float(np.mean(np.concatenate(deviations) < _DEAD_DEVIATION)) if deviations else 0.0


def _normalized_deviation(variance: np.ndarray) -> np.ndarray:
    """Returns a channel's standard deviation after normalization, before the learned scale."""
    return np.sqrt(variance / (variance + _MOST_EPSILON))


def _depthwise_layers(
    params: Mapping[str, Any], stats: Mapping[str, Any]
) -> Iterator[tuple[Any, Any]]:
    """Yields parameters and statistics of the layers with a depthwise kernel [kh, kw, c]."""
    for name, inner in params.items():
        if not isinstance(inner, Mapping):
            continue
        kernel = inner["conv"].get("kernel") if "conv" in inner and "norm" in inner else None
        if kernel is not None and kernel.ndim == 3:
            yield inner, stats[name]
        elif name in stats:
            yield from _depthwise_layers(inner, stats[name])


SCALARS_FILE = "scalars.jsonl"


class Scalars:
    """Logs scalars into a directory; a resumed run removes the lines of steps that it will repeat.

    Use this class as a context manager, which closes the files. If a run has several processes,
    only the first process writes.

    Attributes:
      path: the JSON lines, `{"step": 11, "train_loss": 1.5, ...}`.
    """

    def __init__(self, directory: Path, *, from_step: int) -> None:
        """Opens the files.

        Args:
          directory: the directory of the logs; created if missing.
          from_step: number of steps already taken. Lines of later steps are removed; they were
            written before the run was interrupted and resumed from an earlier checkpoint.
            Unreadable lines are removed too, with a warning.

        Raises:
          OSError: the files cannot be written, or something other than a file has their name.
        """
        self.path = directory / SCALARS_FILE
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        directory.mkdir(parents=True, exist_ok=True)
        kept = [line for step, line in _readable(self.path) if step <= from_step]
        replace_file(self.path, b"".join(kept))  # atomic: a kill leaves the old or the new file
        # Here, as it imports PyTorch where that is installed: only runs that log wait for it.
        from tensorboardX import SummaryWriter

        self._file = self.path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of one step, in the order of `values`."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writes:
            self._file.close()
            self._events.close()


def _readable(path: Path) -> list[tuple[int, bytes]]:
    """Returns (step, line) for each line that `Scalars` wrote; warns if there are other lines.

    A kill may have truncated the last line, and a power failure can leave NULs.
    """
    if not path.exists():
        return []
    lines = read_file(path).splitlines(keepends=True)
    steps = [_step_of(line) for line in lines]
    readable = [(step, line) for step, line in zip(steps, lines, strict=True) if step is not None]
    if dropped := len(lines) - len(readable):
        warnings.warn(
            f"{path}: {dropped} of {len(lines)} lines cannot be read and are dropped", stacklevel=3
        )
    return readable


def _step_of(line: bytes) -> int | None:
    """Returns the step of a line; None if `Scalars` did not write the line."""
    try:
        values = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(values, dict):
        return None
    step = values.get("step")
    return step if is_whole(step) and all(map(is_number, values.values())) else None
