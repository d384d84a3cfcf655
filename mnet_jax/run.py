"""One run, from config to result: data, model, steps, metrics, checkpoint, report."""

import importlib.metadata
import logging
import os
import platform
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax

import mnet_jax
from mnet_jax import data, ops, pretrained, serialization
from mnet_jax.analysis import cost
from mnet_jax.config import FILE_NAME as CONFIG_FILE
from mnet_jax.config import SPLIT_BY_POSITION, DataConfig, RunConfig
from mnet_jax.files import replace_file
from mnet_jax.keeping import RunDirectory, Timer, alone_in, model_keeper
from mnet_jax.program import Program, program_of
from mnet_jax.progress import ProgressCallback
from mnet_jax.result import RunResult
from mnet_jax.training import optimizer
from mnet_jax.training.agreement import require_alike
from mnet_jax.training.checkpoint import Checkpoints
from mnet_jax.training.divergence import DivergencePolicy
from mnet_jax.training.evaluation import Evaluation
from mnet_jax.training.loop import History, Loop
from mnet_jax.training.manifest import CHECKPOINTS
from mnet_jax.training.matching import saved_config
from mnet_jax.training.memory import exhaustion_explained
from mnet_jax.training.recipe import StaticRecipe
from mnet_jax.training.scalars import Scalars
from mnet_jax.training.step import TrainState
from mnet_jax.training.stopping import Stop
from mnet_jax.training.types import Keep
from mnet_jax.validation import require

_log = logging.getLogger(__name__)

# What changes the speed of a process from outside; a table that does not say so is worth little.
TUNABLES = ("XLA_FLAGS", "PJRT_NPROC", "GLIBC_TUNABLES", "OMP_NUM_THREADS", "LD_PRELOAD")


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What the processes of one run call it with, and the software they have."""

    mnet_jax: str
    jax: str
    config: RunConfig
    save_every_seconds: float
    keep: str


@dataclass(frozen=True, kw_only=True)
class _Images:
    """What the processes of one run see of its data set."""

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
    """Compares what all processes are about to call `run` with; each of them has to ask.

    Raises:
      DisagreementError: they differ; the message names the first field and both values.
    """
    call = _Call(
        mnet_jax=mnet_jax.__version__,
        jax=jax.__version__,
        config=config,
        save_every_seconds=save_every_seconds,
        keep=keep,
    )
    require_alike(call)


@exhaustion_explained("the run")
def run(
    config: RunConfig,
    directory: Path,
    *,
    dataset: data.Dataset | None = None,
    save_every_seconds: float = 0.0,
    keep: Keep = "last",
    stop: Stop | None = None,
    report: ProgressCallback = lambda progress: None,
) -> RunResult:
    """Trains, evaluates on the test split once, and returns what came out.

    A run that was cut off goes on from the last checkpoint in `directory`, which it has to itself.
    Where JAX runs in several processes (`jax.distributed`), each calls this with the same arguments
    and a directory that all of them see; they train one network, and return the same.

    Args:
      config: everything that determines the result.
      directory: for checkpoints, scalars, the model and, at the end, the config.
      dataset: the images, as `load_data` has read them for this config. If not given, they are
        read, and what a folder holds becomes part of the config (`DataConfig.listing`).
      save_every_seconds: how much work may be lost, within epochs too; 0 saves after every epoch
        and not within.
      keep: which weights `directory` has as a model when the run is over: the last, or those with
        the best validation accuracy of the checkpoints. The result is the last ones'.
      stop: what may tell the run to stop, to be gone on with by another call.
      report: called at every step.

    Raises:
      DisagreementError: the processes differ in what they call this with, or in what they see; all
        of them raise it.
      DirectoryInUseError: another run is at work in `directory`.
      DataError: the data set cannot be had.
      CheckpointError: `directory` holds another run.
      SavedModelError: the weights to start from are not there, or another network's.
      DivergenceError: the training diverged.
      OutOfMemoryError: the devices' memory does not hold the batch, or the host's the rest.
      SavingError: the checkpoints cannot be written.
      OSError: the rest cannot.
      StoppedError: `stop` said so; the run is saved.
    """
    require_one_run(config, save_every_seconds=save_every_seconds, keep=keep)
    with alone_in(directory):
        return _run(config, directory, dataset, save_every_seconds, keep, stop or Stop(), report)


def _run(
    config: RunConfig,
    directory: Path,
    dataset: data.Dataset | None,
    save_every_seconds: float,
    keep: Keep,
    stop: Stop,
    report: ProgressCallback,
) -> RunResult:
    """`run` in a directory of its own."""
    start = time.perf_counter()
    if dataset is None:
        dataset = load_data(config.data, directory)
        config = replace(config, data=replace(config.data, listing=dataset.listing))
    _require_its_own(dataset, config)
    require_alike(_Images.of(dataset))
    part = data.Shard(index=jax.process_index(), count=jax.process_count())
    batches = data.train_batches(dataset.train, config.data, config.seed, shard=part)
    program = program_of(
        config.spec,
        StaticRecipe.of(config.training),
        config.data.batch_size,
        config.data.resolution,
    )
    loop = _loop(program, config, data.steps_per_epoch(dataset.train, config.data))
    begin = partial(_first_state, program, loop, config)
    with stop.deferred(), Checkpoints(directory / CHECKPOINTS, config) as checkpoints:
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
                due=Timer(save_every_seconds),
                start=start,
            )
            state, history = loop.fit(
                loop.placement.put_state(state),
                batches,
                lambda: data.eval_batches(dataset.validation, config.data, shard=part),
                history,
                run_directory.callbacks(report, stop),
                progress,
            )
        best = checkpoints.best(begin()) if keep == "best" else None
        kept = best or loop.placement.get(state)
        run_directory.keep_model(kept.evaluated)  # an earlier call may have kept another, or none
    tested = data.eval_batches(dataset.test, config.data, shard=part)
    test = loop.evaluate(state, tested, "test", config.training.epochs, report)
    if jax.process_index() == 0:
        text = serialization.to_json(config) + "\n"
        replace_file(directory / CONFIG_FILE, text.encode())
    return _result(config, test, history, time.perf_counter() - start)


def load_data(images: DataConfig, directory: Path) -> data.Dataset:
    """The data set of a run, with the listing that its config is to have.

    Args:
      images: the data set.
      directory: of the run. If it holds a run of a folder from before the files of folders were
        listed, that goes on with the split it began with, and has no listing.

    Raises:
      DataError: the data set cannot be had.
    """
    checkpoints = directory / CHECKPOINTS
    saved = saved_config(checkpoints) if images.name == "folder" else None
    if saved and saved.data.name == "folder" and not saved.data.listing:
        _log.warning(
            "%s holds a run from before the files of a folder were listed: it goes on with its "
            "own test split, and whether files have changed since cannot be told",
            checkpoints,
        )
        return replace(data.load(replace(images, listing=SPLIT_BY_POSITION)), listing="")
    return data.load(images)


def _first_state(program: Program, loop: Loop, config: RunConfig) -> TrainState:
    """The state before the first step, where a checkpoint is restored to."""
    state = program.initial_state(config.seed, loop.hyperparams(1)[0])
    if config.pretrained:
        state = pretrained.started_from(config.pretrained, state, config.spec)
    return loop.placement.get(loop.placement.put_state(state))


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


def _loop(program: Program, config: RunConfig, steps_per_epoch: int) -> Loop:
    """The shared program with what is the run's own."""
    return Loop(
        train_step=program.train_step,
        eval_step=program.eval_step,
        placement=program.placement,
        hyperparams=optimizer.hyperparams(config.training, steps_per_epoch),
        divergence=DivergencePolicy(
            on_divergence=config.training.on_divergence,
            spike_factor=config.training.spike_factor,
        ),
        epochs=config.training.epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.data.batch_size,
    )


def _require_its_own(dataset: data.Dataset, config: RunConfig) -> None:
    """Raises ValueError if a data set is not the one that a config is for."""
    classes, listing = config.spec.head.num_classes, config.data.listing
    legal = f"the {dataset.num_classes} classes of {dataset.name}"
    require(classes == dataset.num_classes, "num_classes", classes, legal)
    require(listing == dataset.listing, "listing", listing, f"{dataset.listing}, as was read")
