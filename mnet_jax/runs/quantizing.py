"""Parts of a run that quantizes a network: its start, calibration, statistics and evaluation.

The network in floating point comes from the float run: the run with the config `RunConfig.source`.
If `source` is None, the weights are those of a pretrained model.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax import data, models, ops, quantization, serialization
from mnet_jax.analysis import cost
from mnet_jax.config import FILE_NAME as CONFIG_FILE
from mnet_jax.config import TRIAL_LOCK, Cosine, RunConfig, TrainingConfig
from mnet_jax.data.sources import subset
from mnet_jax.files import locked, make_directory, read_file
from mnet_jax.models import SavedModel
from mnet_jax.quantization import qat
from mnet_jax.runs.run_directory import WITHOUT_LOCKS, model_keeper
from mnet_jax.training.agreement import any_process
from mnet_jax.training.evaluation import Evaluation, evaluate
from mnet_jax.training.placement import BATCH_AXIS, placement
from mnet_jax.training.results import EpochRecord, Phase, Progress, ProgressCallback, RunResult
from mnet_jax.training.step import TrackedState, TrainState, make_eval_step

SOURCE = "float"  # directory, in a run's directory, of the run in floating point
WAITING_SECONDS = 1.0  # between two reports of a run that waits for its source
STATISTICS_IMAGES = 2048  # from which statistics are re-estimated after `qat`
STATISTICS_BATCH = 64  # the most images at a time

Variables = Mapping[str, Any]


def training_of(config: RunConfig) -> TrainingConfig:
    """Returns the settings of a run's own training, not of its float run.

    These are `config.training`. For quantization-aware training after a float run, the epochs, the
    learning rate, the schedule and the warm-up are replaced.
    """
    settings = config.quantization
    if settings is None or not settings.trains or config.source is None:
        return config.training
    return replace(
        config.training,
        epochs=settings.qat_epochs,
        learning_rate=settings.qat_learning_rate,
        schedule=Cosine(),
        warmup_epochs=0.0,
    )


def source_model(
    source: RunConfig,
    directory: Path,
    train: Callable[[], object],
    report: ProgressCallback = lambda progress: None,
) -> SavedModel:
    """Returns the network of a float run, after training the network if `directory` lacks it.

    Several runs can share a source: one of them trains it, and the others wait. The lock is that of
    a trial, so they also wait for the trial that trains this network for itself.

    Args:
      source: the config of the float run.
      directory: the directory of the float run.
      train: trains the float run, so that its model is in `directory`.
      report: called again and again while another run trains the network.

    Raises:
      SavedModelError: the model cannot be read.
    """
    with contextlib.ExitStack() as held:
        if jax.process_index() == 0:  # the others wait for it in the collective call
            make_directory(directory)
            _wait_for_lock(directory / TRIAL_LOCK, held, report)
        if any_process(not _is_finished(source, directory)):
            train()
    return models.load(directory)


def _wait_for_lock(path: Path, held: contextlib.ExitStack, report: ProgressCallback) -> None:
    """Enters the lock of a file into `held`, and reports once a second while others have it."""
    while True:
        try:
            held.enter_context(locked(path, wait=False))
            return
        except BlockingIOError:
            report(Progress(phase="waiting", epoch=1, epochs=1, step=0))
            time.sleep(WAITING_SECONDS)
        except (ImportError, OSError) as error:  # `directory_lock` warns of it
            if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
                raise
            return


def _is_finished(config: RunConfig, directory: Path) -> bool:
    """Returns whether a directory has the model of a finished run with this config."""
    try:
        kept = serialization.from_json(RunConfig, read_file(directory / CONFIG_FILE).decode())
    except (OSError, ValueError):
        return False
    return kept == config and (directory / models.FILE_NAME).exists()


def statistics_batches(source: data.Source, config: RunConfig) -> list[np.ndarray]:
    """Returns batches [b, h, w, 3], all of one size, to recompute running statistics from.

    The images are augmented as in training, because the weights were trained with the statistics of
    such images. Images are not mixed with each other (mixup, CutMix).
    """
    settings = config.data
    at_a_time = settings.batch_size // config.training.accumulate
    settings = replace(settings, batch_size=min(at_a_time, STATISTICS_BATCH))
    count = max(min(STATISTICS_IMAGES, len(source)) // settings.batch_size, 1)
    batches = data.train_batches(source, settings, config.seed)
    return [batch["image"] for batch in itertools.islice(batches, count)]


def calibration_batches(
    source: data.Source, config: RunConfig, images: int
) -> Iterator[np.ndarray]:
    """Yields batches [b, h, w, 3] of training images, prepared as in evaluation.

    The images are evenly spaced in the split.

    Args:
      source: the training split.
      config: the config of the run.
      images: the number of images; a smaller split is used whole.
    """
    chosen = evenly_spaced(source, images)
    settings = replace(config.data, batch_size=min(config.data.batch_size, len(chosen)))
    for batch in data.eval_batches(chosen, settings):
        yield batch["image"][batch["mask"] > 0]


def evenly_spaced(source: data.Source, images: int) -> data.Source:
    """Returns `images` evenly spaced images of a split; all images if the split has fewer."""
    count = min(images, len(source))
    return subset(source, np.linspace(0, len(source) - 1, count).round().astype(int))


def calibrated(
    model: models.MobileNet, variables: Variables, config: RunConfig, train_images: data.Source
) -> Variables:
    """Returns the variables of a quantized network, made from a network in floating point.

    Args:
      model: the quantized network.
      variables: `params` and `batch_stats` of the network in floating point.
      config: the config of the run, which has a `quantization`.
      train_images: the training split, for calibration.
    """
    settings = config.quantization
    assert settings
    batches = calibration_batches(train_images, config, settings.calibration_images)
    seen = quantization.observe(model, variables, batches)
    ranges = settings.ranges
    _, values = quantization.quantized(
        model, variables, settings.setting, seen, kernels=ranges, activations=ranges
    )
    return values


def with_values(state: TrainState, model: models.MobileNet, values: Variables) -> TrainState:
    """Returns the first state of quantization-aware training.

    Args:
      state: the initial state, whose variables are replaced.
      model: the quantized network.
      values: the new `params` and `batch_stats`.
    """
    state = state.replace(
        params=values["params"],
        batch_stats=values["batch_stats"],
        tracked=qat.oscillation(model, values),
    )
    return state if state.average is None else state.averaging()


def post_train(
    config: RunConfig,
    source: SavedModel,
    directory: Path,
    dataset: data.Dataset,
    report: ProgressCallback,
) -> RunResult:
    """Quantizes a network after its training, keeps it in `directory`, and evaluates it.

    The history of the result has one record with the losses and accuracies of the quantized
    network. `train_loss` and `train_accuracy` are measured on the calibration images.

    Args:
      config: the config of the run.
      source: the network in floating point.
      directory: where the quantized network is written.
      dataset: the images.
      report: called after each batch of an evaluation.
    """
    start, settings = time.perf_counter(), config.quantization
    assert settings
    batches = [*calibration_batches(dataset.train, config, settings.calibration_images)]
    model, variables = quantization.post_training(source.model, source.variables, settings, batches)
    seconds = time.perf_counter() - start
    evaluated = _evaluations(config, model, variables, dataset, report)
    model_keeper(config, dataset, directory, model)(variables)
    images = sum(len(batch) for batch in batches)
    record = EpochRecord(
        epoch=1,
        step=0,
        learning_rate=0.0,
        train_loss=evaluated["train"].loss,
        train_accuracy=evaluated["train"].accuracy,
        validation_loss=evaluated["validation"].loss,
        validation_accuracy=evaluated["validation"].accuracy,
        seconds=seconds,
        images_per_second=images / seconds,
    )
    expense = cost.count(config.spec, config.data.resolution)
    return RunResult(
        params=expense.params,
        madds=expense.madds,
        test_loss=evaluated["test"].loss,
        test_accuracy=evaluated["test"].accuracy,
        test_count=evaluated["test"].count,
        history=(record,),
        images_per_second=record.images_per_second,
        seconds=time.perf_counter() - start,
    )


def _evaluations(
    config: RunConfig,
    model: models.MobileNet,
    variables: Any,
    dataset: data.Dataset,
    report: ProgressCallback,
) -> dict[str, Evaluation]:
    """Evaluates on three sets: `train` (the calibration images), `validation` and `test`."""
    settings, training = config.quantization, config.training
    assert settings
    accumulate = training.accumulate
    place = placement(training.parallel, config.data.batch_size, accumulate=accumulate)
    axis_name = BATCH_AXIS if training.parallel == "pmap" else None
    lowering = ops.best_lowering() if training.lowering == "auto" else training.lowering
    model = model.clone(dtype=jnp.dtype(training.precision), lowering=lowering)
    step = place.compile_eval(
        make_eval_step(model.apply, axis_name=axis_name, accumulate=accumulate)
    )
    variables = place.put_state(variables)
    part = data.Shard(index=jax.process_index(), count=jax.process_count())
    splits = {
        "train": evenly_spaced(dataset.train, settings.calibration_images),
        "validation": dataset.validation,
        "test": dataset.test,
    }

    def measure(split: data.Source, phase: Phase) -> Evaluation:
        batches = data.eval_batches(split, config.data, shard=part)
        return evaluate(
            step,
            place,
            variables,
            batches,
            lambda done: report(Progress(phase=phase, epoch=1, epochs=1, step=done)),
        )

    return {
        name: measure(split, "test" if name == "test" else "validation")
        for name, split in splits.items()
    }


def with_new_statistics(
    state: TrainState, model: models.MobileNet, batches: list[np.ndarray]
) -> TrainState:
    """Returns a trained state in which the running statistics are recomputed.

    Args:
      state: a state after training, not on the devices.
      model: the quantized network.
      batches: training images, from which the statistics are recomputed.
    """
    values = qat.reestimate_statistics(model, state.values, batches)
    state = state.replace(params=values["params"], batch_stats=values["batch_stats"])
    if state.average is None:
        return state
    return state.replace(average=qat.reestimate_statistics(model, state.average, batches))


def oscillating_share(state: TrackedState) -> float:
    """Returns the share of the quantized weights that oscillated at the end of training."""
    return float(jax.device_get(state.tracked.share()))
