"""A run from its config to its result: loads the data, trains, saves and evaluates."""

import functools
import importlib.metadata
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import mnet_jax
from mnet_jax import data, ops, serialization
from mnet_jax.analysis import cost
from mnet_jax.config import FILE_NAME as CONFIG_FILE
from mnet_jax.config import SPLIT_BY_POSITION, DataConfig, RunConfig, TrainingConfig
from mnet_jax.files import replace_file
from mnet_jax.models import MobileNet, SavedModel
from mnet_jax.runs import distillation, pretrained
from mnet_jax.runs.program import Program, program_of
from mnet_jax.runs.quantizing import (
    SOURCE,
    calibrated,
    oscillating_share,
    post_train,
    source_model,
    statistics_batches,
    training_of,
    with_new_statistics,
    with_values,
)
from mnet_jax.runs.run_directory import RunDirectory, Timer, directory_lock, model_keeper
from mnet_jax.training import optimizer
from mnet_jax.training.agreement import require_equal
from mnet_jax.training.checkpoints.checkpoint import Checkpoints
from mnet_jax.training.checkpoints.manifest import CHECKPOINTS
from mnet_jax.training.checkpoints.matching import require_same_config, saved_config
from mnet_jax.training.evaluation import Evaluation
from mnet_jax.training.hyperparameters import StaticRecipe, Teacher
from mnet_jax.training.loop import History, Loop
from mnet_jax.training.memory import explain_exhaustion
from mnet_jax.training.monitoring import DivergencePolicy, Scalars
from mnet_jax.training.results import ProgressCallback, RunResult
from mnet_jax.training.step import TrackedState, TrainState
from mnet_jax.training.stopping import Stop
from mnet_jax.training.types import Keep
from mnet_jax.validation import require

_log = logging.getLogger(__name__)

# Environment variables that change the speed of a process; results must state them.
TUNABLES = ("XLA_FLAGS", "PJRT_NPROC", "GLIBC_TUNABLES", "OMP_NUM_THREADS", "LD_PRELOAD")


@dataclass(frozen=True, kw_only=True)
class _Call:
    """The arguments and software versions that all processes of one run must share."""

    mnet_jax: str
    jax: str
    config: RunConfig
    save_every_seconds: float
    keep: str


@dataclass(frozen=True, kw_only=True)
class _Images:
    """The facts about the data set that all processes of one run must share."""

    train_images: int
    validation_images: int
    test_images: int
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: data.Dataset) -> "_Images":
        return cls(
            train_images=len(dataset.train),
            validation_images=len(dataset.validation),
            test_images=len(dataset.test),
            class_names=tuple(dataset.class_names),
        )


def require_one_run(config: RunConfig, *, save_every_seconds: float, keep: Keep) -> None:
    """Checks that all processes call `run` with equal arguments; a collective call.

    Raises:
      DisagreementError: the arguments differ; the message names the first field and both values.
    """
    call = _Call(
        mnet_jax=mnet_jax.__version__,
        jax=jax.__version__,
        config=config,
        save_every_seconds=save_every_seconds,
        keep=keep,
    )
    require_equal(call)


@explain_exhaustion("the run")
def run(
    config: RunConfig,
    directory: Path,
    *,
    dataset: data.Dataset | None = None,
    save_every_seconds: float = 0.0,
    keep: Keep = "last",
    stop: Stop | None = None,
    report: ProgressCallback = lambda progress: None,
    source_directory: Path | None = None,
) -> RunResult:
    """Trains or quantizes a network, evaluates it once on the test split, and returns the result.

    An interrupted run continues from the last checkpoint in `directory`; no other run may use this
    directory. If JAX runs in several processes (`jax.distributed`), each process calls this
    function with equal arguments and a shared directory. They train one network and return the same
    result.

    Args:
      config: everything that determines the result.
      directory: the directory for checkpoints, scalars, the model and, at the end, the config.
      dataset: the images, as returned by `load_data` for this config. If not given, they are read,
        and the listing of a folder becomes part of the config (`DataConfig.listing`).
      save_every_seconds: seconds between checkpoints, within epochs too. This bounds the work that
        a crash can lose. With 0, checkpoints are saved only at the ends of epochs.
      keep: the weights to keep as a model in `directory` at the end: the last, or those with the
        best validation accuracy among the checkpoints. The returned result is always
        that of the last weights.
      stop: checked for stop requests; a stopped run continues at the next call.
      report: called at every step.
      source_directory: the directory of the run `config.source`, whose network is quantized. The
        source is trained there first unless the directory has its model. The default is the
        directory `float` in `directory`.

    Raises:
      DisagreementError: the processes differ in their arguments or in what they read; all raise it.
      DirectoryInUseError: another run uses `directory`.
      DataError: the data set is missing or damaged.
      CheckpointError: `directory` holds another run.
      SavedModelError: the weights to start from are missing, or another network's.
      DivergenceError: the training diverged.
      OutOfMemoryError: the batch does not fit into the devices' memory, or the host is out of
        memory.
      SavingError: a checkpoint cannot be written.
      OSError: another file cannot be written.
      StoppedError: a stop was requested; the run is saved.
    """
    require_one_run(config, save_every_seconds=save_every_seconds, keep=keep)
    with directory_lock(directory):
        if dataset is None:
            dataset = load_data(config.data, directory)
            config = replace(config, data=replace(config.data, listing=dataset.listing))
        _require_its_own(dataset, config)
        require_equal(_Images.of(dataset))
        settings = _Settings(
            dataset=dataset,
            save_every_seconds=save_every_seconds,
            keep=keep,
            stop=stop or Stop(),
            report=report,
        )
        return _run(config, directory, source_directory or directory / SOURCE, settings)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The arguments of `run` that a run and its source share; see `run`."""

    dataset: data.Dataset
    save_every_seconds: float
    keep: Keep
    stop: Stop
    report: ProgressCallback


def _run(
    config: RunConfig, directory: Path, source_directory: Path, settings: _Settings
) -> RunResult:
    """Does the work of `run`, in a locked directory."""
    checkpoints = directory / CHECKPOINTS
    if config.quantization and (saved := saved_config(checkpoints)):
        require_same_config(config, serialization.to_plain(saved), checkpoints)
    source = None
    if config.source:
        train_source = partial(_train_source, config.source, source_directory, settings)
        source = source_model(config.source, source_directory, train_source, settings.report)
    if source and config.quantization and not config.quantization.trains:
        result = post_train(config, source, directory, settings.dataset, settings.report)
    else:
        result = _train(config, directory, source, settings)
    if jax.process_index() == 0:
        text = serialization.to_json(config) + "\n"
        replace_file(directory / CONFIG_FILE, text.encode())
    return result


def _train_source(source: RunConfig, directory: Path, settings: _Settings) -> None:
    """Trains the network that another run quantizes."""
    with directory_lock(directory):
        _run(source, directory, directory / SOURCE, settings)


def _train(
    config: RunConfig, directory: Path, source: SavedModel | None, settings: _Settings
) -> RunResult:
    """Trains a network, from random weights or those of a saved model."""
    start = time.perf_counter()
    dataset, training = settings.dataset, training_of(config)
    part = data.Shard(index=jax.process_index(), count=jax.process_count())
    batches = data.train_batches(dataset.train, config.data, config.seed, shard=part)
    network, teacher = _teacher(config, dataset)
    program = _program(config, training, network)
    steps_per_epoch = data.steps_per_epoch(dataset.train, config.data)
    loop = _loop(program, config, training, steps_per_epoch, teacher)
    begin = _beginning(program, loop, config, source, dataset)
    with settings.stop.deferred(), Checkpoints(directory / CHECKPOINTS, config) as checkpoints:
        state, history, seconds, progress = checkpoints.restore(begin(), batches)
        start -= seconds
        with Scalars(directory, from_step=history[-1].step if history else 0) as log:
            run_directory = RunDirectory(
                loop=loop,
                batches=batches,
                begin=begin,
                checkpoints=checkpoints,
                log=log,
                keep_model=model_keeper(config, dataset, directory),
                save_timer=Timer(settings.save_every_seconds),
                start=start,
            )
            state, history = loop.fit(
                loop.placement.put_state(state),
                batches,
                lambda: data.eval_batches(dataset.validation, config.data, shard=part),
                history,
                run_directory.callbacks(settings.report, settings.stop),
                progress,
            )
        best = checkpoints.best(begin()) if settings.keep == "best" else None
        state, kept = (
            _final(program, config, dataset, s) for s in (loop.placement.get(state), best)
        )
        # An earlier call may have kept other weights.
        run_directory.keep_model((kept or state).evaluated)
    state = loop.placement.put_state(state)
    tested = data.eval_batches(dataset.test, config.data, shard=part)
    test = loop.evaluate(state, tested, "test", training.epochs, settings.report)
    result = _result(config, test, history, time.perf_counter() - start)
    if isinstance(state, TrackedState):
        return replace(result, oscillating=oscillating_share(state))
    return result


def _teacher(config: RunConfig, dataset: data.Dataset) -> tuple[MobileNet | None, Teacher | None]:
    """Returns the network of the config's teacher and its variables; None twice without one."""
    if config.distillation is None:
        return None, None
    return distillation.read_teacher(config.distillation, config.data, dataset)


def _program(config: RunConfig, training: TrainingConfig, teacher: MobileNet | None) -> Program:
    quantization = config.quantization
    return program_of(
        config.spec,
        StaticRecipe.of(training),
        config.data.batch_size,
        config.data.resolution,
        quantization.setting if quantization else None,
        dampens=bool(quantization and quantization.dampening),
        teacher=teacher,
    )


def _final(program: Program, config: RunConfig, dataset: data.Dataset, state: Any) -> Any:
    """Returns a trained state, with recomputed running statistics if the run quantizes.

    If `state` is None, the result is None.
    """
    if state is None or config.quantization is None:
        return state
    return with_new_statistics(state, program.model, statistics_batches(dataset.train, config))


def load_data(images: DataConfig, directory: Path) -> data.Dataset:
    """Loads the data set of a run.

    The run's config must have the same `listing` as the data set that is returned.

    Args:
      images: the config of the data set.
      directory: the run's directory. If an earlier version, which had no listings, started this run
        on a folder of images, the run keeps its test split and an empty listing.

    Raises:
      DataError: the data set is missing or damaged.
    """
    checkpoints = directory / CHECKPOINTS
    saved = saved_config(checkpoints) if images.name == "folder" else None
    if saved and saved.data.name == "folder" and not saved.data.listing:
        _log.warning(
            "%s holds a run of an earlier version, which did not list the files of a folder: it "
            "continues with its own test split, and changed files cannot be detected",
            checkpoints,
        )
        return replace(data.load(replace(images, listing=SPLIT_BY_POSITION)), listing="")
    return data.load(images)


def _beginning(
    program: Program,
    loop: Loop,
    config: RunConfig,
    source: SavedModel | None,
    dataset: data.Dataset,
) -> Callable[[], TrainState]:
    """Returns a function that makes the state before the first step.

    Checkpoints are restored into the structure of this state.
    """

    def initial() -> TrainState:
        first = loop.hyperparams(1)[0]._replace(teacher=None)
        state = program.initial_state(config.seed, first)
        if config.pretrained and not source:
            return pretrained.initialize_from(config.pretrained, state, config.spec)
        return state

    @functools.cache  # calibration takes longer than all else here
    def quantized_values() -> Mapping[str, Any]:
        variables = source.variables if source else initial().values
        return calibrated(program.model, variables, config, dataset.train)

    def begin() -> TrainState:
        state = initial()
        if config.quantization:
            copies = jax.tree.map(jnp.copy, quantized_values())  # a step donates the state
            state = with_values(state, program.model, copies)
        return loop.placement.get(loop.placement.put_state(state))

    return begin


def _result(config: RunConfig, test: Evaluation, history: History, seconds: float) -> RunResult:
    expense = cost.count(config.spec, config.data.resolution)
    return RunResult(
        params=expense.params,
        madds=expense.madds,
        test_loss=test.loss,
        test_accuracy=test.accuracy,
        test_count=test.count,
        history=history,
        images_per_second=statistics.median(record.images_per_second for record in history),
        seconds=seconds,
    )


def environment() -> dict[str, str]:
    """Returns the software versions and devices that determine this process's results."""
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


def _loop(
    program: Program,
    config: RunConfig,
    training: TrainingConfig,
    steps_per_epoch: int,
    teacher: Teacher | None,
) -> Loop:
    """Combines the shared program with the run's own settings."""
    penalty = config.quantization.dampening if config.quantization else 0.0
    of_epoch = optimizer.hyperparams(training, steps_per_epoch, penalty=penalty)
    if teacher and training.parallel == "jit":  # pmap itself copies arguments to its devices
        variables = program.placement.put_state(teacher.variables)
        teacher = teacher._replace(variables=variables)
    return Loop(
        train_step=program.train_step,
        eval_step=program.eval_step,
        placement=program.placement,
        hyperparams=lambda epoch: [h._replace(teacher=teacher) for h in of_epoch(epoch)],
        divergence=DivergencePolicy(
            on_divergence=training.on_divergence,
            spike_factor=training.spike_factor,
        ),
        epochs=training.epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.data.batch_size,
    )


def _require_its_own(dataset: data.Dataset, config: RunConfig) -> None:
    """Raises ValueError if a data set does not match a config."""
    classes, listing = config.spec.head.num_classes, config.data.listing
    legal = f"the {dataset.num_classes} classes of {dataset.name}"
    require(classes == dataset.num_classes, "num_classes", classes, legal)
    require(listing == dataset.listing, "listing", listing, f"{dataset.listing}, as was read")
