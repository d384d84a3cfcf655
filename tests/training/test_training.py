"""The optimizer, the losses and the step, against NumPy and the papers' formulas."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from small_networks import initial_variables, small_v3
from tiny_network import make_short_spec

from mnet_jax import models
from mnet_jax.architectures import Attention, variable_shapes
from mnet_jax.config import (
    AdamW,
    Constant,
    Cosine,
    Exponential,
    Lamb,
    Muon,
    RmsProp,
    Sgd,
    TrainingConfig,
)
from mnet_jax.training import metrics, optimizer
from mnet_jax.training.hyperparameters import Hyperparameters, StaticRecipe
from mnet_jax.training.loop import Callbacks, Loop
from mnet_jax.training.monitoring import NonFiniteError
from mnet_jax.training.placement import placement
from mnet_jax.training.step import initial_state, make_eval_step, make_train_step

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def rate(config, step, steps_per_epoch=10):
    return float(optimizer.learning_rate(config, steps_per_epoch)(step))


def test_the_rate_rises_linearly_through_the_warmup():
    config = TrainingConfig(epochs=5, learning_rate=0.4, warmup_epochs=2, schedule=Constant())
    assert [rate(config, s) for s in (0, 5, 10, 20, 49)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])


def test_the_cosine_ends_at_zero_after_the_last_step():
    config = TrainingConfig(epochs=5, learning_rate=0.4, warmup_epochs=1, schedule=Cosine())
    halfway = 10 + 20
    assert rate(config, halfway) == pytest.approx(0.2)
    assert rate(config, 50) == pytest.approx(0, abs=1e-7)


def test_the_exponential_steps_down_by_its_factor_each_period():
    schedule = Exponential(factor=0.98, every_epochs=2.5)
    config = TrainingConfig(epochs=9, learning_rate=1, warmup_epochs=0, schedule=schedule)
    assert [rate(config, s) for s in (0, 24, 25, 74)] == pytest.approx([1, 1, 0.98, 0.98**2])


def trajectory(config, gradients, start):
    """The parameters after each gradient."""
    update = optimizer.make(StaticRecipe.of(config))(Hyperparameters.of(config))
    params = {"kernel": jnp.asarray(start)}
    state, seen = update.init(params), []
    for gradient in gradients:
        changes, state = update.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, changes)
        seen.append(np.asarray(params["kernel"]))
    return seen


@pytest.fixture
def gradients():
    return np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)


def test_rmsprop_is_tensorflows(gradients):
    """ms starts at 1, epsilon is inside the root, the rate is inside the momentum."""
    config = TrainingConfig(
        optimizer=RmsProp(decay=0.9, momentum=0.8, epsilon=0.5),
        learning_rate=0.1,
        schedule=Constant(),
        warmup_epochs=0,
        weight_decay=0.01,
    )
    w = np.ones((3, 4))
    square, momentum = np.ones_like(w), np.zeros_like(w)
    for gradient, got in zip(
        gradients, trajectory(config, gradients, np.ones((3, 4), np.float32)), strict=True
    ):
        gradient = gradient + 0.01 * w
        square = 0.9 * square + 0.1 * gradient**2
        momentum = 0.8 * momentum + 0.1 * gradient / np.sqrt(square + 0.5)
        w = w - momentum
        np.testing.assert_allclose(got, w, rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_textbooks(gradients, nesterov):
    config = TrainingConfig(
        optimizer=Sgd(momentum=0.9, nesterov=nesterov),
        learning_rate=0.1,
        schedule=Constant(),
        warmup_epochs=0,
        weight_decay=0.01,
    )
    w, velocity = np.ones((3, 4)), np.zeros((3, 4))
    for gradient, got in zip(
        gradients, trajectory(config, gradients, np.ones((3, 4), np.float32)), strict=True
    ):
        gradient = gradient + 0.01 * w
        velocity = 0.9 * velocity + gradient
        w = w - 0.1 * (gradient + 0.9 * velocity if nesterov else velocity)
        np.testing.assert_allclose(got, w, rtol=1e-5)


def test_adamw_decays_beside_the_gradient(gradients):
    config = TrainingConfig(
        optimizer=AdamW(), learning_rate=0.1, schedule=Constant(), warmup_epochs=0, weight_decay=0.5
    )
    w, first, second = np.ones((3, 4)), np.zeros((3, 4)), np.zeros((3, 4))
    for t, (gradient, got) in enumerate(
        zip(gradients, trajectory(config, gradients, np.ones((3, 4), np.float32)), strict=True),
        start=1,
    ):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        adam = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        w = w - 0.1 * (adam + 0.5 * w)
        np.testing.assert_allclose(got, w, rtol=1e-4)


@pytest.mark.parametrize("limit", [2.0, 3.0])  # below and above some of the norms
def test_gradients_are_clipped_by_their_common_norm_before_weight_decay(gradients, limit):
    config = TrainingConfig(
        optimizer=Sgd(momentum=0.9),
        learning_rate=0.1,
        schedule=Constant(),
        warmup_epochs=0,
        weight_decay=0.01,
        clip_norm=limit,
    )
    norms = np.sqrt((gradients**2).sum(axis=(1, 2)))
    assert norms.max() > limit, "else this test would see nothing"
    w, velocity = np.ones((3, 4)), np.zeros((3, 4))
    for gradient, norm, got in zip(
        gradients, norms, trajectory(config, gradients, np.ones((3, 4), np.float32)), strict=True
    ):
        velocity = 0.9 * velocity + gradient * min(1, limit / norm) + 0.01 * w
        w = w - 0.1 * velocity
        np.testing.assert_allclose(got, w, rtol=1e-5)


def test_clipping_is_torchs():
    torch = pytest.importorskip("torch", reason="its clip_grad_norm_ is the oracle")
    rng = np.random.default_rng(3)
    trees = [{"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)} for _ in range(2)]
    gradients = jax.tree.map(lambda x: x.astype(np.float32), {"stem": trees[0], "head": trees[1]})
    config = TrainingConfig(
        optimizer=Sgd(momentum=0.0), learning_rate=1.0, weight_decay=0.0, warmup_epochs=0,
        schedule=Constant(), clip_norm=1.5,
    )  # fmt: skip
    update = optimizer.make(StaticRecipe.of(config))(Hyperparameters.of(config))
    zeros = jax.tree.map(np.zeros_like, gradients)
    changes, _ = update.update(gradients, update.init(zeros), zeros)
    weights = [torch.zeros(x.shape, requires_grad=True) for x in jax.tree.leaves(gradients)]
    for weight, gradient in zip(weights, jax.tree.leaves(gradients), strict=True):
        weight.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_(weights, 1.5)
    for change, weight in zip(jax.tree.leaves(changes), weights, strict=True):
        np.testing.assert_allclose(-change, weight.grad.numpy(), rtol=1e-5)


def numpy_adam(gradients, beta1, beta2, epsilon):
    """The directions of Adam, one for each gradient, in float64."""
    first = second = 0.0
    for t, gradient in enumerate(gradients.astype(np.float64), start=1):
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        yield (first / (1 - beta1**t)) / (np.sqrt(second / (1 - beta2**t)) + epsilon)


def test_lamb_is_the_papers(gradients):
    """Algorithm 2: the update has the norm of the array; weight decay is within the update."""
    config = TrainingConfig(
        optimizer=Lamb(), learning_rate=0.1, schedule=Constant(), warmup_epochs=0, weight_decay=0.5
    )
    w = np.ones((3, 4))
    found = trajectory(config, gradients, np.ones((3, 4), np.float32))
    for adam, got in zip(numpy_adam(gradients, 0.9, 0.999, 1e-6), found, strict=True):
        direction = adam + 0.5 * w
        w = w - 0.1 * np.linalg.norm(w) / np.linalg.norm(direction) * direction
        np.testing.assert_allclose(got, w, rtol=1e-4)


MUON = TrainingConfig(
    optimizer=Muon(), learning_rate=0.1, schedule=Constant(), warmup_epochs=0, weight_decay=0.5
)


def numpy_orthogonalized(matrix):
    """Jordan's five steps, on the singular values: each is put through his polynomial."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.linalg.norm(matrix)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ v


def test_muon_orthogonalizes_nesterovs_momentum(gradients):
    w, average = np.ones((3, 4)), np.zeros((3, 4))
    found = trajectory(MUON, gradients, np.ones((3, 4), np.float32))
    for t, (gradient, got) in enumerate(zip(gradients, found, strict=True), start=1):
        average = 0.95 * average + 0.05 * gradient
        ahead = 0.95 * average / (1 - 0.95 ** (t + 1)) + 0.05 * gradient / (1 - 0.95**t)
        w = w - 0.1 * (0.2 * np.sqrt(4) * numpy_orthogonalized(ahead) + 0.5 * w)
        np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4), (24, 6), (8, 8)], ids=str)
def test_a_step_of_muon_is_torchs(shape):
    """torch computes it in bfloat16."""
    torch = pytest.importorskip("torch", reason="its Muon is the oracle")
    rng = np.random.default_rng(4)
    start, gradient = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    (found,) = trajectory(MUON, gradient[None], start)
    weight = torch.nn.Parameter(torch.tensor(start))
    weight.grad = torch.tensor(gradient)
    rule = torch.optim.Muon([weight], lr=0.1, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
    rule.step()
    expected = weight.detach().numpy()
    moved = np.abs(expected - start).max()
    np.testing.assert_allclose(found, expected, atol=0.02 * moved)


def test_muon_leaves_all_but_hidden_matrices_to_adam():
    """In V3, which has every kind of layer, at the first step: Adam's update there is a sign."""
    spec = small_v3(dropout=0.0)
    shapes = variable_shapes(spec)
    rng = np.random.default_rng(5)
    flat = {
        tuple(name.split("/")[1:]): rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
        if name.startswith("params/")
    }
    gradients = traverse_util.unflatten_dict(flat)
    config = dataclasses.replace(MUON, weight_decay=0.0, learning_rate=1.0)
    update = optimizer.make(StaticRecipe.of(config))(Hyperparameters.of(config))
    changes, _ = jax.jit(update.update)(gradients, update.init(gradients), gradients)
    of_adam = {
        path
        for path, change in traverse_util.flatten_dict(changes).items()
        if np.allclose(np.abs(change), 1, atol=1e-3)
    }
    not_hidden = {"stem", "depthwise", "classifier"}
    matrices = {path for path in flat if path[-1] == "kernel" and not not_hidden & {*path}}
    assert {"expand", "project", "squeeze_excite", "hidden"} <= {n for p in matrices for n in p}
    assert of_adam == flat.keys() - matrices


@pytest.mark.parametrize("rule", [Sgd(momentum=0.0), RmsProp(), AdamW(), Lamb(), Muon()])
@pytest.mark.parametrize("depthwise", [False, True])
def test_decay_leaves_out_normalization_biases_and_unless_told_depthwise_kernels(rule, depthwise):
    config = TrainingConfig(
        optimizer=rule,
        weight_decay=0.5,
        decay_depthwise=depthwise,
        warmup_epochs=0,
        schedule=Constant(),
    )
    model = models.MobileNet(spec=make_short_spec())
    image = jnp.zeros((1, 8, 8, 3))
    shapes = jax.eval_shape(lambda k: model.init(k, image, train=False), jax.random.key(0))
    params = jax.tree.map(lambda s: jnp.ones(s.shape), shapes["params"])
    update = optimizer.make(StaticRecipe.of(config))(Hyperparameters.of(config))
    zeros = jax.tree.map(jnp.zeros_like, params)
    changes, _ = jax.jit(update.update)(zeros, update.init(params), params)
    touched = {
        jax.tree_util.keystr(path)
        for path, change in jax.tree_util.tree_leaves_with_path(changes)
        if np.any(change)
    }
    kernels = {
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "kernel"
    }
    of_depthwise = {name for name in kernels if "depthwise" in name}
    assert of_depthwise
    assert touched == (kernels if depthwise else kernels - of_depthwise)


def numpy_cross_entropy(logits, labels, smoothing):
    logits = logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    targets = np.full(logits.shape, smoothing / logits.shape[-1])
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return -(targets * log_p).sum(axis=-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_is_cross_entropy_with_smoothed_labels(smoothing):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(7, 5)).astype(np.float32), rng.integers(0, 5, 7)
    expected = numpy_cross_entropy(logits, labels, smoothing)
    got = metrics.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert smoothing == 0 or not np.allclose(expected, numpy_cross_entropy(logits, labels, 0))


class MetricsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    def test_padding_counts_for_nothing(self):
        rng = np.random.default_rng(2)
        logits, labels = rng.normal(size=(9, 5)).astype(np.float32), rng.integers(0, 5, 9)
        mask = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0], np.float32)
        sums = self.variant(metrics.masked_sums)(*map(jnp.asarray, (logits, labels, mask)))
        assert float(sums["count"]) == 6
        assert float(sums["correct"]) == (logits[:6].argmax(-1) == labels[:6]).sum()
        expected = numpy_cross_entropy(logits[:6], labels[:6], 0).sum()
        assert float(sums["loss"]) == pytest.approx(expected, rel=1e-5)


# The step, on a small network.


def batch_of(seed, size=8):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.uniform(-1, 1, (size, 8, 8, 3)).astype(np.float32),
        "label": rng.integers(0, 10, size).astype(np.int32),
    }


@functools.cache
def variables_of(spec):
    return jax.tree.map(jnp.asarray, initial_variables(spec, 8))


PLAIN = TrainingConfig(learning_rate=0.1, label_smoothing=0.0, ema_decay=0.0)
NUMBERS = Hyperparameters.of(PLAIN)


@functools.cache
def compiled_step(spec, **how):
    """One function for all numbers, so that it is compiled once."""
    update = optimizer.make(StaticRecipe.of(PLAIN))
    return jax.jit(make_train_step(models.MobileNet(spec=spec).apply, update, **how))


def parts_of(spec, **hyperparams):
    """A model, a first state and a compiled step (state, batch) with these numbers.

    There are averages if a number is their decay.
    """
    hyperparams = NUMBERS._replace(**hyperparams)
    update = optimizer.make(StaticRecipe.of(PLAIN))
    state = initial_state(variables_of(spec), update(hyperparams), jax.random.key(1))
    state = state.averaging() if hyperparams.ema_decay else state
    step = functools.partial(compiled_step(spec), hyperparams=hyperparams)
    return models.MobileNet(spec=spec), state, step


def test_a_step_learns_its_batch_and_moves_every_part_of_the_state():
    _, state, step = parts_of(make_short_spec(), ema_decay=0.5)
    batch = batch_of(0)
    before, losses = state, []
    for _ in range(4):
        state, found = step(state, batch)
        losses.append(float(found["loss"]))
    assert losses[-1] < losses[0]
    assert int(state.step) == 4
    for name in ("params", "batch_stats", "opt_state", "average"):
        olds, news = (jax.tree.leaves(getattr(s, name)) for s in (before, state))
        assert any(not np.array_equal(a, b) for a, b in zip(olds, news, strict=True)), name


def test_a_step_trains_every_parameter_of_attention():
    block = Attention(inputs=16, heads=2, head_channels=4, layer_scale=True)
    plain = make_short_spec()
    inputs = plain.blocks[-1].outputs
    blocks = (*plain.blocks, dataclasses.replace(block, inputs=inputs))
    _, state, step = parts_of(dataclasses.replace(plain, blocks=blocks))
    after = state
    for n in range(3):
        after, found = step(after, batch_of(n))
        assert np.isfinite(float(found["loss"]))
    name = f"block_{len(plain.blocks)}"
    own = [tree.params[name] for tree in (state, after)]
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(own[0]), jax.tree.leaves(own[1]), strict=True
    ):
        assert np.isfinite(new).all(), path
        assert not np.array_equal(old, new), path


def test_the_average_is_the_warmed_up_moving_average():
    _, state, step = parts_of(make_short_spec(), ema_decay=0.25)
    expected = jax.tree.map(np.asarray, state.values)
    for n in range(1, 6):
        state, _ = step(state, batch_of(n))
        kept = min(0.25, (1 + n) / (10 + n))
        expected = jax.tree.map(
            lambda a, v, kept=kept: kept * a + (1 - kept) * np.asarray(v), expected, state.values
        )
    chex.assert_trees_all_close(state.evaluated, expected, rtol=1e-5, atol=1e-6)


def test_without_its_warm_up_the_average_forgets_at_one_rate():
    _, state, _ = parts_of(make_short_spec(), ema_decay=0.9)
    step = functools.partial(
        compiled_step(make_short_spec(), ema_warmup=False),
        hyperparams=NUMBERS._replace(ema_decay=0.9),
    )
    expected = jax.tree.map(np.asarray, state.values)
    for n in range(3):
        state, _ = step(state, batch_of(n))
        expected = jax.tree.map(
            lambda a, v: 0.9 * a + (1 - 0.9) * np.asarray(v), expected, state.values
        )
    chex.assert_trees_all_close(state.evaluated, expected, rtol=1e-5, atol=1e-6)


def test_without_averaging_the_weights_are_evaluated():
    _, state, step = parts_of(make_short_spec())
    state, _ = step(state, batch_of(0))
    assert state.average is None
    values = {"params": state.params, "batch_stats": state.batch_stats}
    chex.assert_trees_all_equal(state.evaluated, values)


def test_label_smoothing_reaches_the_loss_of_the_step():
    losses = []
    for smoothing in (0.0, 0.3):
        model, state, step = parts_of(make_short_spec(), label_smoothing=smoothing)
        _, found = step(state, batch_of(0))
        losses.append(float(found["loss"]))
    key = jax.random.fold_in(state.dropout_key, 0)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, _ = apply(variables, batch_of(0)["image"], rngs={"dropout": key})
    expected = [
        numpy_cross_entropy(np.asarray(logits), batch_of(0)["label"], s).mean() for s in (0.0, 0.3)
    ]
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[0] != losses[1]


def test_dropout_differs_from_step_to_step():
    _, state, step = parts_of(make_short_spec())
    losses = {
        float(step(state.replace(step=jnp.int32(n)), batch_of(0))[1]["loss"]) for n in range(3)
    }
    assert len(losses) == 3


# The loop, around it.


@functools.cache
def compiled_loop():
    model = models.MobileNet(spec=make_short_spec())
    step = make_train_step(model.apply, optimizer.make(StaticRecipe.of(PLAIN)))
    place = placement("jit", 8)
    return Loop(
        train_step=place.compile_train(step),
        eval_step=place.compile_eval(make_eval_step(model.apply)),
        placement=place,
        hyperparams=lambda epoch: [NUMBERS] * 3,
        epochs=2,
        steps_per_epoch=3,
        batch_size=8,
    )


def parts_of_loop():
    """A model, the compiled loop and a state of its own, whose memory the loop may reuse."""
    model, state, _ = parts_of(make_short_spec())
    return model, compiled_loop(), jax.tree.map(jnp.copy, state)


def masked(batch, count):
    mask = (np.arange(len(batch["label"])) < count).astype(np.float32)
    return {**batch, "mask": mask}


def test_evaluation_is_the_mean_over_all_images_whatever_the_batches():
    model, loop, state = parts_of_loop()
    batches = [masked(batch_of(0), 8), masked(batch_of(1), 3)]
    found = loop.evaluate(state, batches, "test", 1, lambda progress: None)
    images = np.concatenate([batch_of(0)["image"], batch_of(1)["image"][:3]])
    labels = np.concatenate([batch_of(0)["label"], batch_of(1)["label"][:3]])
    apply = jax.jit(functools.partial(model.apply, train=False))
    logits = np.asarray(apply(state.evaluated, images))
    assert found.count == 11
    assert found.accuracy == pytest.approx((logits.argmax(-1) == labels).mean())
    assert found.loss == pytest.approx(numpy_cross_entropy(logits, labels, 0).mean(), rel=1e-4)


def test_fit_trains_every_epoch_and_keeps_the_history():
    _, loop, state = parts_of_loop()
    events, epochs = [], []
    state, history = loop.fit(
        state,
        map(batch_of, range(100)),
        lambda: [masked(batch_of(0), 8)],
        (),
        Callbacks(
            report=events.append,
            on_epoch=lambda state, history, _: epochs.append((int(state.step), len(history))),
        ),
    )
    assert epochs == [(3, 1), (6, 2)]
    assert [record.step for record in history] == [3, 6]
    assert [e.step for e in events if e.phase == "train"] == [1, 2, 3, 1, 2, 3]
    assert all(math.isfinite(record.train_loss) for record in history)


@pytest.mark.parametrize("bad_step", [1, 2, 3, 5])
def test_a_batch_that_makes_the_loss_not_finite_stops_the_run_naming_the_step(bad_step):
    _, loop, state = parts_of_loop()
    taken = []

    def batches():
        for n in range(1, 100):
            taken.append(n)
            batch = batch_of(n)
            if n == bad_step:
                batch["image"] = np.full_like(batch["image"], np.nan)
            yield batch

    with pytest.raises(NonFiniteError, match=rf"^step {bad_step}: ") as caught:
        loop.fit(state, batches(), lambda: [masked(batch_of(0), 8)], (), Callbacks())
    assert "\n" not in str(caught.value)
    assert len(taken) <= bad_step + 1


def test_a_batch_size_that_the_devices_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices() * 3)
    with pytest.raises(ValueError, match=r"^batch_size: got 8, legal: multiples of the 3 devices$"):
        placement("jit", 8)
