"""Runs that differ in seeds and numbers share one executable, which counts with their numbers."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_network import make_short_spec

from mnet_jax.config import (
    AdamW,
    Constant,
    Cosine,
    DataConfig,
    Exponential,
    Lamb,
    Muon,
    RmsProp,
    RunConfig,
    Sgd,
    TrainingConfig,
)
from mnet_jax.runs import program as programs
from mnet_jax.runs import run as runs
from mnet_jax.training import optimizer
from mnet_jax.training.hyperparameters import StaticRecipe
from mnet_jax.training.step import initial_state, make_train_step

pytestmark = pytest.mark.usefixtures("quickly_compiled")

replace = dataclasses.replace
BASE = TrainingConfig(learning_rate=0.1, warmup_epochs=0.0, lowering="shifted")
OTHER_NUMBERS = (
    {"learning_rate": 0.5},
    {"weight_decay": 0.0},
    {"weight_decay": 0.3},
    {"label_smoothing": 0.0},
    {"label_smoothing": 0.4},
    {"ema_decay": 0.2},
    {"epochs": 3},
    {"warmup_epochs": 1.0},
    {"schedule": Constant()},
    {"schedule": Exponential(factor=0.5, every_epochs=2.0)},
)
OTHER_RULES = {  # of each kind two that differ in every number
    "sgd": (Sgd(), Sgd(momentum=0.0)),
    "nesterov": (Sgd(nesterov=True), Sgd(momentum=0.5, nesterov=True)),
    "rmsprop": (RmsProp(), RmsProp(decay=0.5, momentum=0.1, epsilon=0.1, initial_square=0.0)),
    "adamw": (AdamW(), AdamW(beta1=0.5, beta2=0.9, epsilon=0.1)),
    "lamb": (Lamb(), Lamb(beta1=0.5, beta2=0.9, epsilon=0.1)),
    "muon": (
        Muon(),
        Muon(momentum=0.5, update_rms=0.1, beta1=0.5, beta2=0.9, epsilon=0.1),
    ),
}

# A linear model, whose training is by hand.

IMAGES = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 2, 1, 0])
KERNEL = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def linear(variables, images, *, train, mutable, rngs):
    return images @ variables["params"]["head"]["kernel"], {"batch_stats": {}}


def stepper(config):
    """A compiled step of the linear model, which raises where it is traced more than once.

    What it gives is a function from a recipe to the loss, the kernel and its average after each of
    three steps.
    """
    chex.clear_trace_counter()  # it takes functions of one source for the same
    structure = StaticRecipe.of(config)
    update = optimizer.make(structure, ("head",))
    step = jax.jit(chex.assert_max_traces(make_train_step(linear, update), n=1))

    def call(config):
        assert StaticRecipe.of(config) == structure
        of_epoch = optimizer.hyperparams(config, steps_per_epoch=2)
        hyperparams = [*of_epoch(1), *of_epoch(2)]
        variables = {"params": {"head": {"kernel": jnp.asarray(KERNEL)}}, "batch_stats": {}}
        state, found = initial_state(variables, update(hyperparams[0]), jax.random.key(0)), []
        state = state.averaging() if structure.averages else state
        for given in hyperparams[:3]:
            state, metrics = step(state, {"image": IMAGES, "label": LABELS}, given)
            kernel, average = (
                p["head"]["kernel"] for p in (state.params, state.evaluated["params"])
            )
            found.append((metrics["loss"], kernel, average))
        return found

    return call


def by_hand(config, rates):
    """The same with SGD in NumPy, in float64."""
    w, velocity, average, found = KERNEL.astype(np.float64), 0.0, KERNEL.astype(np.float64), []
    targets = (1 - config.label_smoothing) * np.eye(3)[LABELS] + config.label_smoothing / 3
    for n, rate in enumerate(rates, start=1):
        logits = IMAGES @ w
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        loss = -(targets * log_p).sum(axis=1).mean()
        gradient = IMAGES.T @ (np.exp(log_p) - targets) / len(LABELS) + config.weight_decay * w
        velocity = config.optimizer.momentum * velocity + gradient
        w = w - rate * velocity
        kept = min(config.ema_decay, (1 + n) / (10 + n))
        average = kept * average + (1 - kept) * w
        found.append((loss, w, average))
    return found


def test_one_executable_trains_every_recipe_as_by_hand():
    base = replace(BASE, schedule=Constant(), weight_decay=0.1)
    step = stepper(base)
    varied = [
        {},
        {"learning_rate": 0.5},
        {"weight_decay": 0.0},
        {"weight_decay": 0.3},
        {"label_smoothing": 0.4},
        {"ema_decay": 0.15},
        {"optimizer": Sgd(momentum=0.0)},
        {"learning_rate": 0.3, "weight_decay": 0.2, "optimizer": Sgd(momentum=0.5)},
    ]
    seen = []
    for changes in varied:
        config = replace(base, **changes)
        expected = by_hand(config, [config.learning_rate] * 3)
        for one, other in zip(step(config), expected, strict=True):
            chex.assert_trees_all_close(one, other, rtol=1e-5, atol=1e-6)
        seen.append(expected)
    for i, one in enumerate(seen):  # each change is one that this test would see
        for other in seen[:i]:
            differ = [
                not np.allclose(a, b, rtol=1e-4) for a, b in zip(one[2], other[2], strict=True)
            ]
            assert any(differ)


def test_without_averaging_the_weights_are_evaluated_and_no_average_is_computed():
    plain = replace(BASE, schedule=Constant(), ema_decay=0.0)
    assert StaticRecipe.of(plain) != StaticRecipe.of(replace(plain, ema_decay=0.1))
    for (_, kernel, evaluated), (_, expected, _) in zip(
        stepper(plain)(plain), by_hand(plain, [plain.learning_rate] * 3), strict=True
    ):
        np.testing.assert_array_equal(evaluated, kernel)
        np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", OTHER_RULES)
def test_every_number_of_an_optimizer_is_given_to_one_executable(kind):
    rule, other_rule = OTHER_RULES[kind]
    base = replace(BASE, optimizer=rule)
    step = stepper(base)
    first = step(base)
    for changes in (*OTHER_NUMBERS, {"optimizer": other_rule}):
        found = step(replace(base, **changes))
        assert any(
            not np.array_equal(a, b)
            for one, other in zip(found, first, strict=True)
            for a, b in zip(one, other, strict=True)
        ), changes


def test_how_much_depth_decays_is_a_number():
    chex.clear_trace_counter()
    base = replace(BASE, depth_decay=0.5, weight_decay=0.0, optimizer=Sgd(momentum=0.0))
    update = optimizer.make(StaticRecipe.of(base), ("stem", "block", "head"))
    params = {part: {"kernel": jnp.ones((2, 2))} for part in ("stem", "block", "head")}

    @jax.jit
    @chex.assert_max_traces(n=1)
    def changes_of(hyperparams):
        rule = update(hyperparams)
        return rule.update(params, rule.init(params), params)[0]

    for decay in (0.5, 0.9):
        hyperparams = optimizer.hyperparams(replace(base, depth_decay=decay), steps_per_epoch=1)(1)[
            0
        ]
        changes = changes_of(hyperparams)
        for part, depth in (("head", 0), ("block", 1), ("stem", 2)):
            want = -base.learning_rate * decay**depth
            np.testing.assert_allclose(changes[part]["kernel"], want, rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": RmsProp()},
        {"optimizer": Sgd(nesterov=True)},
        {"decay_depthwise": True},
        {"drop_path": 0.2},
        {"clip_norm": 1.0},
        {"ema_warmup": False},
        {"frozen": 1},
        {"depth_decay": 0.5},
        {"precision": "bfloat16"},
        {"parallel": "pmap"},
        {"lowering": "grouped"},
        {"mixup": 0.2},
        {"cutmix": 1.0},
    ],
    ids=str,
)
def test_what_is_no_number_is_structure(changes):
    assert StaticRecipe.of(replace(BASE, **changes)) != StaticRecipe.of(BASE)


@pytest.mark.parametrize("warmup", [0, 2])
def test_every_step_has_the_rate_of_its_schedule(warmup):
    """Half a cosine after a straight line, by the formula."""
    config = TrainingConfig(epochs=5, learning_rate=0.4, warmup_epochs=warmup, schedule=Cosine())
    of_epoch = optimizer.hyperparams(config, steps_per_epoch=3)
    rates = [hyperparams.learning_rate for epoch in range(1, 6) for hyperparams in of_epoch(epoch)]
    rest = 15 - 3 * warmup
    for n, rate in zip(range(15), rates, strict=True):
        after = n - 3 * warmup
        line, wave = 0.4 * n / max(3 * warmup, 1), 0.2 * (1 + math.cos(math.pi * after / rest))
        assert rate == pytest.approx(line if after < 0 else wave, rel=1e-4, abs=1e-6)
        assert rate.dtype == np.float32


def test_a_constant_rate_is_every_steps():
    config = replace(BASE, schedule=Constant())
    of_epoch = optimizer.hyperparams(config, steps_per_epoch=2)
    assert [float(hyperparams.learning_rate) for hyperparams in of_epoch(2)] == [
        float(np.float32(0.1))
    ] * 2


# Whole runs.

RUN = RunConfig(
    spec=make_short_spec(),
    data=DataConfig(name="digits", resolution=8, batch_size=512, augmentation="none"),
    training=replace(BASE, epochs=1),
)


@pytest.fixture
def traced(monkeypatch):
    """Counts how often runs trace a training step: one entry for each time."""
    traces = []

    def counting(*args, **options):
        step = make_train_step(*args, **options)

        def counted(*given):
            traces.append(given)
            return step(*given)

        return counted

    monkeypatch.setattr(programs, "make_train_step", counting)
    programs.program_of.cache_clear()
    yield traces
    programs.program_of.cache_clear()


def trained_anew(**changes):
    return replace(RUN, training=replace(RUN.training, **changes))


def test_runs_that_differ_in_seeds_and_numbers_share_one_executable(tmp_path, data_folder, traced):
    configs = [
        RUN,
        replace(trained_anew(learning_rate=0.5, schedule=Constant()), seed=1),
        trained_anew(
            label_smoothing=0.3,
            weight_decay=0.0,
            ema_decay=0.5,
            epochs=2,
            optimizer=Sgd(momentum=0.5),
        ),
    ]
    histories = [runs.run(c, tmp_path / str(i)).history for i, c in enumerate(configs)]
    assert len(traced) == 1
    assert [len(history) for history in histories] == [1, 1, 2]
    assert len({history[0].validation_loss for history in histories}) == 3


def test_another_width_or_optimizer_has_an_executable_of_its_own(traced):
    def prepare(config):
        """What a run does before it compiles."""
        data, structure = config.data, StaticRecipe.of(config.training)
        program = programs.program_of(config.spec, structure, data.batch_size, data.resolution)
        hyperparams = optimizer.hyperparams(config.training, steps_per_epoch=2)(1)[0]
        state = program.initial_state(config.seed, hyperparams)
        image = np.zeros((data.batch_size, data.resolution, data.resolution, 3), np.float32)
        label = np.zeros(data.batch_size, np.int32)
        program.train_step.step.trace(state, {"image": image, "label": label}, hyperparams)

    (block,) = RUN.spec.blocks
    wider = replace(RUN.spec, blocks=(replace(block, expanded=24),))
    others = [trained_anew(optimizer=RmsProp()), replace(RUN, spec=wider)]
    for count, config in enumerate([RUN, *others], start=1):
        prepare(config)
        assert len(traced) == count
    for config in (trained_anew(learning_rate=0.5), RUN, *others):
        prepare(config)
        assert len(traced) == 3, "all of them are kept"
