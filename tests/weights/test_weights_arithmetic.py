"""Weights that fit a network which computes something else than the library's: a warning."""

import dataclasses
import warnings

import numpy as np
import pytest
from flax import traverse_util
from weights_parity import random_variables

from mnet_jax import models, weights
from mnet_jax.weights.keras import KERAS


def v2(**options):
    return models.mobilenet_v2(width=0.35, num_classes=5, **options)


def expected(call, *arguments):
    """The warnings of a call, each one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*arguments)
    lines = [str(warning.message) for warning in caught]
    assert all(line.isprintable() for line in lines)
    assert {warning.filename for warning in caught} <= {__file__}  # it points to who called
    return lines


def both_ways(model, library="timm"):
    """What is told when variables of a model go to a library, and when they come back."""
    to, back = getattr(weights, f"to_{library}"), getattr(weights, f"from_{library}")
    variables = random_variables(model)
    with warnings.catch_warnings(action="ignore"):
        state = to(variables, model)
    return [expected(to, variables, model), expected(back, state, model)]


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"bottleneck": "relu6"}, "bottleneck"),
        ({"activation": "relu"}, "activation"),
        ({"shortcut": "none"}, "shortcut"),
    ],
)
def test_another_arithmetic_is_told(options, difference):
    for lines in both_ways(v2(dialect="timm", **options)):
        (line,) = lines
        assert f"different {difference}" in line and "will not agree" in line


def test_slims_arithmetic_is_the_papers_but_not_torchvisions():
    for dialect in ("slim", "paper"):
        assert both_ways(v2(dialect=dialect), "slim") == [[], []]
    for lines in both_ways(v2(dialect="torchvision"), "slim"):
        (line,) = lines
        assert "dialect torchvision, legal: slim" in line


@pytest.mark.parametrize("dialect", ["paper", "slim", "keras"])
def test_another_dialect_is_told(dialect):
    for lines in both_ways(v2(dialect=dialect)):
        (line,) = lines
        assert f"dialect {dialect}, legal: timm" in line


@pytest.mark.parametrize(
    ("model", "library"),
    [
        (v2(dialect="timm"), "timm"),
        (v2(dialect="torchvision"), "torchvision"),
        (models.mobilenet_v3_small(num_classes=5, dialect="timm"), "timm"),
        (models.mobilenet_v3_small(num_classes=5, dialect="slim", minimalistic=True), "timm"),
        # The same weights put to another use.
        (models.mobilenet_v2(num_classes=5, dialect="timm", input_stride=1), "timm"),
        (v2(dialect="timm").as_backbone(output_stride=8), "timm"),
        (v2(dialect="timm", dropout=0.5, norm_momentum=0.5), "timm"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.spec.name,
)
def test_the_librarys_own_arithmetic_is_not_told(model, library):
    assert both_ways(model, library) == [[], []]


@pytest.mark.parametrize(
    ("build", "width", "dialect", "library", "agreeing"),
    [  # sides divided by 32
        (models.mobilenet_v1, 0.25, "slim", "keras", {0, 31}),
        (models.mobilenet_v1, 0.25, "paper", "keras", {0, 31}),
        (models.mobilenet_v3_small, 1.0, "slim", "torchvision", {1}),
    ],
)
def test_paddings_that_agree_at_some_sizes_are_told_at_the_others(
    build, width, dialect, library, agreeing
):
    """Zeros before a map of n under a kernel of k and a stride of 2, by TensorFlow's definition.

    SAME has ((ceil(n / 2) - 1) 2 + k - n) // 2, Keras' V1 none, torchvision k // 2.
    """
    model = build(width=width, dialect=dialect, num_classes=5)
    back = getattr(weights, f"from_{library}")
    with warnings.catch_warnings(action="ignore"):
        own = build(width=width, dialect=library, num_classes=5)
        variables = random_variables(own)
        state = (
            weights.to_torchvision(variables, own)
            if library == "torchvision"
            else keras_state(variables, own)
        )
    (line,) = expected(lambda: back(state, model))
    listed = " or ".join(map(str, sorted(agreeing)))
    assert line.endswith(f"unless the images' sides leave {listed} when divided by 32")
    for side in (224, 223, 225, 96, 160, 200, 65, 33):
        lines = expected(lambda side=side: back(state, model, image_size=(side, side)))
        assert len(lines) == (side % 32 not in agreeing), side
        assert all(line.endswith(f"will not agree at {side} x {side} pixels") for line in lines)
    side = 224 if 0 in agreeing else 225
    assert not expected(lambda: back(state, model, image_size=(side, side + 32)))
    assert expected(lambda: back(state, model, image_size=(side, side + 4)))


def keras_state(variables, model):
    """Arrays under Keras' names, without Keras."""
    entries = KERAS.entries(model.spec)
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {entry.theirs: entry.to_theirs(np.asarray(flat[entry.ours])) for entry in entries}


def test_a_negative_variance_is_refused():
    model = v2(dialect="timm")
    state = weights.to_timm(random_variables(model), model)
    state["bn1.running_var"] = -state["bn1.running_var"]
    with pytest.raises(weights.WeightsError, match=r"1 negative variances \(bn1.running_var\)"):
        weights.from_timm(state, model)


def test_an_error_keeps_every_problem():
    model, wider = v2(dialect="timm"), models.mobilenet_v2(num_classes=5, dialect="timm")
    state = weights.to_timm(random_variables(wider), wider)
    with pytest.raises(weights.WeightsError) as caught:
        weights.from_timm(state, model)
    misshapen = [
        name
        for name, array in weights.to_timm(random_variables(model), model).items()
        if state[name].shape != array.shape
    ]
    assert len(caught.value.problems) == len(misshapen) > 100
    for name, problem in zip(misshapen, caught.value.problems, strict=True):
        assert problem.startswith(f"misshapen: {name}: got ")
    assert "fresh_head" not in str(caught.value)  # no remedy where the whole network is another


def test_two_names_of_one_array_are_refused():
    model = models.mobilenet_v3_small(dialect="keras", num_classes=5)
    with pytest.raises(weights.WeightsError, match="conv/kernel under several names"):
        weights.from_keras({"Conv/kernel": 0, "conv/kernel": 0}, model)


def test_a_spec_of_ones_own_has_no_names():
    model = v2(dialect="timm")
    spec = dataclasses.replace(model.spec, name="mine")
    with pytest.raises(weights.WeightsError, match="timm has no such mine"):
        weights.to_timm({}, models.MobileNet(spec=spec))
