"""Weights of Keras' applications: the same logits and activations, and back without a change."""

import re

import jax
import numpy as np
import pytest
from keras_applications import application_of, forward, keras, model_of, randomize
from lowerings import every_lowering, every_precision
from weights_parity import (
    assert_computes_the_same,
    assert_equal_trees,
    assert_same_logits,
    assert_shaped_as_initialized,
    random_images,
    random_variables,
)

from mnet_jax import models, weights

h5py = pytest.importorskip("h5py", reason="h5py, of the extra [keras], writes the files")

CASES = [  # odd rows or columns and even others: Keras pads the two differently
    ("mobilenet_v1", {"alpha": 0.35}, (96, 97)),
    ("mobilenet_v1", {"alpha": 1.0}, (65, 64)),
    ("mobilenet_v2", {"alpha": 0.28}, (96, 97)),
    ("mobilenet_v2", {"alpha": 1.4}, (65, 64)),
    ("mobilenet_v3_large", {"alpha": 1.0}, (64, 65)),
    ("mobilenet_v3_large", {"alpha": 0.75}, (97, 64)),
    ("mobilenet_v3_large", {"alpha": 1.0, "minimalistic": True}, (65, 64)),
    ("mobilenet_v3_small", {"alpha": 1.0}, (65, 64)),
    ("mobilenet_v3_small", {"alpha": 0.75}, (64, 65)),
    ("mobilenet_v3_small", {"alpha": 1.25, "minimalistic": True}, (97, 64)),
]


@pytest.fixture(scope="module", autouse=True)
def _plain_initializers():
    """Zeros for Keras' random kernels, which are all replaced here and take seconds to compile."""
    with pytest.MonkeyPatch.context() as patch:
        kind = keras.initializers.VarianceScaling
        patch.setattr(kind, "__call__", lambda self, shape, dtype=None: np.zeros(shape, np.float32))
        yield


def output_layers(application, spec):
    """Keras' layers by the paths of our intermediates: every block's output, and some inside."""
    present = {layer.name for layer in application.layers}
    if spec.name == "mobilenet_v1":
        blocks = {f"block_{i}_output": f"conv_pw_{i + 1}_relu" for i in range(len(spec.blocks))}
        return blocks | {"stem_output": "conv1_relu", "block_1/filtered": "conv_dw_2_relu"}
    version2 = spec.name == "mobilenet_v2"
    found = {
        "block_2/projected": "block_2_project_BN" if version2 else "expanded_conv_2_project_bn"
    }
    for i, block in enumerate(spec.blocks):
        prefix = "expanded_conv" if i == 0 else f"block_{i}" if version2 else f"expanded_conv_{i}"
        added = f"{prefix}_add"
        norm = f"{prefix}_project_{'BN' if version2 else 'bn'}"
        found[f"block_{i}_output"] = added if added in present else norm
        if block.squeeze:
            found[f"block_{i}/weighed"] = f"{prefix}_squeeze_excite_mul"
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("network", "options", "size"), CASES)
def test_logits_activations_and_normalization_constants_equal_keras(network, options, size):
    rng = np.random.default_rng(0)
    application = application_of(network, options, size)
    randomize(application, network, rng)
    model = model_of(network, options)
    dialect = model.spec.dialect
    norms = [v for v in application.layers if isinstance(v, keras.layers.BatchNormalization)]
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {
        (dialect.norm_epsilon, dialect.norm_momentum)
    }
    variables = weights.from_keras(application, model)
    assert_shaped_as_initialized(variables, model)
    images = random_images(rng, size)
    watched = output_layers(application, model.spec)
    outputs = [application.get_layer(name).output for name in watched.values()]
    probe = keras.Model(application.input, [*outputs, application.output])
    *activations, logits = forward(probe, images)
    named = dict(zip(watched, activations, strict=True))
    assert_computes_the_same(model, variables, images, logits, named)


@pytest.fixture(scope="module", params=["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
def converted(request):
    """A model, variables and images, and the logits that Keras gives."""
    network, options, size = request.param, {"alpha": 0.75}, (65, 64)
    rng = np.random.default_rng(0)
    application = application_of(network, options, size)
    randomize(application, network, rng)
    model, images = model_of(network, options), random_images(rng, size)
    return model, weights.from_keras(application, model), images, forward(application, images)


@pytest.mark.slow
@every_precision
@every_lowering
def test_logits_equal_keras_in_every_lowering_and_precision(converted, lowering, precision):
    assert_same_logits(*converted, lowering, precision)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("mobilenet_v1", {"alpha": 0.25}),
        ("mobilenet_v2", {"alpha": 0.35}),
        ("mobilenet_v3_large", {"alpha": 0.35, "minimalistic": True}),
        ("mobilenet_v3_small", {"alpha": 0.75}),
    ],
)
def test_there_and_back_is_the_identity(network, options):
    model = model_of(network, options)
    variables = random_variables(model)
    application = weights.to_keras(variables, model)
    assert application.input_shape == (None, 224, 224, 3)
    assert_equal_trees(weights.from_keras(application, model), variables)

    original = application_of(network, options, (64, 65))
    randomize(original, network, np.random.default_rng(1))
    back = weights.to_keras(weights.from_keras(original, model), model, image_size=(64, 65))
    images = random_images(np.random.default_rng(2), (64, 65))
    np.testing.assert_array_equal(forward(back, images), forward(original, images))
    assert len(back.layers) == len(original.layers)
    for one, other in zip(original.layers, back.layers, strict=True):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def small_application():
    application = application_of("mobilenet_v3_small", {"alpha": 0.35}, (None, None))
    randomize(application, "mobilenet_v3_small", np.random.default_rng(0))
    return application, model_of("mobilenet_v3_small", {"alpha": 0.35})


@pytest.fixture(scope="module")
def small():
    return small_application()


@pytest.mark.parametrize("name", ["a.keras", "a.weights.h5", "a.h5"])
def test_keras_files_hold_what_the_application_holds(small, tmp_path, name):
    application, model = small
    path = tmp_path / name
    application.save_weights(path) if ".weights." in name else application.save(path)
    variables = weights.from_keras(weights.read(path), model)
    assert_equal_trees(variables, weights.from_keras(application, model))


def test_an_application_inside_another_model_is_found(small):
    application, model = small
    outer = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Rescaling(2.0), application])
    assert_equal_trees(weights.from_keras(outer, model), weights.from_keras(application, model))


def test_names_of_keras_2_are_known(small, tmp_path):
    """Its V3 files, which Keras releases, have names with slashes and capitals."""
    application, model = small
    path = tmp_path / "released.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = []
        for layer in application.layers:
            old = re.sub("_bn$", "/BatchNorm", layer.name)
            old = re.sub("^(expanded_conv(_[0-9]+)?)_", r"\1/", old)
            old = re.sub("squeeze_excite_conv", "squeeze_excite/Conv", old)
            old = re.sub("^conv", "Conv", old).replace("logits", "Logits")
            group = file.create_group(old)
            names = [f"{old}/array_{i}:0" for i in range(len(layer.get_weights()))]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name] = array
    assert {"Conv/BatchNorm", "expanded_conv_1/expand"} <= {*_paths(path)}
    variables = weights.from_keras(weights.read(path), model)
    assert_equal_trees(variables, weights.from_keras(application, model))


def _paths(path):
    names = []
    with h5py.File(path) as file:
        file.visit(names.append)
    return names


def test_the_classifier_may_be_absent_where_it_is_fresh():
    application = keras.applications.MobileNetV2(
        weights=None, alpha=0.35, input_shape=(64, 64, 3), include_top=False
    )
    model = models.mobilenet_v2(width=0.35, num_classes=3, dialect="keras")
    with pytest.raises(weights.WeightsError, match=r"2 missing \(predictions/kernel \[1280, 3\]"):
        weights.from_keras(application, model)
    variables = weights.from_keras(application, model, fresh_head=jax.random.key(0))
    assert_shaped_as_initialized(variables, model)


@pytest.mark.parametrize(
    "model",
    [
        models.mobilenet_v2(num_classes=10, dialect="torchvision"),
        models.mobilenet_v2(num_classes=10, dialect="keras", expansion=3),
        models.mobilenet_v2(num_classes=10, dialect="keras", bottleneck="relu6"),
        models.mobilenet_v3_large(num_classes=10, dialect="keras", hard_swish_from=16),
        models.mobilenet_v3_large(num_classes=10, dialect="slim", width=0.5),
    ],
    ids=["padding", "expansion", "activation", "swish", "stem"],
)
def test_what_keras_has_not_is_refused_in_one_line(model):
    with pytest.raises(weights.WeightsError, match="model: Keras has no") as caught:
        weights.to_keras(random_variables(model), model)
    assert "\n" not in str(caught.value)


def test_keras_has_no_v4():
    model = models.mobilenet_v4_conv_small(num_classes=10)
    with pytest.raises(weights.WeightsError, match="Keras has no such mobilenet_v4_conv_small"):
        weights.from_keras({}, model)
