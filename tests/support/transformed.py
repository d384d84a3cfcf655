"""Every kind of layer and a network of all kinds, as functions of arrays to transform.

For test_transformations.py and its program of several devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from small_networks import images_of, mixed, random_variables, shortened

from mnet_jax import models, ops

BATCH, CHANNELS, OUTPUTS = 16, 8, 12
RNG = np.random.default_rng(0)


def _normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


X = _normal(BATCH, 9, 10, CHANNELS)
NORM, BIAS = _normal(3, CHANNELS), _normal(OUTPUTS)
WINDOW, WIDE = _normal(3, 3, CHANNELS), _normal(5, 5, CHANNELS)
MIXING, FULL = _normal(CHANNELS, OUTPUTS), _normal(3, 3, CHANNELS, OUTPUTS)


def _pending(x, norm):
    return ops.Pending(x=x, norm=norm, activation="hard_swish")


def _finish(bias):
    return ops.Finish(bias=bias, activation="relu6")


def _depthwise(lowering, x, norm, kernel, **how):
    return ops.depthwise(_pending(x, norm), kernel, lowering=lowering, **how).y


def _finished(convolve, lowering, x, kernel, bias, **how):
    return convolve(ops.Pending(x=x), kernel, lowering=lowering, finish=_finish(bias), **how).y


def _panels(lowering, x, kernel, bias):
    return _finished(ops.pointwise, lowering, x, ops.pack(kernel), bias)


def _inverted(lowering, x, expand, first, kernel, second, project, third, skip=None, **how):
    return ops.inverted_residual(
        x,
        ops.FoldedConv(ops.pack(expand), _finish(first)),
        ops.FoldedConv(kernel, _finish(second)),
        ops.FoldedConv(ops.pack(project), ops.Finish(bias=third)),
        skip=skip,
        lowering=lowering,
        **how,
    )


_BLOCK = (MIXING, BIAS, _normal(3, 3, OUTPUTS), BIAS, _normal(OUTPUTS, CHANNELS), NORM[0])

# Functions of (lowering, images, *what all images share), and their arrays.
LAYERS = {
    "depthwise_conv": (lambda low, *a: ops.depthwise_conv(*a, lowering=low), (X, WINDOW)),
    "depthwise_conv, stride 2": (
        lambda low, *a: ops.depthwise_conv(*a, strides=2, lowering=low),
        (X, WINDOW),
    ),
    "depthwise_conv, dilation 2": (
        lambda low, *a: ops.depthwise_conv(*a, dilation=2, lowering=low),
        (X, WINDOW),
    ),
    "depthwise": (_depthwise, (X, NORM, WIDE)),
    "depthwise, stride 2": (partial(_depthwise, strides=2), (X, NORM, WIDE)),
    "depthwise, finished": (
        partial(_finished, ops.depthwise, strides=2),
        (X, WINDOW, NORM[0]),
    ),
    "pointwise": (
        lambda low, x, norm, kernel: ops.pointwise(_pending(x, norm), kernel, lowering=low).y,
        (X, NORM, MIXING),
    ),
    "pointwise, finished": (partial(_finished, ops.pointwise), (X, MIXING, BIAS)),
    "pointwise, panels": (_panels, (X, MIXING, BIAS)),
    "full": (
        lambda low, x, norm, kernel: ops.full(_pending(x, norm), kernel, strides=2, lowering=low).y,
        (X, NORM, FULL),
    ),
    "full, finished": (partial(_finished, ops.full), (X, FULL, BIAS)),
    "inverted_residual": (lambda low, x, *a: _inverted(low, x, *a, skip=x), (X, *_BLOCK)),
    "inverted_residual, stride 2": (partial(_inverted, strides=2), (X, *_BLOCK)),
}


def value_and_gradients(function):
    """Of (images, *others): what it gives, and the gradients of a number that depends on all."""

    def energy(*arrays):
        y = function(*arrays)
        return jnp.sin(y).sum(), y

    def both(*arrays):
        places = tuple(range(len(arrays)))
        gradients, y = jax.grad(energy, places, has_aux=True)(*arrays)
        return y, *gradients

    return both


SPEC = shortened(mixed(), 3)
IMAGES, LABELS = images_of(BATCH, 17, 16, 3), np.arange(BATCH) % SPEC.head.num_classes
VARIABLES = random_variables(models.MobileNet(spec=SPEC), IMAGES, train=False)


def training(lowering, variables, images, labels, *, axis_name=None):
    """The mean loss, logits, moved statistics and gradients of a step."""
    model = models.MobileNet(spec=SPEC, lowering=lowering, axis_name=axis_name)

    def loss_of(params):
        logits, moved = model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"]
        )
        right = jax.nn.one_hot(labels, logits.shape[-1]) * jax.nn.log_softmax(logits)
        loss = -right.sum() / BATCH
        if axis_name:
            loss = jax.lax.psum(loss, axis_name)
        return loss, (logits, moved)

    (loss, aux), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
    return loss, *aux, gradients


def inference(lowering, variables, images):
    return models.MobileNet(spec=SPEC, lowering=lowering).apply(variables, images, train=False)


def fused(lowering):
    """`models.fuse`'s function and parameters."""
    return models.fuse(models.MobileNet(spec=SPEC, lowering=lowering), VARIABLES)


def distance(found, wanted):
    """The largest difference over the largest value of an array, at worst."""

    def one(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape, (a.shape, b.shape)
        return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-3)) if b.size else 0.0

    return max(jax.tree.leaves(jax.tree.map(one, found, wanted)))
