"""The NNX front: the Linen network's logits, and NNX's own tools work on it."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx as flax_nnx
from small_networks import model_and_variables, quick_jit
from tiny_network import make_short_spec

from mnet_jax import architectures, models, nnx

pytestmark = pytest.mark.usefixtures("quickly_compiled")
IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32)
LABELS = np.arange(8) % 10
HEAD = flax_nnx.All(flax_nnx.Param, flax_nnx.PathContains("head"))


@pytest.fixture
def linen():
    return model_and_variables(make_short_spec())


@pytest.fixture
def network(linen):
    return nnx.from_variables(*linen, rngs=flax_nnx.Rngs(dropout=0))


def trees_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def logits_of(model, variables):
    return quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, IMAGES)


def test_variables_go_in_and_out_and_give_the_same_logits(linen, network, tmp_path):
    model, variables = linen
    trees_equal(network.variables, variables)
    network.eval()
    found = flax_nnx.jit(lambda network, images: network(images))(network, IMAGES)
    np.testing.assert_allclose(found, logits_of(model, variables), rtol=1e-5, atol=1e-5)
    models.save(tmp_path / "m.safetensors", network.linen, network.variables)
    trees_equal(models.load(tmp_path / "m.safetensors").variables, variables)


def test_variables_are_plain_and_at_the_paths_of_the_spec(network):
    kinds = {"params": flax_nnx.Param, "batch_stats": flax_nnx.BatchStat}
    for path, shape in architectures.variable_shapes(network.spec).items():
        collection, _, names = path.partition("/")
        variable = network
        for name in names.split("/"):
            variable = getattr(variable, name)
        assert type(variable) is kinds[collection] and variable.shape == shape
    graph, state = flax_nnx.split(network)
    trees_equal(flax_nnx.merge(graph, state).variables, network.variables)


@pytest.mark.parametrize("trained", [flax_nnx.Param, HEAD], ids=["all", "head"])
def test_it_trains_with_nnxs_optimizer_and_freezes_by_path(network, trained):
    before = jax.tree.map(np.array, network.variables)
    optimizer = flax_nnx.Optimizer(network, optax.sgd(0.1), wrt=trained)

    @flax_nnx.jit
    def step(network, optimizer):
        def loss_of(network):
            logits = network(IMAGES)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

        part = flax_nnx.DiffState(0, trained)
        loss, gradients = flax_nnx.value_and_grad(loss_of, argnums=part)(network)
        optimizer.update(network, gradients)
        return loss

    losses = [float(step(network, optimizer)) for _ in range(8)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    after = network.variables
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    assert all(jax.tree.leaves(moved["batch_stats"]))
    assert all(jax.tree.leaves(moved["params"]["head"]))
    assert any(jax.tree.leaves(moved["params"]["stem"])) == (trained is flax_nnx.Param)


def test_training_mode_is_the_linen_networks(linen, network):
    """With the same dropout key: the same logits and running statistics."""
    model, variables = linen
    spec = make_short_spec(dropout=0.0)
    network = nnx.from_variables(models.MobileNet(spec=spec), variables, rngs=flax_nnx.Rngs(0))
    found = network(IMAGES)
    wanted, updates = models.MobileNet(spec=spec).apply(
        variables, IMAGES, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        jax.tree.leaves(network.variables["batch_stats"]),
        jax.tree.leaves(updates["batch_stats"]),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not network.deterministic
    network.eval()
    trees_equal(network(IMAGES), network(IMAGES))  # statistics stay
    assert model.spec.head.dropout > 0


def test_factories_take_the_options_of_models():
    network = nnx.mobilenet_v3_small(
        width=0.35, num_classes=3, in_channels=1, rngs=flax_nnx.Rngs(params=0, dropout=1)
    )
    assert network.spec == models.mobilenet_v3_small(width=0.35, num_classes=3, in_channels=1).spec
    shapes = jax.tree.map(np.shape, network.variables)
    model = network.linen
    images = np.zeros((1, 64, 64, 1), np.float32)
    wanted = jax.eval_shape(lambda k: model.init(k, images, train=False), jax.random.key(0))
    assert shapes == jax.tree.map(np.shape, wanted)


def test_variables_of_another_network_are_refused_in_one_line(linen):
    model, variables = linen
    other = models.MobileNet(spec=model.spec.with_classes(3))
    with pytest.raises(ValueError, match=r"^variables: got '?params/head/classifier/\w+ \[.*$"):
        nnx.from_variables(other, variables, rngs=flax_nnx.Rngs(0))
    params = {name: part for name, part in variables["params"].items() if name != "stem"}
    with pytest.raises(ValueError, match=r"^variables: got '?no params/stem/.*$"):
        nnx.from_variables(model, {**variables, "params": params}, rngs=flax_nnx.Rngs(0))
