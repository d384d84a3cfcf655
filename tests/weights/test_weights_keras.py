"""Weights of Keras' applications: the same logits and activations, and back without a change."""

import re
import warnings
from typing import NamedTuple

import jax
import numpy as np
import pytest
from keras_applications import (
    APPLICATIONS,
    application_of,
    forward,
    keras,
    model_of,
    randomize,
)
from weights_parity import (
    TOLERANCE,
    assert_computes_the_same,
    assert_equal_trees,
    assert_same_logits,
    assert_shaped_as_initialized,
    compiled,
    in_every_way,
    random_images,
    random_variables,
)

from mnet_jax import models, weights

h5py = pytest.importorskip("h5py", reason="h5py, of the extra [keras], writes the files")

# Keras' own, by the ten thousand.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
EXHAUSTIVE = pytest.mark.exhaustive
CASES = {  # odd rows or columns and even others: Keras pads the two differently
    "mobilenet_v1": ({"alpha": 0.35}, (96, 97)),
    "mobilenet_v2": ({"alpha": 1.4}, (65, 64)),
    "mobilenet_v3_large": ({"alpha": 0.75}, (97, 64)),
    "mobilenet_v3_small": ({"alpha": 1.0}, (65, 64)),
    "mobilenet_v3_small minimalistic": ({"alpha": 1.25, "minimalistic": True}, (97, 64)),
}
MORE_CASES = {
    "mobilenet_v1 at width 1": ({"alpha": 1.0}, (65, 64)),
    "mobilenet_v2 at width 0.28": ({"alpha": 0.28}, (96, 97)),
    "mobilenet_v3_large at width 1": ({"alpha": 1.0}, (64, 65)),
    "mobilenet_v3_large minimalistic": ({"alpha": 1.0, "minimalistic": True}, (65, 64)),
    "mobilenet_v3_small at width 0.75": ({"alpha": 0.75}, (64, 65)),
}


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


class Converted(NamedTuple):
    """A model, variables and images, and the logits and named activations that Keras gives."""

    model: models.MobileNet
    variables: dict
    images: np.ndarray
    logits: jax.Array
    activations: dict


@pytest.fixture(scope="module")
def application(request):
    network, (options, size) = request.param.split()[0], (CASES | MORE_CASES)[request.param]
    made = application_of(network, options, size)
    randomize(made, network, np.random.default_rng(0))
    return made, model_of(network, options)


@pytest.fixture(scope="module")
def converted(application):
    application, model = application
    images = random_images(np.random.default_rng(1), application.input_shape[1:3])
    watched = output_layers(application, model.spec)
    outputs = [application.get_layer(name).output for name in watched.values()]
    probe = keras.Model(application.input, [*outputs, application.output])
    *activations, logits = forward(probe, images)
    named = dict(zip(watched, activations, strict=True))
    return Converted(model, weights.from_keras(application, model), images, logits, named)


@pytest.mark.slow
@pytest.mark.parametrize(
    "application",
    [*CASES, *(pytest.param(name, marks=EXHAUSTIVE) for name in MORE_CASES)],
    indirect=True,
)
def test_logits_activations_and_normalization_constants_equal_keras(application, converted):
    norms = [v for v in application[0].layers if isinstance(v, keras.layers.BatchNormalization)]
    dialect = converted.model.spec.dialect
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {
        (dialect.norm_epsilon, dialect.norm_momentum)
    }
    assert_computes_the_same(*converted)


WAYS = {  # PyTorch's tests have four others, and the test above float32 in the lowering `auto`
    "mobilenet_v1": ("shifted", "bfloat16"),
    "mobilenet_v2": ("grouped", "bfloat16"),
    "mobilenet_v3_small": ("native", "float32"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "lowering", "precision"), in_every_way(WAYS), indirect=["application"]
)
def test_logits_equal_keras_in_every_lowering_and_precision(converted, lowering, precision):
    assert_same_logits(*converted[:4], lowering, precision)


@pytest.mark.parametrize(
    "side", [63, 48, *(pytest.param(side, marks=EXHAUSTIVE) for side in (32, 65))]
)
def test_the_slim_dialect_is_told_just_where_its_logits_are_not_keras(side):
    options, rng = {"alpha": 0.25}, np.random.default_rng(0)
    application = application_of("mobilenet_v1", options, (side, side))
    randomize(application, "mobilenet_v1", rng)
    model = models.mobilenet_v1(width=0.25, num_classes=10, dialect="slim")
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "model: the weights fit")
        variables = weights.from_keras(application, model)
    caught = [one for one in caught if "the weights fit" in str(one.message)]
    images = random_images(rng, (side, side))
    expected = np.asarray(forward(application, images))
    found = compiled(lambda v, x: model.apply(v, x, train=False), variables, images)
    agree = np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert agree == (side in (32, 63)) == (not caught)
    if agree:
        back = weights.to_keras(variables, model, image_size=(side, side))
        assert_equal_trees(weights.from_keras(back, model, image_size=(side, side)), variables)
    else:
        with pytest.raises(weights.WeightsError, match="Keras has no mobilenet_v1"):
            weights.to_keras(variables, model, image_size=(side, side))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("mobilenet_v1", {"alpha": 0.25}),
        ("mobilenet_v2", {"alpha": 0.28}),
        ("mobilenet_v3_small", {"alpha": 0.75}),
        pytest.param("mobilenet_v3_large", {"alpha": 0.35, "minimalistic": True}, marks=EXHAUSTIVE),
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


BACKBONES = {"mobilenet_v1": 0.25, "mobilenet_v2": 0.35, "mobilenet_v3_small": 0.75}


@pytest.fixture(scope="module")
def backbone(request):
    """A network without its top, and the model of three classes that is to have its weights."""
    network, width = request.param, BACKBONES[request.param]
    application = APPLICATIONS[network](
        weights=None, alpha=width, input_shape=(32, 32, 3), include_top=False
    )
    randomize(application, network, np.random.default_rng(0))
    return application, getattr(models, network)(width=width, num_classes=3, dialect="keras")


def plain_head(application):
    """What most people's fine-tuned models look like."""
    pool, dense = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(19)
    return keras.Sequential([application, pool, dense])


def functional_head(application):
    """A model in the middle of a graph, with a head of several layers."""
    images = keras.Input((32, 32, 3))
    x = application(keras.layers.RandomFlip()(keras.layers.Rescaling(1 / 127.5, -1)(images)))
    x = keras.layers.Dense(32, "relu", name="dense_7")(keras.layers.Flatten()(x))
    x = keras.layers.Dropout(0.2)(keras.layers.BatchNormalization()(x))
    return keras.Model(images, keras.layers.Dense(1, name="cat")(x))


def deep_head(application):
    """A model in a model in a model, whose layers' names repeat."""
    inner = keras.Sequential([application, keras.layers.GlobalAveragePooling2D()])
    hidden = keras.Sequential([inner, keras.layers.Dense(24, name="hidden")])
    top = [keras.layers.Dropout(0.1), keras.layers.Dense(19, name="logits_of_mine")]
    whole = keras.Sequential([keras.Input((32, 32, 3)), hidden, *top])
    whole.compile("adam", "mse")  # the optimizer's state stands in the files too
    whole.optimizer.build(whole.trainable_variables)
    return whole


def flat_head(application):
    """The layers of the network and the head side by side, and the network partly frozen."""
    for layer in application.layers[:20]:
        layer.trainable = False
    x = keras.layers.GlobalAveragePooling2D()(application.output)
    return keras.Model(application.input, keras.layers.Dense(19, name="out")(x))


FILES = ("a.h5", "a.keras", "b.weights.h5")


@pytest.mark.filterwarnings("ignore:state_dict. holds no conv_2", "ignore:You are saving")
@pytest.mark.parametrize(
    ("backbone", "head", "files"),
    [
        ("mobilenet_v1", flat_head, ["a.h5"]),
        ("mobilenet_v1", functional_head, ["a.keras"]),
        ("mobilenet_v2", plain_head, ["b.weights.h5"]),
        ("mobilenet_v2", deep_head, FILES),
        ("mobilenet_v3_small", functional_head, ["a.h5"]),
    ],
    indirect=["backbone"],
)
def test_a_fresh_head_takes_the_place_of_any_other(backbone, tmp_path, head, files, exhaustive):
    application, model = backbone
    whole, key = head(application), jax.random.key(0)
    expected = weights.from_keras(application, model, fresh_head=key)
    assert_shaped_as_initialized(expected, model)
    assert_equal_trees(weights.from_keras(whole, model, fresh_head=key), expected)
    for name in FILES if exhaustive else files:
        whole.save_weights(tmp_path / name) if "weights" in name else whole.save(tmp_path / name)
        state = weights.read(tmp_path / name, model)
        assert_equal_trees(weights.from_keras(state, model, fresh_head=key), expected)
        with pytest.raises(weights.WeightsError, match=r"\d+ extra \("):
            weights.from_keras(state, model)


def test_what_stands_before_the_backbone_is_no_head():
    """Its weights change what the backbone sees."""
    application = keras.applications.MobileNet(
        weights=None, alpha=0.25, input_shape=(32, 32, 3), include_top=False
    )
    layers = [keras.layers.Conv2D(3, 1, name="adapter"), application]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    whole = keras.Sequential([keras.Input((32, 32, 1)), *layers])
    model = models.mobilenet_v1(width=0.25, num_classes=3, dialect="keras")
    with pytest.raises(weights.WeightsError, match=r"1 extra \(adapter/kernel \[1, 1, 1, 3\]\)"):
        weights.from_keras(whole, model, fresh_head=jax.random.key(0))


@pytest.mark.filterwarnings("ignore:You are saving")
@pytest.mark.parametrize(
    ("backbone", "head"),
    [("mobilenet_v1", plain_head), ("mobilenet_v2", plain_head), ("mobilenet_v2", flat_head)],
    indirect=["backbone"],
)
def test_a_fine_tuned_model_gives_its_own_logits_and_so_do_its_files(backbone, head, tmp_path):
    application, model = backbone
    whole = head(application)
    model = getattr(models, model.spec.name)(
        width=model.spec.width, num_classes=19, dialect="keras"
    )
    variables = weights.from_keras(whole, model)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    expected = np.asarray(forward(whole, images))
    found = compiled(lambda v, x: model.apply(v, x, train=False), variables, images)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    for suffix in (".h5", ".keras", ".weights.h5"):
        path = tmp_path / f"model{suffix}"
        (whole.save_weights if "weights" in suffix else whole.save)(path)
        assert_equal_trees(weights.from_keras(weights.read(path), model), variables)


def test_two_layers_of_one_name_are_refused(small):
    application, model = small
    outer = keras.Sequential([application, keras.layers.Dense(3, name="logits")])
    with pytest.raises(weights.WeightsError, match="two layers are called logits"):
        weights.from_keras(outer, model)


def named_as_by_keras_2(application, number):
    arrays = {}
    for layer in application.layers:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        for variable, array in zip(layer.weights, layer.get_weights(), strict=True):
            kind = "depthwise_kernel" if depthwise else variable.name
            arrays[f"{layer.name}/{kind}{number}"] = array
    return arrays


@pytest.mark.parametrize("number", ["", ":0"])
def test_a_depthwise_kernel_may_be_called_one(small, number):
    """As Keras 2 and TensorFlow.js name it, and as TensorFlow numbers its variables."""
    application, model = small
    state = named_as_by_keras_2(application, number)
    assert sum("depthwise_kernel" in name for name in state) == len(model.spec.blocks)
    assert_equal_trees(weights.from_keras(state, model), weights.from_keras(application, model))


@pytest.mark.parametrize("backbone", ["mobilenet_v2"], indirect=True)
def test_names_of_keras_2_in_a_model_within_a_model_are_known(backbone, tmp_path):
    """One group for the whole inner model, whose arrays are listed with their own names."""
    application, model = backbone
    path = tmp_path / "nested.h5"
    arrays = named_as_by_keras_2(application, ":0")
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [b"mobilenet", b"pool", b"dense"]
        dense = {"dense/kernel:0": np.zeros((4, 19), "f4"), "dense/bias:0": np.zeros(19, "f4")}
        for name, group in (("mobilenet", arrays), ("pool", {}), ("dense", dense)):
            root.create_group(name).attrs["weight_names"] = [n.encode() for n in group]
            for array_name, array in group.items():
                root[name][array_name] = array
    state, key = weights.read(path, model), jax.random.key(0)
    with pytest.raises(weights.WeightsError, match=r"2 extra \(dense/kernel \[4, 19\], dense/bias"):
        weights.from_keras(state, model, fresh_head=key)  # no head of these features
    fitting = {n: a for n, a in state.items() if not n.startswith("dense/")}
    assert_equal_trees(
        weights.from_keras(fitting, model, fresh_head=key),
        weights.from_keras(application, model, fresh_head=key),
    )


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
