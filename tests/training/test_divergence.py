"""What is divergence, and what comes of it: the run stops, leaves an update out, or goes back."""

import dataclasses
import functools
import itertools
import statistics

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_training import NUMBERS, batch_of, compiled_step, parts_of
from tiny_network import make_short_spec

from mnet_jax import serialization
from mnet_jax.config import DataConfig, RunConfig, TrainingConfig
from mnet_jax.data import order, pipeline
from mnet_jax.runs.run import run
from mnet_jax.training.epoch import EpochProgress
from mnet_jax.training.loop import Callbacks, Loop
from mnet_jax.training.monitoring import (
    MIN_LOSSES,
    MOST_ROLLBACKS,
    MOST_SKIPPED,
    WINDOW,
    DivergenceError,
    DivergencePolicy,
    NonFiniteError,
    NonFiniteStateError,
    SpikeError,
    dead_share,
)
from mnet_jax.training.placement import JitPlacement
from mnet_jax.training.results import EpochRecord
from mnet_jax.training.stopping import Stop, StoppedError

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SHORT = make_short_spec()
NAN = float("nan")


# The step.


def test_a_step_that_skips_changes_nothing_but_its_number():
    _, state, step = parts_of(SHORT, ema_decay=0.5)
    skipping = skipping_step(ema_decay=0.5)
    bad = batch_of(0)
    bad["image"][0, 0, 0, 0] = NAN
    after, metrics = skipping(state, bad)
    assert not bool(metrics["finite"])
    chex.assert_trees_all_equal(plain(after), plain(state.replace(step=jnp.int32(1))))
    good, _ = skipping(state, batch_of(0))
    expected, _ = step(state, batch_of(0))
    chex.assert_trees_all_close(plain(good), plain(expected), rtol=1e-5, atol=1e-6)


def skipping_step(**hyperparams):
    step = compiled_step(SHORT, skips=True)
    return functools.partial(step, hyperparams=NUMBERS._replace(**hyperparams))


def plain(state):
    return state.replace(dropout_key=jax.random.key_data(state.dropout_key))


@pytest.mark.parametrize(("share", "is_skipped"), [(0.9, True), (1.1, False)])
def test_a_step_above_its_limit_is_skipped(share, is_skipped):
    _, state, step = parts_of(SHORT)
    loss = float(step(state, batch_of(0))[1]["loss"])
    limited = skipping_step(loss_limit=np.float32(share * loss))
    after, _ = limited(state, batch_of(0))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), after.params, state.params)
    assert all(jax.tree.leaves(same)) is is_skipped


# The loop, whose steps take their loss from the batch.


@dataclasses.dataclass(frozen=True)
class State:
    """Stands for a training state: the batches that it has seen."""

    seen: tuple[int, ...] = ()
    evaluated: None = None
    step: int = 0
    values = {"params": {}, "batch_stats": {}}  # noqa: RUF012


class Unplaced(JitPlacement):
    """Leaves the batches of these steps where they are."""

    def put_batch(self, batch):
        return batch


def loop_of(steps=5, epochs=2, **divergence):
    divergence = DivergencePolicy(**divergence)

    def train_step(state, batch, hyperparams):
        loss = batch["loss"]
        finite = np.isfinite(loss)
        limit = np.inf if hyperparams.loss_limit is None else hyperparams.loss_limit
        applied = divergence.on_divergence != "skip" or (finite and loss <= limit)
        seen = (*state.seen, batch["number"]) if applied else state.seen
        metrics = {"loss": loss, "accuracy": 0.5, "finite": finite}
        return State(seen=seen, step=state.step + 1), metrics

    sums = {"loss": 1.0, "correct": 1.0, "count": 2.0}
    return Loop(
        train_step=train_step, eval_step=lambda variables, batch: sums,
        placement=Unplaced(jax.devices()), hyperparams=lambda epoch: [NUMBERS] * steps,
        epochs=epochs, steps_per_epoch=steps, batch_size=8, divergence=divergence,
    )  # fmt: skip


def batches_of(losses):
    for number, loss in enumerate(itertools.chain(losses, itertools.repeat(1.0)), start=1):
        yield {"loss": loss, "number": number}


class Kept:
    """States by their number, as checkpoints would have them."""

    def __init__(self):
        self._kept = {0: (State(), EpochProgress())}

    def callbacks(self):
        return Callbacks(on_epoch=self._keep, go_back=self._kept.__getitem__)

    def _keep(self, state, history, progress):
        self._kept[history[-1].step] = state, progress


def fitted(loop, losses):
    return loop.fit(State(), batches_of(losses), lambda: [{}], (), Kept().callbacks())


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_updates_are_skipped_counted_and_named(bad):
    state, history = fitted(loop_of(on_divergence="skip"), [1, bad, 2, 3, bad, bad, 4])
    assert state.seen == (1, 3, 4, 7, 8, 9, 10)
    assert [record.skipped for record in history] == [(2, 5), (6,)]
    assert history[0].train_loss == statistics.fmean([1, 2, 3])
    assert history[1].train_loss == statistics.fmean([4, 1, 1, 1])


def test_too_many_skipped_in_a_row_stop_the_run():
    loop = loop_of(steps=8, epochs=3, on_divergence="skip")
    bad = [1, 1, *[NAN] * MOST_SKIPPED]
    _, history = fitted(loop, [*bad, 1])
    assert sum(len(record.skipped) for record in history) == MOST_SKIPPED
    step = len(bad) + 1
    with pytest.raises(NonFiniteError, match=rf"^step {step}: .*after {MOST_SKIPPED} skipped"):
        fitted(loop, [*bad, NAN])


def test_an_epoch_without_an_update_stops_the_run():
    with pytest.raises(NonFiniteError, match=r"^step 5: every update of epoch 1 was skipped$"):
        fitted(loop_of(on_divergence="skip"), [NAN] * 5)


def test_a_rolled_back_epoch_begins_again_with_the_batches_behind_the_bad_one():
    state, history = fitted(loop_of(on_divergence="rollback"), [1, 1, 1, 1, 1, 1, NAN])
    assert state.seen == (1, 2, 3, 4, 5, 8, 9, 10, 11, 12)
    assert [record.rolled_back for record in history] == [(), (7,)]
    state, history = fitted(loop_of(on_divergence="rollback"), [1, NAN, 1, NAN])
    assert state.seen == tuple(range(5, 15))
    assert history[0].rolled_back == (2, 2)


def test_too_many_rollbacks_stop_the_run():
    bad = [NAN] * MOST_ROLLBACKS
    _, history = fitted(loop_of(on_divergence="rollback"), bad)
    assert history[0].rolled_back == (1,) * MOST_ROLLBACKS
    with pytest.raises(NonFiniteError, match=r"^step 1: "):
        fitted(loop_of(on_divergence="rollback"), [*bad, NAN])
    with pytest.raises(NonFiniteError, match=r"^step 6: "):
        fitted(loop_of(on_divergence="rollback"), [*bad, 1, 1, 1, 1, 1, NAN])


def test_a_state_that_is_not_finite_stops_the_run_whenever_it_is_seen():
    def save(state, history, progress):
        raise NonFiniteStateError(2, "the state is not finite and is not saved")

    callbacks = dataclasses.replace(Kept().callbacks(), save=save, is_save_due=lambda: True)
    loop = loop_of(on_divergence="rollback")
    with pytest.raises(NonFiniteStateError):
        loop.fit(State(), batches_of([]), lambda: [{}], (), callbacks)


def test_the_limit_is_a_multiple_of_the_median_of_the_last_losses():
    losses = list(np.random.default_rng(0).uniform(0, 1, 3 * WINDOW))
    divergence = DivergencePolicy(spike_factor=2.5)
    assert divergence.limit(losses) == pytest.approx(2.5 * np.median(losses[-WINDOW:]))
    assert divergence.limit(losses[: MIN_LOSSES - 1]) == float("inf")
    assert DivergencePolicy().limit(losses) == float("inf")


SPIKED = [*[1.0] * (MIN_LOSSES + 1), 3.1]


def test_a_spike_is_divergence_and_a_high_loss_is_not():
    step = len(SPIKED)
    with pytest.raises(SpikeError, match=rf"^step {step}: loss 3.1, more than 3 times"):
        fitted(loop_of(steps=20, spike_factor=3.0), SPIKED)
    fitted(loop_of(steps=20, spike_factor=3.2), SPIKED)
    state, history = fitted(loop_of(steps=20, spike_factor=3.0, on_divergence="skip"), SPIKED)
    assert history[0].skipped == (step,) and step not in state.seen
    # The window runs across epochs.
    state, history = fitted(loop_of(spike_factor=3.0, epochs=4, on_divergence="rollback"), SPIKED)
    assert [record.rolled_back for record in history] == [(), (), (step,), ()]
    assert state.seen == (*range(1, 11), *range(13, 23))


def test_an_epoch_cut_in_two_is_the_epoch():
    losses = [1, NAN, 2, 3, 4, 5, NAN, 6]
    whole = fitted(loop_of(on_divergence="skip", spike_factor=4.0), losses)
    loop = loop_of(on_divergence="skip", spike_factor=4.0)
    for cut in range(1, 10):
        saved, stop = [], Stop()

        def report(event, cut=cut, stop=stop):
            stop.requested |= (event.epoch - 1) * 5 + event.step == cut and event.phase == "train"

        def save(*found, saved=saved):
            saved.append(found)

        batches = batches_of(losses)
        callbacks = Callbacks(report=report, save=save, stop=stop)
        with pytest.raises(StoppedError):
            loop.fit(State(), batches, lambda: [{}], (), callbacks)
        ((state, history, progress),) = saved
        assert state.step == cut
        progress = serialization.from_json(EpochProgress, serialization.to_json(progress))
        state, history = loop.fit(state, batches, lambda: [{}], history, Callbacks(), progress)
        assert state == whole[0]
        for found, expected in zip(history, whole[1], strict=True):
            times = {"seconds": 0.0, "images_per_second": 0.0}
            assert dataclasses.replace(found, **times) == dataclasses.replace(expected, **times)


# A run.

CONFIG = RunConfig(
    spec=SHORT,
    data=DataConfig(name="digits", resolution=8, batch_size=128, augmentation="none"),
    training=TrainingConfig(epochs=2, warmup_epochs=1, on_divergence="rollback"),
)
STEPS = 9  # of an epoch
BAD = STEPS + 3  # the batch that is not finite, from 1


@pytest.fixture
def poisoned(monkeypatch):
    """The batches, one of them not finite."""
    make, take = pipeline.train_batch, order.ShuffledBatches.__getitem__

    def make_batch(source, config, seed, places):
        batch = make(source, config, seed, places)
        bad = take(order.ShuffledBatches(len(source), config.batch_size, seed), BAD - 1)
        if np.array_equal(places, bad):
            batch["image"] = np.full_like(batch["image"], NAN)
        return batch

    monkeypatch.setattr(pipeline, "train_batch", make_batch)


def losses_of(result):
    return [(r.train_loss, r.validation_loss) for r in result.history]


@pytest.mark.slow
def test_a_run_that_goes_back_is_the_run_without_the_batches_in_between(
    tmp_path, poisoned, monkeypatch
):
    result = run(CONFIG, tmp_path / "back")
    assert [record.rolled_back for record in result.history] == [(), (BAD,)]

    stop = Stop()

    def report(event):
        stop.requested |= (event.phase, event.epoch, event.step) == ("train", 2, 5)

    with pytest.raises(StoppedError):
        run(CONFIG, tmp_path / "cut", stop=stop, report=report)
    cut = run(CONFIG, tmp_path / "cut")
    assert [record.rolled_back for record in cut.history] == [(), (BAD,)]
    assert losses_of(cut) == [pytest.approx(pair, rel=1e-4) for pair in losses_of(result)]

    take = order.ShuffledBatches.__getitem__

    def without(self, batch):
        return take(self, batch if batch < STEPS else batch + BAD - STEPS)

    monkeypatch.setattr(order.ShuffledBatches, "__getitem__", without)
    expected = run(CONFIG, tmp_path / "without")
    assert losses_of(result) == [pytest.approx(pair, rel=1e-4) for pair in losses_of(expected)]


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["halt", "skip"])
def test_a_run_halts_or_skips_as_it_is_told(tmp_path, poisoned, choice):
    training = dataclasses.replace(CONFIG.training, on_divergence=choice)
    config = dataclasses.replace(CONFIG, training=training)
    if choice == "halt":
        with pytest.raises(DivergenceError, match=rf"^step {BAD}: loss nan"):
            run(config, tmp_path)
        return
    result = run(config, tmp_path)
    assert [record.skipped for record in result.history] == [(), (BAD,)]
    assert np.isfinite(losses_of(result)).all()


def test_records_stored_before_stay_readable():
    record = EpochRecord(
        epoch=1, step=9, learning_rate=0.1, train_loss=1.0, train_accuracy=0.5,
        validation_loss=1.0, validation_accuracy=0.5, seconds=1.0, images_per_second=9.0,
    )  # fmt: skip
    stored = serialization.to_plain(record)
    assert not {"skipped", "rolled_back", "dead_share"} & stored.keys()
    assert serialization.from_plain(EpochRecord, stored) == record
    named = dataclasses.replace(record, skipped=(3, 4), dead_share=0.5)
    assert serialization.from_json(EpochRecord, serialization.to_json(named)) == named


# Dead channels.


def test_channels_without_input_kernel_or_scale_are_dead(tiny_spec):
    """The statistics are what training records of them."""
    model, state, _ = parts_of(tiny_spec)
    params = jax.tree.map(np.array, state.params)
    first, second = params["block_0"], params["block_1"]
    first["expand"]["norm"]["bias"][:2] = -100  # ReLU6 lets nothing through
    first["depthwise"]["conv"]["kernel"][..., 5:8] = 0
    second["depthwise"]["norm"]["scale"][3] = 0
    state = state.replace(params=params)
    assert dead_share(state.values) == 1 / 32  # nothing has been recorded yet
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    stats = state.batch_stats
    for number in range(250):
        variables = {"params": params, "batch_stats": stats}
        key = {"dropout": jax.random.key(0)}
        _, updates = apply(variables, batch_of(number % 3)["image"], rngs=key)
        stats = updates["batch_stats"]
    assert dead_share({"params": params, "batch_stats": stats}) == (2 + 3 + 1) / 32
