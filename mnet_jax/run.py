"""One run, from config to result: data, model, steps, metrics, checkpoint, report."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

import mnet_jax
from mnet_jax import data, models, ops, pretrained, serialization
from mnet_jax.analysis import cost
from mnet_jax.architectures import NetworkSpec
from mnet_jax.config import FILE_NAME as CONFIG_FILE
from mnet_jax.config import RunConfig
from mnet_jax.files import replace_file
from mnet_jax.program import Program, program_of
from mnet_jax.result import EpochRecord, RunResult
from mnet_jax.training import optimizer
from mnet_jax.training.agreement import any_says
from mnet_jax.training.checkpoint import Checkpoints
from mnet_jax.training.divergence import Guard
from mnet_jax.training.epoch import Begun
from mnet_jax.training.loop import History, Keeping, Loop, Report
from mnet_jax.training.memory import exhaustion_explained
from mnet_jax.training.recipe import Structure
from mnet_jax.training.scalars import Scalars
from mnet_jax.training.step import TrainState
from mnet_jax.training.stopping import Stop

Keep = Literal["last", "best"]

# What changes the speed of a process from outside; a table that does not say so is worth little.
TUNABLES = ("XLA_FLAGS", "PJRT_NPROC", "GLIBC_TUNABLES", "OMP_NUM_THREADS", "LD_PRELOAD")


@exhaustion_explained("the run")
def run(
    config: RunConfig,
    directory: Path,
    *,
    save_every_seconds: float = 0.0,
    keep: Keep = "last",
    stop: Stop | None = None,
    report: Report = lambda progress: None,
) -> RunResult:
    """Trains, evaluates on the test split once, and returns what came out.

    A run that was cut off goes on from the last checkpoint in `directory`. Where JAX runs in
    several processes (`jax.distributed`), each calls this with the same arguments and a directory
    that all of them see; they train one network, and return the same.

    Args:
      config: everything that determines the result.
      directory: for checkpoints, scalars, the model and, at the end, the config.
      save_every_seconds: how much work may be lost, within epochs too; 0 saves after every epoch
        and not within.
      keep: which weights `directory` has as a model when the run is over: the last, or those with
        the best validation accuracy of the checkpoints. The result is the last ones'.
      stop: what may tell the run to stop, to be gone on with by another call.
      report: called at every step.

    Raises:
      DataError: the data set cannot be had.
      CheckpointError: `directory` holds another run.
      SavedModelError: the weights to start from are not there, or another network's.
      DivergenceError: the training diverged.
      OutOfMemoryError: the devices' memory does not hold the batch, or the host's the rest.
      SavingError: the checkpoints cannot be written.
      OSError: the rest cannot.
      StoppedError: `stop` said so; the run is saved.
    """
    start = time.perf_counter()
    dataset = data.load(config.data)
    _require_classes(dataset, config.spec)
    part = data.Shard(index=jax.process_index(), count=jax.process_count())
    epochs = config.training.epochs
    batches = data.train_batches(dataset.train, config.data, config.seed, epochs=epochs, shard=part)
    program = program_of(
        config.spec, Structure.of(config.training), config.data.batch_size, config.data.resolution
    )
    loop = _loop(program, config, data.steps_per_epoch(dataset.train, config.data))
    stop = stop or Stop()

    def beginning() -> TrainState:
        state = program.initial_state(config.seed, loop.numbers(1)[0])
        if config.pretrained:
            state = pretrained.started_from(config.pretrained, state, config.spec)
        placed = loop.placement.put_state(state)
        return loop.placement.get(placed)  # a checkpoint is restored to where this lies

    state, begun = beginning(), Begun()
    history: History = ()
    with stop.deferred(), Checkpoints(directory / "checkpoints", config) as checkpoints:
        restored = checkpoints.restore(state, batches)
        if restored:
            state, history, seconds, begun = restored
            start -= seconds
        with Scalars(directory, from_step=history[-1].step if history else 0) as log:
            keeper = _Keeper(
                loop=loop,
                batches=batches,
                beginning=beginning,
                checkpoints=checkpoints,
                log=log,
                keep_model=_model_keeper(config, dataset, directory),
                due=_Timer(save_every_seconds),
                start=start,
            )
            state, history = loop.fit(
                loop.placement.put_state(state),
                batches,
                lambda: data.eval_batches(dataset.validation, config.data, shard=part),
                history,
                keeper.keeping(stop),
                report,
                begun,
            )
        if keep == "best" and (best := checkpoints.best(beginning())):
            keeper.keep_model(best.evaluated)
    tested = data.eval_batches(dataset.test, config.data, shard=part)
    test = loop.evaluate(state, tested, "test", epochs, report)
    if jax.process_index() == 0:
        text = serialization.to_json(config) + "\n"
        replace_file(directory / CONFIG_FILE, text.encode())
    expense = cost.count(config.spec, config.data.resolution)
    return RunResult(
        params=expense.params,
        madds=expense.madds,
        test_loss=test.loss,
        test_accuracy=test.accuracy,
        test_count=test.count,
        history=history,
        images_per_second=statistics.median(record.images_per_second for record in history),
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True, kw_only=True)
class _Keeper:
    """What a run leaves in its directory while it goes on.

    Attributes:
      loop: that it follows.
      batches: the data, whose position is saved with the state.
      beginning: makes the state before the first step, by which checkpoints are read.
      checkpoints, log: where things go.
      keep_model: keeps the variables that are evaluated.
      due: whether it is time to save.
      start: when the run would have begun if it had not been cut off, by `perf_counter`.
    """

    loop: Loop
    batches: Any
    beginning: Callable[[], TrainState]
    checkpoints: Checkpoints
    log: Scalars
    keep_model: Callable[[Mapping[str, Any]], None]
    due: "_Timer"
    start: float

    def keeping(self, stop: Stop) -> Keeping:
        """What the loop calls."""
        return Keeping(
            on_epoch=self.on_epoch,
            save=self.save,
            due=lambda: self.due.seconds > 0 and self.due.passed(),
            go_back=self.go_back,
            stop=stop,
        )

    def save(self, state: TrainState, history: History, begun: Begun) -> None:
        """Saves the run, within an epoch or behind it."""
        elapsed, state = time.perf_counter() - self.start, self.loop.placement.get(state)
        self.checkpoints.save(state, self.batches, history, elapsed, begun)

    def on_epoch(self, state: TrainState, history: History, begun: Begun) -> None:
        """Writes an epoch's scalars, and if it is time or the last one all the rest."""
        self.log.write(history[-1].step, _scalars_of(history[-1]))
        is_over = len(history) == self.loop.epochs
        if self.due.passed() or is_over or self.loop.guard.on_divergence == "rollback":
            self.save(state, history, begun)
            self.keep_model(self.loop.placement.get(state.evaluated))

    def go_back(self, step: int) -> tuple[TrainState, Begun]:
        """What was saved behind that step, an epoch's last."""
        found = self.checkpoints.go_back(step, self.beginning())
        return self.loop.placement.put_state(found.state), found.begun


def _model_keeper(
    config: RunConfig, dataset: data.Dataset, directory: Path
) -> Callable[[Mapping[str, Any]], None]:
    """A function that keeps the evaluated weights as a model that loads by itself."""
    model = models.MobileNet(spec=config.spec)
    photographs = dataset.test.shape is None
    view = models.View(
        resolution=config.data.resolution, photographs=photographs, scaling=config.data.scaling
    )

    def keep(variables: Mapping[str, Any]) -> None:
        if jax.process_index() > 0:
            return  # the first of several processes keeps it
        models.save(
            directory / models.FILE_NAME,
            model,
            variables,
            class_names=dataset.class_names,
            view=view,
        )

    return keep


def environment() -> dict[str, str]:
    """The software and the devices that this process's results come from."""
    devices = jax.devices()
    tunables = {name: os.environ[name] for name in TUNABLES if name in os.environ}
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")}
    return {
        "mnet_jax": mnet_jax.__version__,
        **versions,
        "python": platform.python_version(),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "processor": f"{os.cpu_count()} x {platform.machine()}",
        "convolutions": ops.best_lowering(),
        **tunables,
    }


class _Timer:
    """Says when an interval has passed since it last said so, to all processes at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.perf_counter()

    def passed(self) -> bool:
        now = time.perf_counter()
        if not any_says(now - self._last >= self.seconds):
            return False
        self._last = now
        return True


def _loop(program: Program, config: RunConfig, steps_per_epoch: int) -> Loop:
    """The shared program with what is the run's own."""
    return Loop(
        train_step=program.train_step,
        eval_step=program.eval_step,
        placement=program.placement,
        numbers=optimizer.numbers(config.training, steps_per_epoch),
        guard=Guard(
            on_divergence=config.training.on_divergence,
            spike_factor=config.training.spike_factor,
        ),
        epochs=config.training.epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.data.batch_size,
    )


def _require_classes(dataset: Any, spec: NetworkSpec) -> None:
    if dataset.num_classes != spec.head.num_classes:
        raise ValueError(
            f"num_classes: got {spec.head.num_classes}, legal: the {dataset.num_classes} classes "
            f"of {dataset.name}"
        )


def _scalars_of(record: EpochRecord) -> dict[str, float]:
    names = (
        "epoch", "learning_rate", "train_loss", "train_accuracy",
        "validation_loss", "validation_accuracy", "images_per_second", "dead_share",
    )  # fmt: skip
    return {name: getattr(record, name) for name in names}
