"""One run, from config to result: data, model, steps, metrics, checkpoint, report."""

import importlib.metadata
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import mnet_jax
from mnet_jax import data, models, ops, pretrained
from mnet_jax.analysis import cost
from mnet_jax.architectures import NetworkSpec
from mnet_jax.config import RunConfig
from mnet_jax.result import EpochRecord, RunResult
from mnet_jax.training import optimizer
from mnet_jax.training.agreement import any_says
from mnet_jax.training.checkpoint import Checkpoints
from mnet_jax.training.divergence import Guard
from mnet_jax.training.epoch import Begun
from mnet_jax.training.loop import History, Keeping, Loop, Report
from mnet_jax.training.memory import FittingStep, exhaustion_explained
from mnet_jax.training.placement import BATCH_AXIS, Placement, placement
from mnet_jax.training.recipe import Numbers, Structure
from mnet_jax.training.scalars import Scalars
from mnet_jax.training.step import (
    EvalStep,
    TrainState,
    TrainStep,
    initial_state,
    make_eval_step,
    make_train_step,
)
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
      directory: for checkpoints and scalars.
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
      StoppedError: `stop` said so; the run is saved.
    """
    start = time.perf_counter()
    dataset = data.load(config.data)
    _require_classes(dataset, config.spec)
    part = data.Shard(index=jax.process_index(), count=jax.process_count())
    epochs = config.training.epochs
    batches = data.train_batches(dataset.train, config.data, config.seed, epochs=epochs, shard=part)
    program = _program(
        config.spec, Structure.of(config.training), config.data.batch_size, config.data.resolution
    )
    loop = _loop(program, config, data.steps_per_epoch(dataset.train, config.data))
    place, stop = loop.placement, stop or Stop()
    keep_model = _keeper(config, dataset, directory)

    def beginning() -> TrainState:
        state = program.initial_state(config.seed, loop.numbers(1)[0])
        if config.pretrained:
            state = pretrained.started_from(config.pretrained, state, config.spec)
        return place.get(place.put_state(state))  # a checkpoint is restored to where this lies

    state, begun = beginning(), Begun()
    history: History = ()
    with stop.deferred(), Checkpoints(directory / "checkpoints", config) as checkpoints:
        restored = checkpoints.restore(state, batches)
        if restored:
            state, history, seconds, begun = restored
            start -= seconds
        whole = history[-1].step if history else 0
        with Scalars(directory, from_step=whole) as log:
            due = _Timer(save_every_seconds)

            def save(state: TrainState, history: History, begun: Begun) -> None:
                elapsed = time.perf_counter() - start
                checkpoints.save(place.get(state), batches, history, elapsed, begun)

            def on_epoch(state: TrainState, history: History, begun: Begun) -> None:
                log.write(history[-1].step, _scalars_of(history[-1]))
                is_over = len(history) == epochs
                if due.passed() or is_over or loop.guard.on_divergence == "rollback":
                    save(state, history, begun)
                    keep_model(place.get(state.evaluated))

            def go_back(step: int) -> tuple[TrainState, Begun]:
                found = checkpoints.go_back(step, beginning())
                return place.put_state(found.state), found.begun

            keeping = Keeping(
                on_epoch=on_epoch,
                save=save,
                due=lambda: save_every_seconds > 0 and due.passed(),
                go_back=go_back,
                stop=stop,
            )
            state, history = loop.fit(
                place.put_state(state),
                batches,
                lambda: data.eval_batches(dataset.validation, config.data, shard=part),
                history,
                keeping,
                report,
                begun,
            )
        if keep == "best" and (best := checkpoints.best(beginning())):
            keep_model(best.evaluated)
    tested = data.eval_batches(dataset.test, config.data, shard=part)
    test = loop.evaluate(state, tested, "test", epochs, report)
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


def _keeper(
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
        self._seconds = seconds
        self._last = time.perf_counter()

    def passed(self) -> bool:
        now = time.perf_counter()
        if not any_says(now - self._last >= self._seconds):
            return False
        self._last = now
        return True


@dataclass(frozen=True, kw_only=True)
class _Program:
    """What runs share that differ in seeds and numbers: the compiled functions."""

    initial_state: Callable[[int, Numbers], TrainState]
    train_step: TrainStep
    eval_step: EvalStep
    placement: Placement


@lru_cache(maxsize=8)  # trials that share a program need not follow each other in a sweep
def _program(spec: NetworkSpec, structure: Structure, batch_size: int, resolution: int) -> _Program:
    """The functions, compiled once in a process for all seeds and numbers."""
    accumulate, norm_groups = structure.accumulate, structure.norm_groups
    place = placement(
        structure.parallel, batch_size, accumulate=accumulate, norm_groups=norm_groups
    )
    axis_name = BATCH_AXIS if structure.parallel == "pmap" else None
    model = models.MobileNet(
        spec=spec,
        dtype=jnp.dtype(structure.precision),
        lowering=ops.best_lowering() if structure.lowering == "auto" else structure.lowering,
        axis_name=axis_name if norm_groups == 1 else None,
        frozen=structure.frozen,
        remat=structure.remat,
    )
    parts = ["stem", *(f"block_{i}" for i in range(len(spec.blocks))), "head"]
    update = optimizer.make(structure, parts)
    train_step = make_train_step(
        model.apply,
        update,
        axis_name=axis_name,
        skips=structure.skips,
        accumulate=accumulate,
        norm_groups=norm_groups,
    )
    eval_step = make_eval_step(model.apply, axis_name=axis_name, accumulate=accumulate)
    return _Program(
        initial_state=_initializer(model, update, resolution, averages=structure.averages),
        train_step=FittingStep(
            place.compile_train(train_step),
            place.resized,
            batch_size,
            multiple=accumulate * math.lcm(place.devices, norm_groups),
        ),
        eval_step=place.compile_eval(eval_step),
        placement=place,
    )


def _loop(program: _Program, config: RunConfig, steps_per_epoch: int) -> Loop:
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


def run_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys that a run makes of its seed's: of the first weights, and of dropout and mixing."""
    init_key, dropout_key = jax.random.split(key)
    return init_key, dropout_key


def _initializer(
    model: models.MobileNet,
    update: Callable[[Numbers], optax.GradientTransformation],
    resolution: int,
    *,
    averages: bool,
) -> Callable[[int, Numbers], TrainState]:
    """A function from the seed and the numbers to the first state, compiled once.

    It runs once a trial and draws dozens of random arrays, each of which XLA takes longer to
    optimize than to compute: without optimization it is there in a third of the time.
    """

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def state_of(key: jax.Array, numbers: Numbers) -> TrainState:
        image = jnp.zeros((1, resolution, resolution, 3))
        init_key, dropout_key = run_keys(key)
        variables = model.init(init_key, image, train=False)
        state = initial_state(variables, update(numbers), dropout_key)
        return state.averaging() if averages else state

    return lambda seed, numbers: state_of(jax.random.key(seed), numbers)


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
