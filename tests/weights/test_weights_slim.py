"""Weights of TF-slim: the logits that a graph's own operations give, and the variables in scope.

There is no TensorFlow here: `tensorflow_graphs.compute` interprets the operations in NumPy.
"""

import numpy as np
import pytest
from real_weights import real_weights
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorflow_graphs import compute, slim_v1, slim_v2, slim_v3_small
from weights_parity import (
    assert_computes_the_same,
    assert_equal_trees,
    compiled,
    random_images,
    random_variables,
)

from mnet_jax import models, weights

NETWORKS = {
    "v1": (lambda rng: slim_v1(rng, 0.25, 5), models.mobilenet_v1, {"width": 0.25}),
    "v2": (lambda rng: slim_v2(rng, 5), models.mobilenet_v2, {}),
    "v3_small": (lambda rng: slim_v3_small(rng, 5), models.mobilenet_v3_small, {}),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_are_those_of_the_graphs_operations(network, tmp_path):
    build, factory, options = NETWORKS[network]
    rng = np.random.default_rng(0)
    graph = build(rng)
    (tmp_path / "frozen.pb").write_bytes(graph.SerializeToString())
    model = factory(num_classes=5, dialect="slim", **options)
    arrays = weights.read(tmp_path / "frozen.pb", model)
    variables = weights.from_slim(arrays, model)
    images = random_images(rng, (65, 64))
    assert_computes_the_same(model, variables, images, compute(graph, "logits", images), {})


def test_slims_rounded_gates_change_v3s_logits_as_little_as_documented(tmp_path):
    """0.16667 is 1/6 times 1.00002, in nine blocks one after the other."""
    rng = np.random.default_rng(0)
    graph = slim_v3_small(rng, 5, gate_slope=0.16667)
    (tmp_path / "frozen.pb").write_bytes(graph.SerializeToString())
    model = models.mobilenet_v3_small(num_classes=5, dialect="slim")
    variables = weights.from_slim(weights.read(tmp_path / "frozen.pb"), model)
    images = random_images(rng, (65, 64))
    ours = compiled(lambda v, x: model.apply(v, x, train=False), variables, images)
    theirs = compute(graph, "logits", images)
    assert np.abs(ours - theirs).max() <= 3e-4 * np.abs(theirs).max()


@pytest.mark.weights
def test_logits_of_the_authors_v1_are_those_of_its_graph():
    path = real_weights("retrained_graph.pb")
    graph = GraphDef.FromString(path.read_bytes())
    model = models.mobilenet_v1(num_classes=1001, dialect="slim")
    variables = weights.from_slim(weights.read(path, model), model)
    images = random_images(np.random.default_rng(0), (224, 224))
    pre = "MobilenetV1/MobilenetV1"
    watched = {
        "stem_output": f"{pre}/Conv2d_0/Relu6",
        "block_1/filtered": f"{pre}/Conv2d_2_depthwise/Relu6",
        "block_12_output": f"{pre}/Conv2d_13_pointwise/Relu6",
    }
    activations = {ours: compute(graph, theirs, images) for ours, theirs in watched.items()}
    logits = compute(graph, "MobilenetV1/Logits/SpatialSqueeze", images)
    assert_computes_the_same(model, variables, images, logits, activations)


@pytest.fixture(scope="module")
def small():
    """A model, its variables, and TF-slim's names of them."""
    model = models.mobilenet_v1(width=0.25, num_classes=3, dialect="slim")
    variables = random_variables(model)
    return model, variables, weights.to_slim(variables, model)


def test_there_and_back_is_the_identity(small):
    model, variables, arrays = small
    assert_equal_trees(weights.from_slim(arrays, model), variables)


@pytest.mark.parametrize("prefix", ["import/", "module/", "FeatureExtractor/"])
def test_the_networks_scope_may_be_inside_another(small, prefix):
    model, variables, arrays = small
    inside = {prefix + name: array for name, array in arrays.items()}
    assert_equal_trees(weights.from_slim(inside, model), variables)
    with pytest.raises(weights.WeightsError, match=r"hold MobilenetV1/Conv2d_0.* several names"):
        weights.from_slim(inside | arrays, model)


def test_what_is_not_the_networks_is_ignored(small):
    model, variables, arrays = small
    others = {
        "global_step": np.int64(7),
        "MobilenetV1/Conv2d_0/weights/RMSProp": np.ones((3, 3, 3, 8), np.float32),
        "MobilenetV1/MobilenetV1/Conv2d_0/BatchNorm/batchnorm/add/y": np.float32(0.001),
        "final_training_ops/weights/final_weights": np.ones((3, 2), np.float32),
    }
    assert_equal_trees(weights.from_slim(arrays | others, model), variables)


def test_averages_are_preferred(small):
    model, variables, arrays = small
    averages = {f"{name}/ExponentialMovingAverage": a for name, a in arrays.items()}
    current = {name: np.zeros_like(array) for name, array in arrays.items()}
    assert_equal_trees(weights.from_slim(averages | current, model), variables)


def test_a_layer_that_the_network_has_not_is_refused(small):
    model, _, arrays = small
    more = arrays | {"MobilenetV1/Conv2d_14_pointwise/weights": np.ones((1, 1, 2, 2), np.float32)}
    with pytest.raises(weights.WeightsError, match=r"1 extra \(MobilenetV1/Conv2d_14_pointwise/we"):
        weights.from_slim(more, model)


def test_another_versions_weights_are_listed(small):
    _, _, arrays = small
    model = models.mobilenet_v2(num_classes=3, dialect="slim")
    with pytest.raises(weights.WeightsError) as caught:
        weights.from_slim(arrays, model)
    assert "does not fit mobilenet_v2 as TF-slim names it" in str(caught.value)
    assert "missing: MobilenetV2/Conv/weights [3, 3, 3, 32]" in caught.value.problems
    assert "extra: MobilenetV1/Conv2d_0/weights [3, 3, 3, 8]" in caught.value.problems
