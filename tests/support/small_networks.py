"""A few blocks of each version, cheap to compile, with random variables and images."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from mnet_jax import architectures, models
from mnet_jax.architectures import (
    ConvNorm,
    FusedInvertedResidual,
    Head,
    Hidden,
    InvertedResidual,
    NetworkSpec,
    Separable,
    transforms,
)
from mnet_jax.architectures.dialects import dialect_of

KEY = jax.random.key(0)
# LLVM optimizes nothing: compiled in half the time, and small arrays are computed as fast.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def selected(spec, indices):
    """Some blocks of a network, with a head that fits: cheap to compile, alike in all else."""
    blocks = tuple(spec.blocks[i] for i in indices)
    conv, hidden = spec.head.conv, spec.head.hidden
    if conv:
        conv = dataclasses.replace(conv, inputs=blocks[-1].outputs, outputs=24)
    if hidden:
        hidden = dataclasses.replace(hidden, channels=20)
    head = dataclasses.replace(spec.head, conv=conv, hidden=hidden)
    return dataclasses.replace(spec, blocks=blocks, head=head)


def shortened(spec, count=6):
    return selected(spec, range(count))


def small_v1(**options):
    return shortened(architectures.mobilenet_v1(width=0.25, num_classes=7, **options))


def small_v2(*, shortcut="bottleneck", **options):
    """Blocks 2, 4 and 5 keep their shape; 2 leads into a strided block, 4 into 5."""
    options = {"width": 0.5, "num_classes": 7} | options
    plain = shortened(architectures.mobilenet_v2(shortcut="none", **options))
    return transforms.with_shortcut(plain, shortcut)


def small_v3(**options):
    """Two blocks without squeeze-and-excitation between four with it; ReLU, then h-swish."""
    options = {"width": 0.5, "num_classes": 7} | options
    return shortened(architectures.mobilenet_v3("small", **options))


def small_v4(**options):
    """Fused, three of two depthwise kernels, one of the first alone, one of none."""
    options = {"width": 0.25, "num_classes": 7} | options
    return selected(architectures.mobilenet_v4("conv_medium", **options), (0, 1, 2, 3, 8, 9))


def small_hybrid(**options):
    """Fused, of two depthwise kernels, of none; attention with and without downsampling."""
    options = {"width": 0.25, "num_classes": 7} | options
    spec = selected(
        architectures.mobilenet_v4("hybrid_medium", **options), (0, 1, 3, 4, 7, 8, 15, 22, 23)
    )
    blocks = tuple(
        dataclasses.replace(block, heads=3, head_channels=8)
        if isinstance(block, architectures.Attention)
        else block
        for block in spec.blocks
    )
    return dataclasses.replace(spec, blocks=blocks)


SMALL = {"v1": small_v1, "v2": small_v2, "v3": small_v3, "v4": small_v4}
ALL = SMALL | {"hybrid": small_hybrid}  # with what cannot be quantized


def mixed(activation=None):
    """A layer of every kind: all blocks, both shortcuts, a stride, a dilation, kernels of 3 and 5.

    With all activations too, or only one.
    """
    relu, relu6, swish = (activation or name for name in ("relu", "relu6", "hard_swish"))
    width = {"inputs": 16, "outputs": 16}
    return NetworkSpec(
        name="mixed",
        width=1.0,
        dialect=dialect_of("mobilenet_v4", "timm"),
        stem=ConvNorm(inputs=3, outputs=8, kernel=3, stride=2, activation=relu),
        blocks=(
            Separable(inputs=8, outputs=12, activation=relu6),
            FusedInvertedResidual(inputs=12, expanded=24, outputs=16, activation=relu),
            InvertedResidual(
                **width, expanded=32, kernel=5, squeeze=8, activation=swish, shortcut="bottleneck"
            ),
            InvertedResidual(**width, expanded=24, start_kernel=5, stride=2, activation=relu),
            InvertedResidual(**width, expanded=24, activation=relu6, shortcut="expansion"),
            InvertedResidual(**width, expanded=24, dilation=2, activation=relu6, bottleneck=relu6),
        ),
        head=Head(
            conv=ConvNorm(inputs=16, outputs=24, kernel=1, activation=relu6),
            hidden=Hidden(channels=20, activation=swish, normalized=False),
            dropout=0.0,
            num_classes=7,
        ),
    )


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def random_like(shapes, seed=0):
    """Parameters and statistics of these shapes, random and far from their initial values."""
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = math.prod(leaf.shape[:-1])
            return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(leaf.dtype)
        low, high = (0.5, 1.5) if name in ("scale", "var") else (-0.5, 0.5)
        return rng.uniform(low, high, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def random_variables(module, *arguments, **keywords):
    return random_like(jax.eval_shape(lambda key: module.init(key, *arguments, **keywords), KEY))


def initial_variables(spec, size):
    """Variables as a network has them at first, by NumPy: to compile `init` takes seconds."""

    def initial(path, leaf):
        name = path[-1].key
        first = {"scale": 1, "var": 1, "layer_scale": 1e-5}
        return leaf if name == "kernel" else np.full_like(leaf, first.get(name, 0))

    images = jnp.zeros((1, size, size, 3))
    variables = random_variables(models.MobileNet(spec=spec), images, train=False)
    return jax.tree_util.tree_map_with_path(initial, variables)


def model_and_variables(spec, **how):
    """A network and random variables of the shapes that it initializes, which is not traced here.

    That `variable_shapes` are those is tested in test_random_specs.py.
    """
    shapes = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32)
        for path, shape in architectures.variable_shapes(spec).items()
    }
    return models.MobileNet(spec=spec, **how), random_like(unflatten_dict(shapes, sep="/"))


def evaluate(model, variables, images):
    """Logits and named activations, in inference."""

    @quick_jit
    def apply(variables, images):
        return model.apply(variables, images, train=False, mutable=["intermediates"])

    logits, state = apply(variables, images)
    sown = state["intermediates"]
    return logits, jax.tree.map(lambda v: v[0], sown, is_leaf=lambda v: isinstance(v, tuple))


compiled_or_not = pytest.mark.parametrize("compiled", [True, False], ids=["jit", "no jit"])


def run(compiled, function, *arguments):
    return (quick_jit(function) if compiled else function)(*arguments)
