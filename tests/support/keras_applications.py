"""Keras' applications on JAX with random weights, and the models of ours that equal them."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import numpy as np
import pytest
from weights_parity import random_kernel, random_vector

from mnet_jax import models

keras = pytest.importorskip("keras", reason="Keras, the extra [keras], is the oracle")

APPLICATIONS = {
    "mobilenet_v1": keras.applications.MobileNet,
    "mobilenet_v2": keras.applications.MobileNetV2,
    "mobilenet_v3_large": keras.applications.MobileNetV3Large,
    "mobilenet_v3_small": keras.applications.MobileNetV3Small,
}


def application_of(network, options, size):
    extra = {} if network in ("mobilenet_v1", "mobilenet_v2") else {"include_preprocessing": False}
    return APPLICATIONS[network](
        weights=None,
        input_shape=(*size, 3),
        classes=10,
        classifier_activation=None,
        **options,
        **extra,
    )


def model_of(network, options):
    ours = {name: value for name, value in options.items() if name != "alpha"}
    width = options.get("alpha", 1.0)
    return getattr(models, network)(width=width, num_classes=10, dialect="keras", **ours)


def randomize(application, network, rng):
    """Random weights, biases, scales and running statistics everywhere."""
    for layer in application.layers:
        shapes = [array.shape for array in layer.get_weights()]
        if isinstance(layer, keras.layers.BatchNormalization):
            kinds = ("scale", "bias", "mean", "var")
            layer.set_weights(
                [random_vector(rng, k, s) for k, s in zip(kinds, shapes, strict=True)]
            )
        elif shapes:
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            fan_in = np.prod(shapes[0][:2] if depthwise else shapes[0][:-1])
            kernel = random_kernel(rng, network, shapes[0], fan_in)
            layer.set_weights([kernel, *(random_vector(rng, "bias", s) for s in shapes[1:])])


def forward(application, images):
    """What the application gives; compiled as a whole, which takes a tenth of the time."""
    apply = jax.jit(
        lambda *args: application.stateless_call(*args, training=False)[0],
        compiler_options={"xla_backend_optimization_level": 0},
    )
    variables = (application.trainable_variables, application.non_trainable_variables)
    return apply(*([v.value for v in group] for group in variables), images)
