"""What a run leaves in its directory: which weights, scalars, and how little a kill loses."""

import dataclasses
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from tiny_network import make_short_spec

from mnet_jax import models
from mnet_jax.config import DataConfig, RunConfig, TrainingConfig
from mnet_jax.runs.run import run
from mnet_jax.runs.run_directory import RunDirectory, Timer
from mnet_jax.training import loop
from mnet_jax.training.checkpoints.checkpoint import Restored
from mnet_jax.training.epoch import EpochProgress
from mnet_jax.training.evaluation import Evaluation

CONFIG = RunConfig(
    spec=make_short_spec(),
    data=DataConfig(name="digits", resolution=8, batch_size=128),
    training=TrainingConfig(epochs=4),
)
STEPS = 9  # of an epoch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quickly_compiled")]


ACCURACIES = (0.2, 0.8, 0.8, 0.5)  # on validation, as if measured
BEST = 1  # the earliest of equals


@pytest.mark.parametrize(("keep", "expected"), [("last", -1), ("best", BEST)])
def test_a_run_keeps_its_last_or_its_best_weights(tmp_path, monkeypatch, keep, expected):
    evaluated = []

    def evaluate(eval_step, placement, variables, batches, on_batch):
        del eval_step, batches, on_batch
        evaluated.append(jax.tree.map(np.array, placement.get(variables)))
        accuracy = dict(enumerate(ACCURACIES)).get(len(evaluated) - 1, 0.0)
        return Evaluation(loss=1.0, accuracy=accuracy, count=1)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    result = run(CONFIG, tmp_path, keep=keep)
    assert [record.validation_accuracy for record in result.history] == [*ACCURACIES]
    behind_epochs = evaluated[: len(ACCURACIES)]
    chex.assert_trees_all_equal(models.load(tmp_path).variables, behind_epochs[expected])
    chex.assert_trees_all_equal(evaluated[-1], behind_epochs[-1])  # the test split: the last


def test_a_finished_run_that_is_called_again_keeps_what_it_is_asked_for(tmp_path, monkeypatch):
    evaluate, accuracies = loop.evaluate, iter(ACCURACIES)

    def scored(*arguments):
        return dataclasses.replace(evaluate(*arguments), accuracy=next(accuracies, 0.0))

    monkeypatch.setattr(loop, "evaluate", scored)

    def kept(keep):
        run(CONFIG, tmp_path, keep=keep)
        return jax.tree.leaves(models.load(tmp_path).variables)[0]

    best, last = kept("best"), kept("last")
    assert not np.array_equal(best, last)
    (tmp_path / models.FILE_NAME).unlink()
    assert np.array_equal(kept("last"), last)
    assert np.array_equal(kept("best"), best)


def test_to_go_back_to_a_state_saved_before_its_validation_is_to_begin_the_next_epoch(tmp_path):
    state = SimpleNamespace(step=5)
    waiting = EpochProgress(losses=(1.0,) * 5, recent=(1.0,), in_row=2)
    run_directory = RunDirectory(
        loop=SimpleNamespace(placement=SimpleNamespace(put_state=lambda s: s)),
        batches=None,
        begin=lambda: state,
        checkpoints=SimpleNamespace(go_back=lambda step, first: Restored(first, (), 0.0, waiting)),
        log=None,
        keep_model=None,
        save_timer=Timer(0.0),
        start=0.0,
    )
    assert run_directory.go_back(5) == (state, EpochProgress(recent=(1.0,), in_row=2))


class KilledError(Exception):
    """Stands for a kill."""


def test_a_killed_run_that_saves_often_loses_steps_and_no_epoch(tmp_path):
    """With a checkpoint at every step it loses the last one."""
    training = dataclasses.replace(CONFIG.training, epochs=2)
    config = dataclasses.replace(CONFIG, training=training)

    def killing(event):
        if (event.phase, event.epoch, event.step) == ("train", 2, 5):
            raise KilledError

    seen = []
    with pytest.raises(KilledError):
        run(config, tmp_path, save_every_seconds=1e-9, report=killing)
    result = run(config, tmp_path, report=seen.append)
    first = seen[0]
    assert (first.phase, first.epoch, first.step) == ("train", 2, 5)
    assert [record.step for record in result.history] == [STEPS, 2 * STEPS]
