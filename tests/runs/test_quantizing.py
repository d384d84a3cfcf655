"""Runs that quantize: which network they take, what they keep, and what a second call does."""

import contextlib
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_network import make_short_spec

from mnet_jax import data, models, serialization
from mnet_jax.config import TRIAL_LOCK, DataConfig, Pretrained, RunConfig, TrainingConfig
from mnet_jax.files import locked
from mnet_jax.models.types import Quantization
from mnet_jax.quantization import QuantizationConfig
from mnet_jax.runs import quantizing
from mnet_jax.runs.run import run
from mnet_jax.training.checkpoints.checkpoint import CheckpointError
from mnet_jax.training.stopping import Stop, StoppedError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quickly_compiled")]

FLOAT = RunConfig(
    spec=make_short_spec(),
    data=DataConfig(resolution=8, batch_size=64),
    training=TrainingConfig(epochs=2, warmup_epochs=0),
)
PTQ = dataclasses.replace(
    FLOAT, quantization=QuantizationConfig(setting=Quantization(weight_bits=4, activation_bits=4))
)
QAT = dataclasses.replace(
    PTQ, quantization=dataclasses.replace(PTQ.quantization, method="qat", qat_epochs=1)
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        yield data.load(FLOAT.data)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A float run and a run that quantizes its network."""
    directory = tmp_path_factory.mktemp("runs")
    phases = []
    source = run(FLOAT, directory / "float", dataset=dataset)
    result = run(
        PTQ,
        directory / "ptq",
        dataset=dataset,
        source_directory=directory / "float",
        report=lambda progress: phases.append(progress.phase),
    )
    return directory, source, result, phases


def test_a_run_that_quantizes_takes_the_network_that_was_trained(trained):
    directory, _, result, phases = trained
    assert phases and "train" not in phases
    (record,) = result.history
    assert record.step == 0
    source, quantized = models.load(directory / "float"), models.load(directory / "ptq")
    assert quantized.model.quantization == PTQ.quantization.setting
    for part in ("stem", "head"):
        kernels = [
            [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if leaf.ndim > 1]
            for tree in (source.variables["params"][part], quantized.variables["params"][part])
        ]
        assert len(kernels[0]) == len(kernels[1]) > 0


def test_the_result_is_that_of_the_kept_model(trained, dataset):
    directory, _, result, _ = trained
    model, variables, _, _ = models.load(directory / "ptq")
    apply = jax.jit(lambda images: model.apply(variables, images, train=False))
    right = total = 0
    for batch in data.eval_batches(dataset.test, FLOAT.data):
        guesses = np.argmax(apply(batch["image"]), -1)
        right += ((guesses == batch["label"]) * batch["mask"]).sum()
        total += batch["mask"].sum()
    assert total == result.test_count
    assert result.test_accuracy == pytest.approx(right / total)


def test_a_network_that_was_not_kept_is_trained_again_once(trained, dataset, tmp_path):
    _, source, result, _ = trained
    phases = []
    for name in ("first", "second"):
        again = run(
            PTQ,
            tmp_path / name,
            dataset=dataset,
            source_directory=tmp_path / "float",
            report=lambda progress: phases.append(progress.phase),
        )
        assert again.test_accuracy == result.test_accuracy
    assert phases.count("epoch") == FLOAT.training.epochs
    assert source.test_accuracy > result.test_accuracy - 0.2
    kept = json.loads((tmp_path / "float" / "config.json").read_text())
    assert "quantization" not in kept


def test_a_run_says_that_it_waits_while_another_one_trains_the_network(
    trained, dataset, tmp_path, monkeypatch
):
    """The other run has the lock of the float run's directory, and then leaves the model there."""
    directory, _, result, _ = trained
    monkeypatch.setattr("mnet_jax.runs.quantizing.WAITING_SECONDS", 0)
    (tmp_path / "float").mkdir()
    phases, other = [], contextlib.ExitStack()
    other.enter_context(locked(tmp_path / "float" / TRIAL_LOCK))

    def report(progress):
        phases.append(progress.phase)
        if phases == ["waiting"] * 3:
            shutil.copytree(directory / "float", tmp_path / "float", dirs_exist_ok=True)
            other.close()

    again = run(
        PTQ, tmp_path / "ptq", dataset=dataset, source_directory=tmp_path / "float", report=report
    )
    assert phases[:3] == ["waiting"] * 3
    assert not {"train", "epoch"} & {*phases}
    assert again.test_accuracy == result.test_accuracy


def test_training_goes_on_from_the_float_network(trained, dataset, tmp_path):
    directory, source, _, _ = trained
    config = dataclasses.replace(QAT, quantization=QAT.quantization)
    found = run(config, tmp_path, dataset=dataset, source_directory=directory / "float")
    assert len(found.history) == 1
    assert 0 <= found.oscillating <= 1
    # From random weights, one epoch does not come close.
    assert found.test_accuracy > source.test_accuracy - 0.1
    assert run(config, tmp_path, dataset=dataset, source_directory=directory / "float") == (
        dataclasses.replace(found, seconds=pytest.approx(found.seconds, abs=60))
    )


def test_training_that_was_stopped_within_an_epoch_goes_on_to_the_last_bit(
    trained, dataset, tmp_path
):
    """Neither the network in floating point nor the calibration starts it anew."""
    directory, *_ = trained
    source, stop = directory / "float", Stop()

    def stop_at_step_5(progress):
        stop.requested = progress.phase == "train" and progress.step == 5

    whole = run(QAT, tmp_path / "whole", dataset=dataset, source_directory=source)
    with pytest.raises(StoppedError):
        run(
            QAT, tmp_path / "cut", dataset=dataset, source_directory=source,
            stop=stop, report=stop_at_step_5,
        )  # fmt: skip
    steps = []
    found = run(
        QAT, tmp_path / "cut", dataset=dataset, source_directory=source,
        report=lambda progress: progress.phase == "train" and steps.append(progress.step),
    )  # fmt: skip
    assert 1 < steps[0] <= 7
    assert (found.test_loss, found.oscillating) == (whole.test_loss, whole.oscillating)
    kept = (models.load(tmp_path / name).variables for name in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, *kept)


def test_statistics_are_recomputed_from_images_as_they_are_in_training(dataset):
    """The first ones of the run's own order, in batches of at most 64, and each only once."""
    settings = dataclasses.replace(FLOAT.data, batch_size=96, augmentation="shift")
    config = dataclasses.replace(QAT, data=settings, seed=3)
    batches = quantizing.statistics_batches(dataset.train, config)
    assert [len(batch) for batch in batches] == [64] * (len(dataset.train) // 64)
    found, wanted = np.concatenate(batches), []
    for batch in data.train_batches(dataset.train, settings, seed=3):
        wanted.append(batch["image"])
        if 96 * len(wanted) >= len(found):
            break
    np.testing.assert_array_equal(found, np.concatenate(wanted)[: len(found)])
    few = data.sources.subset(dataset.train, np.arange(40))
    assert [len(batch) for batch in quantizing.statistics_batches(few, config)] == [64]


def test_pretrained_weights_are_trained_by_the_runs_own_settings(trained, dataset, tmp_path):
    directory, source, _, _ = trained
    path = directory / "float"
    start = Pretrained(path=str(path), sha256=models.digest(path))
    config = dataclasses.replace(QAT, pretrained=start)
    assert config.source is None
    found = run(config, tmp_path, dataset=dataset)
    assert len(found.history) == FLOAT.training.epochs
    assert not (tmp_path / "float").exists()
    assert found.test_accuracy > source.test_accuracy - 0.1


def test_a_quantized_network_is_no_pretrained_one(trained, dataset, tmp_path):
    directory, *_ = trained
    path = directory / "ptq"
    start = Pretrained(path=str(path), sha256=models.digest(path))
    with pytest.raises(ValueError, match=r"pretrained: got .*, legal: a network that is neither"):
        run(dataclasses.replace(FLOAT, pretrained=start), tmp_path, dataset=dataset)


def test_best_weights_and_pmap(trained, dataset, tmp_path):
    """The state before the first step is made again after it was donated to a step."""
    directory, _, result, _ = trained
    source = directory / "float"
    kept = run(QAT, tmp_path / "qat", dataset=dataset, source_directory=source, keep="best")
    assert kept.history[-1].epoch == 1
    training = dataclasses.replace(PTQ.training, parallel="pmap", accumulate=2)
    mapped = dataclasses.replace(PTQ, training=training)
    path = tmp_path / "float"
    shutil.copytree(source, path)
    text = serialization.to_json(dataclasses.replace(FLOAT, training=training))
    (path / "config.json").write_text(text)
    found = run(mapped, tmp_path / "ptq", dataset=dataset, source_directory=path)
    assert (found.test_accuracy, found.test_count) == (result.test_accuracy, result.test_count)


def test_a_directory_of_another_run_is_refused_before_anything_is_trained(trained, dataset):
    directory, *_ = trained
    with pytest.raises(CheckpointError, match=r"^quantization: got .* holds a run with -; legal:"):
        run(PTQ, directory / "float", dataset=dataset)
    assert not (directory / "float" / "float").exists()


def test_rounding_needs_kernels_to_round():
    with pytest.raises(ValueError, match="weight_bits: got 0, legal: 2 to 8 for ptq-adaround"):
        QuantizationConfig(method="ptq-adaround", setting=Quantization(weight_bits=0))
