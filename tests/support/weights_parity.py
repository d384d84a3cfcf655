"""What the tests of the weights share: random weights, and one comparison with another library."""

from functools import cache
from itertools import product
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from depthwise_taps import needs_compiler
from flax import traverse_util
from lowerings import bfloat16_error

from mnet_jax import architectures
from mnet_jax.ops import Lowering
from mnet_jax.training.types import Precision

TOLERANCE = 1e-4  # of the largest value in the other library's array
NORMALIZATION = {  # far from the initial ones
    "scale": (0.5, 1.5),
    "bias": (-0.5, 0.5),
    "mean": (-0.5, 0.5),
    "var": (0.5, 1.5),
    "layer_scale": (0.3, 0.6),  # larger ones lead to queries that choose a single key
}

GAINS = {"mobilenet_v1": 2.5, "mobilenet_v2": 1.4, "mobilenet_v3": 1.7, "mobilenet_v4": 1.2}


def in_every_way(chosen):
    """Each network in every lowering and precision, as parameters: networks, lowerings, precisions.

    Args:
      chosen: for each network, the lowering and precision of it that are not left to --exhaustive.
    """
    cases = []
    for network, way in chosen.items():
        for lowering, precision in product(get_args(Lowering), get_args(Precision)):
            marks = [needs_compiler] if lowering == "native" else []
            if (lowering, precision) != way:
                marks.append(pytest.mark.exhaustive)
            cases.append(pytest.param(network, lowering, precision, marks=marks))
    return cases


def random_vector(rng, kind, channels):
    return rng.uniform(*NORMALIZATION[kind], channels).astype(np.float32)


def random_kernel(rng, network, shape, fan_in):
    """With the gain at which a network neither explodes nor forgets what image it saw."""
    gain = GAINS[network[: len("mobilenet_vN")]]
    return rng.normal(0, np.sqrt(gain / fan_in), shape).astype(np.float32)


def random_images(rng, size):
    return rng.uniform(-1, 1, (2, *size, 3)).astype(np.float32)


def random_variables(model, seed=0):
    """Variables of a model's shapes, far from the initial ones."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        if name == "kernel":
            return random_kernel(rng, model.spec.name, shape, np.prod(shape[:-1]))
        return random_vector(rng, name, shape)

    shapes = architectures.variable_shapes(model.spec)
    flat = {path: draw(path.rpartition("/")[2], shape) for path, shape in shapes.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


@cache
def initial_shapes(model):
    """Shapes and types of the variables that a model is initialized with."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    return jax.eval_shape(lambda k, x: model.init(k, x, train=False), jax.random.key(0), images)


def assert_shaped_as_initialized(variables, model):
    assert jax.tree.map(lambda a: (a.shape, a.dtype), variables) == jax.tree.map(
        lambda a: (a.shape, a.dtype), dict(initial_shapes(model))
    )


def assert_equal_trees(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def compiled(function, *arguments):
    """What a function gives; compiled in half the time."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function, compiler_options=options)(*arguments)


def assert_sees(logits):
    logits = np.asarray(logits)
    assert logits.std(0).mean() > 20 * TOLERANCE * np.abs(logits).max(), "blind to the images"


def assert_computes_the_same(model, variables, images, logits, activations):
    """Ours equal theirs.

    Args:
      model: ours.
      variables: converted.
      images: [b, h, w, 3].
      logits: theirs.
      activations: theirs, NHWC, by the path of our intermediate, such as `block_3_output`.
    """
    ours, state = compiled(
        lambda v, x: model.apply(v, x, train=False, mutable=["intermediates"]), variables, images
    )
    pairs = {"logits": (ours, logits)}
    for path, theirs in activations.items():
        value = state["intermediates"]
        for key in path.split("/"):
            value = value[key]
        pairs[path] = (value[0], theirs)
    assert_sees(logits)
    for path, (mine, theirs) in pairs.items():
        mine, theirs = np.asarray(mine), np.asarray(theirs)
        assert mine.shape == theirs.shape, path
        error = np.abs(mine - theirs).max() / np.abs(theirs).max()
        assert error <= TOLERANCE, f"{path}: {error}"


def assert_same_logits(model, variables, images, logits, lowering, precision):
    """Of a model, computed another way, and theirs: within the precision, and not within a finer.

    In bfloat16 by the root mean square, of which the error has a bound that follows from its bits.
    """
    model = model.clone(lowering=lowering, dtype=jnp.dtype(precision))
    ours = compiled(lambda v, x: model.apply(v, x, train=False), variables, images)
    assert_sees(logits)
    assert ours.shape == logits.shape
    if precision == "float32":
        assert np.abs(ours - logits).max() <= TOLERANCE * np.abs(logits).max()
    else:
        error = np.linalg.norm(ours - logits) / np.linalg.norm(logits)
        assert TOLERANCE < error <= bfloat16_error(model.spec)
