"""Converts weights of `keras.applications`: MobileNet, MobileNetV2, MobileNetV3Large and -Small.

A model of dialect `keras` computes what the Keras model computes, if both get pixels of the same
scale.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from mnet_jax.architectures import NetworkSpec
from mnet_jax.models import MobileNet
from mnet_jax.validation import one_line, require
from mnet_jax.weights.arithmetic import pads_alike, variants_of
from mnet_jax.weights.arrays import WeightsError
from mnet_jax.weights.conversion import (
    CLASSIFIER,
    Library,
    state_from_variables,
    variables_from_state,
)
from mnet_jax.weights.hdf5 import named_arrays
from mnet_jax.weights.layouts import KERAS as LAYOUT
from mnet_jax.weights.layouts import Names

APPLICATIONS = {
    "mobilenet_v1": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large": "MobileNetV3Large",
    "mobilenet_v3_small": "MobileNetV3Small",
}


def from_keras(
    keras_model: Any,
    model: MobileNet,
    *,
    fresh_head: jax.Array | None = None,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Converts a Keras application, or the content of a file that Keras wrote, to our variables.

        model = models.mobilenet_v3_small(dialect="keras")
        variables = weights.from_keras(keras.applications.MobileNetV3Small(), model)
        variables = weights.from_keras(weights.read("mobilenet_v3_small.keras"), model)

    Args:
      keras_model: an object with `layers` that have `name` and `get_weights()`, or a mapping of
        names such as `Conv1/kernel` to arrays.
      model: the network to convert for; if its `in_channels` is not the weights' 3, the stem's
        kernel is summed or repeated (`models.with_in_channels`).
      fresh_head: PRNG key for a new classifier with the model's classes. V3's hidden layer before
        the classifier is converted if it fits. If it does not fit, or is absent (as with
        `include_top=False`), it is also initialized from the key, with a warning. All other layers
        after the Keras model's backbone are ignored, whatever their names, and may be absent. None
        converts all layers, and the classes must be the same; in V1 and V2, a `Dense` of any name
        on the pooled features is then taken as the classifier.
      image_size: (rows, columns) of the model's images. There is a warning if the logits at this
        size differ from Keras'. None means the size that the Keras model is built for. If the
        Keras model is built for any size, the warning names the sizes at which the logits agree.

    Returns:
      {"params": ..., "batch_stats": ...} of float32, shaped as `model.init` shapes them.

    Raises:
      WeightsError: the Keras model does not fit `model`. The message is one line with the first
        names and shapes of each kind; the attribute `problems` has all of them.
    """
    state = keras_model
    if hasattr(keras_model, "layers"):
        image_size = image_size or _image_size_of(keras_model)
        state = {}
        for name, arrays in _layers_of(keras_model):
            named = named_arrays(name, arrays)
            if named.keys() & state.keys():
                raise WeightsError(f"keras_model: two layers are called {one_line(name)}")
            state |= named
    if isinstance(state, Mapping) and isinstance(model, MobileNet):
        present = {name: _present_name(name, model.spec) for name in state}
        twice = [name for name, count in Counter(present.values()).items() if count > 1]
        if twice:
            raise WeightsError(f"state_dict: holds {one_line(twice[0])} under several names")
        state = {present[name]: array for name, array in state.items()}
        if fresh_head is None:
            state = _with_classifier(state, model.spec)
    return variables_from_state(state, model, KERAS, fresh_head, image_size)


def to_keras(
    variables: Mapping[str, Any], model: MobileNet, *, image_size: tuple[int, int] = (224, 224)
) -> Any:
    """Returns the Keras application with the model's weights: images [b, h, w, 3] to logits.

    Args:
      variables: the model's `params` and `batch_stats`.
      model: the network.
      image_size: (rows, columns) of the images that the application will get, 32 or more. The
        application is built for this size, because Keras' padding of odd sizes depends on it.

    Raises:
      ValueError: the image is too small.
      WeightsError: Keras is not installed or has no such network, or the variables are not the
        model's.
    """
    pair = isinstance(image_size, tuple) and len(image_size) == 2
    require(pair and min(image_size) >= 32, "image_size", image_size, "(rows, columns), 32 or more")
    state = state_from_variables(variables, model, KERAS, image_size)
    application = _application(model.spec, image_size)
    by_layer: dict[str, list[np.ndarray]] = defaultdict(list)
    for name, array in state.items():
        by_layer[name.rpartition("/")[0]].append(array)
    for layer, arrays in by_layer.items():
        application.get_layer(layer).set_weights(arrays)
    return application


def _image_size_of(keras_model: Any) -> tuple[int, int] | None:
    """Returns the image size (rows, columns) that a model is built for; None means any size."""
    shape = getattr(keras_model, "input_shape", None)
    sides = shape[1:3] if isinstance(shape, tuple) and len(shape) == 4 else ()
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        return None
    return sides[0], sides[1]


def _layers_of(keras_model: Any) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields the name and weights of every layer, including those of nested models."""
    for layer in keras_model.layers:
        if hasattr(layer, "layers"):
            yield from _layers_of(layer)
        else:
            yield layer.name, layer.get_weights()


def _present_name(name: object, spec: NetworkSpec) -> object:
    """Translates an array's name in Keras 2 or TensorFlow.js to the name in current Keras."""
    if not isinstance(name, str) or "/" not in name:
        return name
    layer, _, array = name.rpartition("/")
    array = array.removesuffix(":0")  # TensorFlow's index of an operation's output
    if array == "depthwise_kernel":
        array = "kernel"
    if spec.name.startswith("mobilenet_v3"):
        layer = layer.replace("/BatchNorm", "_bn").replace("/", "_").lower()
    elif spec.name == "mobilenet_v2" and layer == "Logits":
        layer = "predictions"
    return f"{layer}/{array}"


def _with_classifier(state: Mapping[Any, Any], spec: NetworkSpec) -> dict[Any, Any]:
    """Gives the arrays of a user's own classifier the names of the application's classifier.

    A fine-tuned application has a `Dense` of any name on its pooled features. This layer is taken
    as the classifier if its arrays have the classifier's shapes, and no other array is missing or
    left over.
    """
    wanted = {entry.theirs: entry for entry in KERAS.entries(spec)}
    extra = [name for name in state if name not in wanted]
    missing = [entry for name, entry in wanted.items() if name not in state]
    found = dict(state)
    if len(extra) == len(missing) and all(CLASSIFIER in entry.ours for entry in missing):
        by_kind = {str(name).rpartition("/")[2]: name for name in extra}
        for entry in missing:
            name = by_kind.get(entry.theirs.rpartition("/")[2])
            dense = tuple(side for side in entry.shape[:-2] if side != 1) + entry.shape[-2:]
            if name is None or np.shape(state[name]) != dense:
                return dict(state)
            found[entry.theirs] = np.reshape(found.pop(name), entry.shape)
    return found


def _names(spec: NetworkSpec) -> dict[str, Names]:
    """Returns the applications' names of layers, including some that the network may not have."""
    if spec.name == "mobilenet_v1":
        names = {"stem": Names("conv1", "conv1_bn"), CLASSIFIER: Names("conv_preds")}
        for i in range(len(spec.blocks)):
            for part, short in (("depthwise", "dw"), ("pointwise", "pw")):
                conv = f"conv_{short}_{i + 1}"
                names[f"block_{i}/{part}"] = Names(conv, f"{conv}_bn")
        return names
    version2 = spec.name == "mobilenet_v2"
    if version2:
        names = {"stem": Names("Conv1", "bn_Conv1"), "head/conv": Names("Conv_1", "Conv_1_bn")}
        names[CLASSIFIER] = Names("predictions", matrix=True)
    else:
        names = {"stem": Names("conv", "conv_bn"), "head/conv": Names("conv_1", "conv_1_bn")}
        names |= {"head/hidden": Names("conv_2"), CLASSIFIER: Names("logits")}
    for i in range(len(spec.blocks)):
        prefix = "expanded_conv" if i == 0 else f"block_{i}" if version2 else f"expanded_conv_{i}"
        for part in ("expand", "depthwise", "project"):
            conv = f"{prefix}_{part}"
            names[f"block_{i}/{part}"] = Names(conv, f"{conv}_{'BN' if version2 else 'bn'}")
        squeeze = f"{prefix}_squeeze_excite_conv"
        names[f"block_{i}/squeeze_excite/reduce"] = Names(squeeze)
        names[f"block_{i}/squeeze_excite/expand"] = Names(f"{squeeze}_1")
    return names


def _application(spec: NetworkSpec, image_size: tuple[int, int]) -> Any:
    """Builds a randomly initialized application with the computation of a spec's network."""
    fitting = [
        _computation(one) == _computation(spec) and pads_alike(spec, [one.dialect], image_size)
        for one in variants_of(spec, "keras")
    ]
    if not any(fitting):
        width = f"width {spec.width:g}, dialect {spec.dialect.name}"
        legal = "what dialect='keras' builds, without variations"
        raise WeightsError(f"model: Keras has no {spec.name} of {width}, legal: {legal}")
    try:
        import keras
    except ImportError as error:
        raise WeightsError("to_keras: needs Keras, legal: pip install mnet_jax[keras]") from error
    options: dict[str, Any] = {
        "alpha": spec.width,
        "classes": spec.head.num_classes,
        "classifier_activation": None,
        "input_shape": (*image_size, spec.stem.inputs),
        "weights": None,
    }
    if spec.name == "mobilenet_v1":
        options["dropout"] = spec.head.dropout
    elif spec.name != "mobilenet_v2":
        options |= {"dropout_rate": spec.head.dropout, "minimalistic": not fitting[0]}
        options["include_preprocessing"] = False
    return getattr(keras.applications, APPLICATIONS[spec.name])(**options)


def _computation(spec: NetworkSpec) -> tuple:
    """Returns the parts of a spec that determine the logits, except for padding."""
    return spec.dialect.norm_epsilon, spec.stem, spec.blocks, replace(spec.head, dropout=0.0)


KERAS = Library(
    name="Keras",
    networks=tuple(APPLICATIONS),
    dialects={name[: len("mobilenet_vN")]: ("keras",) for name in APPLICATIONS},
    layout=LAYOUT,
    names=_names,
)
