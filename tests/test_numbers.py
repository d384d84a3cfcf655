"""Numbers of NumPy's and JAX's are taken wherever Python's are, and become Python's own."""

import dataclasses
import inspect
import json
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from messages import one_line

from mnet_jax import architectures, models, serialization
from mnet_jax.analysis import cost
from mnet_jax.architectures import FACTORIES, transforms
from mnet_jax.config import (
    AdamW,
    DataConfig,
    Exponential,
    Lamb,
    Muon,
    RmsProp,
    RunConfig,
    Sgd,
    TrainingConfig,
)
from mnet_jax.models import View
from mnet_jax.validation import plain

WHOLE = (np.int64, np.int32, np.uint16, np.array, jnp.int32)
REAL = (np.float32, np.float64, np.array, jnp.float32)
TRUTH = (np.bool_, np.array, jnp.bool_)


def kinds_of(value):
    """The types of number that a value of Python's may come as."""
    if type(value) is int and value > np.iinfo(np.uint16).max:
        return tuple(kind for kind in WHOLE if kind is not np.uint16)
    return {bool: TRUTH, int: WHOLE, float: REAL}.get(type(value), ())


@pytest.mark.parametrize(
    "given, own",
    [
        (np.float32(0.35), 0.35),
        (jnp.float32(0.1), 0.1),
        (np.float16(0.35), 0.35),
        (np.float64(0.1) + np.float64(0.2), 0.1 + 0.2),
        (np.float32(1e-45), 1e-45),
        (np.float32(math.inf), math.inf),
        (np.array(7), 7),
        (np.bool_(True), True),
        (np.str_("keras"), "keras"),
        (ml_dtypes.bfloat16(0.5), 0.5),
    ],
)
def test_the_number_is_the_one_that_is_printed(given, own):
    found = plain(given)
    assert found == own and type(found) is type(own)


def test_arrays_and_all_else_stay_as_they_are():
    for value in (np.ones(1), None, "relu6", (np.int64(1),), [1.0]):
        assert plain(value) is value


OPTIONS = {
    "width": 0.35,
    "num_classes": 5,
    "dropout": 0.25,
    "norm_momentum": 0.9,
    "input_stride": 2,
    "expansion": 4,
    "minimalistic": True,
    "squeeze_excite": False,
    "hard_swish_from": 80,
    "stem": 32,
}


def options_of(factory):
    return {
        name: OPTIONS[name] for name in inspect.signature(factory).parameters if name in OPTIONS
    }


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small",
                                  "mobilenet_v4_conv_small"])  # fmt: skip
def test_a_network_of_such_numbers_is_that_of_pythons(name):
    factory, model = FACTORIES[name], getattr(models, name)
    options = options_of(factory)
    wanted = factory(**options)
    for option, value in options.items():
        for kind in kinds_of(value):
            found = factory(**options | {option: kind(value)})
            assert found == wanted and hash(found) == hash(wanted), (option, kind)
            assert found.to_json() == wanted.to_json()
            assert repr(found) == repr(wanted)  # no number of theirs is left in it
    assert model(**{name: kinds_of(value)[0](value) for name, value in options.items()}) == model(
        **options
    )


@pytest.mark.parametrize(
    "option, value",
    [
        ("num_classes", np.bool_(True)),
        ("num_classes", np.float32(5)),
        ("num_classes", np.ones(1, int)),
        ("width", np.bool_(True)),
        ("width", jnp.float32(math.nan)),
        ("dropout", np.float64(1)),
        ("input_stride", np.int64(3)),
        ("input_stride", np.float64(4)),
    ],
)
def test_what_is_no_such_number_stays_refused(option, value):
    one_line(ValueError, lambda: architectures.mobilenet_v2(**{option: value}), f"{option}: got ")


def test_truth_values_are_no_numbers_for_v3_either():
    one_line(
        ValueError, lambda: architectures.mobilenet_v3("small", minimalistic=np.int64(1)),
        "minimalistic: got ",
    )  # fmt: skip


CONFIGS = (
    RunConfig(spec=architectures.mobilenet_v1(width=0.25), seed=3),
    DataConfig(batch_size=64, start_resolution=16, erasing=0.1, bad_images=1),
    TrainingConfig(epochs=3, learning_rate=0.05, frozen=1, accumulate=2, mixup=0.2),
    *(Sgd(), RmsProp(), AdamW(), Lamb(), Muon(), Exponential()),
    View(resolution=96, photographs=True),
    *architectures.mobilenet_v3("small").blocks[:1],
    architectures.mobilenet_v3("small").head,
    architectures.mobilenet_v3("small").dialect,
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_of_such_numbers_is_that_of_pythons(config):
    text = serialization.to_json(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for kind in kinds_of(value):
            found = dataclasses.replace(config, **{field.name: kind(value)})
            assert found == config and hash(found) == hash(config)
            assert (
                serialization.to_json(found)
                == text
                == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
            )
            assert type(getattr(found, field.name)) is type(value)


def test_transforms_and_counts_take_them_too():
    spec = architectures.mobilenet_v2(width=0.5)
    for of in (int, np.int64, jnp.int32):
        assert transforms.with_expansion(spec, of(4)) == transforms.with_expansion(spec, 4)
        assert transforms.with_kernel(spec, of(5)) == transforms.with_kernel(spec, 5)
        assert cost.count(spec, of(96)) == cost.count(spec, 96)
        model = models.MobileNet(spec=spec).as_backbone(output_stride=of(16))
        assert model.spec == models.MobileNet(spec=spec).as_backbone(output_stride=16).spec


@pytest.mark.parametrize(
    "made",
    [
        lambda of: models.ConvNorm(of(4), kernel=of(3), stride=of(2)),
        lambda of: models.DepthwiseConv(kernel=of(3), dilation=of(2)),
        lambda of: models.InvertedResidual(of(4), expanded=of(8), squeeze=of(2)),
    ],
)
def test_layers_and_blocks_take_them_too(made):
    def shapes(of):
        layer = made(of)
        mode = {} if isinstance(layer, models.DepthwiseConv) else {"train": False}
        x = jnp.ones((2, 8, 8, 4))
        return jax.eval_shape(lambda key: layer.init(key, x, **mode), jax.random.key(0))

    assert shapes(np.int64) == shapes(int)
