"""Dead units, dead kernels and what bottlenecks lose, against NumPy on the same activations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from messages import one_line
from small_networks import (
    SMALL,
    images_of,
    mixed,
    model_and_variables,
    quick_jit,
    shortened,
    small_v1,
    small_v2,
)

from mnet_jax.analysis import bottlenecks, dead_units, features
from mnet_jax.architectures import walk
from mnet_jax.models import activation_paths

pytestmark = pytest.mark.usefixtures("quickly_compiled")
COLLECTIONS = ["intermediates", "preactivations"]


def batches(count=3):
    return [images_of(4, 32, 32, 3, seed=seed) for seed in range(count)]


def few_v2(**options):
    """Four blocks of V2: of the last two one has a shortcut, and the other reads its output."""
    return shortened(small_v2(**options), 4)


def activations_of(model, variables, images):
    """What each layer computes, before and after its activation function."""
    apply = functools.partial(model.apply, train=False, mutable=COLLECTIONS)
    return quick_jit(apply)(variables, images)[1]


@pytest.fixture(scope="module")
def of_mixed():
    """A network of all kinds of layers, its variables, and its activations for all batches."""
    model, variables = model_and_variables(mixed())
    return model, variables, activations_of(model, variables, np.concatenate(batches()))


def shapes_of(model, variables, images):
    """The shapes of the named activations; nothing is computed."""
    apply = functools.partial(model.apply, train=False, mutable=COLLECTIONS)
    return jax.eval_shape(apply, variables, images)[1]["intermediates"]


def test_places_are_all_layers_but_the_classifier_and_squeeze_and_excitation():
    for spec in (*(make() for make in SMALL.values()), mixed()):
        model, variables = model_and_variables(spec)
        sown = shapes_of(model, variables, images_of(2, 32, 32, 3))
        expected = {
            layer.name: layer
            for layer in walk(spec, 32)
            if "squeeze" not in layer.name and layer.name != "head/classifier"
        }
        found = {place.layer: place for place in activation_paths(spec)}
        assert list(found) == list(expected)
        for name, place in found.items():
            layer = expected[name]
            size = () if layer.kind == "dense" else layer.output_size
            assert place.of(sown).shape == (2, *size, layer.outputs)


def test_places_say_what_follows_each_layer():
    found = {place.layer: place.activation for place in activation_paths(mixed())}
    assert found == {
        "stem": "relu",
        "block_0/depthwise": "relu6", "block_0/pointwise": "relu6",
        "block_1/expand": "relu", "block_1/project": "linear",
        "block_2/expand": "hard_swish", "block_2/depthwise": "hard_swish",
        "block_2/project": "linear",
        "block_3/start": "linear", "block_3/expand": "relu", "block_3/depthwise": "relu",
        "block_3/project": "linear",
        "block_4/expand": "relu6", "block_4/depthwise": "relu6", "block_4/project": "linear",
        "block_5/expand": "relu6", "block_5/depthwise": "relu6", "block_5/project": "relu6",
        "head/conv": "relu6", "head/hidden": "hard_swish",
    }  # fmt: skip


def test_preactivations_are_what_the_activations_are_applied_to(of_mixed):
    model, _, state = of_mixed
    numpys = {
        "linear": lambda x: x,
        "relu": lambda x: np.maximum(x, 0),
        "relu6": lambda x: np.clip(x, 0, 6),
        "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    }
    for place in activation_paths(model.spec):
        if place.layer != "head/hidden":  # a dense layer
            before = np.asarray(place.of(state["preactivations"]))
            assert before.min() < 0
            after = numpys[place.activation](before)
            np.testing.assert_allclose(
                place.of(state["intermediates"]), after, rtol=1e-5, atol=1e-6
            )


def with_unit(variables, layer, channel, bias, scale=0.0):
    """Variables in which a channel after a layer's normalization is a constant."""
    copy = jax.tree.map(np.array, variables)
    norm = copy["params"]
    for name in (*layer.split("/"), "norm"):
        norm = norm[name]
    norm["scale"][channel], norm["bias"][channel] = scale, bias
    return copy


def test_channels_made_dead_full_and_clipped_are_found():
    model, variables = model_and_variables(few_v2())
    for channel, bias in ((0, -1.0), (1, 2.0), (2, 9.0)):
        variables = with_unit(variables, "block_2/expand", channel, bias)
    found = {
        a.layer: a for a in dead_units.measure_activity(model, variables, batches()).activities
    }
    wide = found["block_2/expand"]
    assert wide.positions == 12 * np.prod(
        next(x for x in walk(model.spec, 32) if x.name == "block_2/expand").output_size
    )
    assert wide.never_active[0] and not wide.never_active[1:3].any()
    assert wide.always_active[1] and wide.always_active[2] and not wide.always_active[0]
    np.testing.assert_array_equal(wide.clipped[:3], [0, 0, 1])
    assert "block_2/project" not in found  # linear
    assert not found["block_1/expand"].never_active.all()


def test_shares_are_numpys_over_all_batches(of_mixed):
    model, variables, state = of_mixed
    for found in dead_units.measure_activity(model, variables, batches()).activities:
        place = next(place for place in activation_paths(model.spec) if place.layer == found.layer)
        values = np.asarray(place.of(state["intermediates"]))
        values = values.reshape(-1, values.shape[-1])
        # A batch's size may change the last bit of a sum, and so a value at the border.
        atol = 2 / len(values)
        np.testing.assert_allclose(found.active, (values > 0).mean(axis=0), atol=atol)
        clipped = (values >= 6).mean(axis=0) * (found.activation == "relu6")
        np.testing.assert_allclose(found.clipped, clipped, atol=atol)


def test_kernels_set_to_zero_are_dead_and_no_others():
    model, variables = model_and_variables(small_v1())
    variables = jax.tree.map(np.array, variables)
    kernel = variables["params"]["block_1"]["depthwise"]["conv"]["kernel"]
    kernel[..., [1, 4]] *= 1e-4
    found = {k.layer: k for k in dead_units.kernel_norms(model, variables)}
    assert list(found) == [f"block_{i}/depthwise" for i in range(6)]
    for name, kernels in found.items():
        dead = [1, 4] if name == "block_1/depthwise" else []
        assert np.flatnonzero(kernels.dead()).tolist() == dead
    np.testing.assert_allclose(
        found["block_1/depthwise"].norms,
        [np.linalg.norm(kernel[..., c]) for c in range(kernel.shape[-1])],
        rtol=1e-6,
    )


def test_feature_maps_are_the_networks_own():
    model, variables = model_and_variables(few_v2())
    image = images_of(32, 32, 3)
    sown = activations_of(model, variables, image[None])["intermediates"]
    maps = features.feature_maps(model, variables, image)
    np.testing.assert_allclose(
        maps["block_3/depthwise"], sown["block_3"]["filtered"][0][0], rtol=1e-5, atol=1e-6
    )
    assert "head/classifier" not in maps and "stem" in maps
    one_line(ValueError, lambda: features.feature_maps(model, variables, image[None]), "image")


# What bottlenecks lose.


def rows(x):
    return np.asarray(x, np.float64).reshape(-1, x.shape[-1])


def by_least_squares(inputs, targets):
    """Fitted on every other image from the first, judged on the others."""
    (fit_x, fit_y), (judge_x, judge_y) = (
        (np.column_stack([rows(inputs[half::2]), np.ones(len(rows(inputs[half::2])))]),
         rows(targets[half::2]))
        for half in (0, 1)
    )  # fmt: skip
    weights = np.linalg.lstsq(fit_x, fit_y, rcond=1e-6)[0]
    missed = ((judge_x @ weights - judge_y) ** 2).sum()
    return 1 - missed / ((judge_y - judge_y.mean(axis=0)) ** 2).sum()


@pytest.mark.parametrize("bottleneck", ["linear", "relu6"])
def test_what_is_recovered_is_numpys_least_squares(bottleneck):
    model, variables = model_and_variables(few_v2(bottleneck=bottleneck))
    images = images_of(48, 32, 32, 3)
    found = {
        b.layer: b
        for b in bottlenecks.measure_bottlenecks(model, variables, [images[:24], images[24:]])
    }
    assert list(found) == [f"block_{i}/project" for i in range(4)]
    state = activations_of(model, variables, images)
    for i in range(4):
        before = np.asarray(state["preactivations"][f"block_{i}"]["projected"][0])
        one = found[f"block_{i}/project"]
        assert (one.channels, one.positions) == (before.shape[-1], len(rows(before)))
        np.testing.assert_allclose(
            one.recovered, by_least_squares(np.maximum(before, 0), before), atol=1e-3
        )
        singular = np.linalg.svd(rows(before) - rows(before).mean(axis=0), compute_uv=False)
        shares = singular / singular.sum()
        np.testing.assert_allclose(one.rank, np.exp(-(shares * np.log(shares)).sum()), rtol=1e-3)
        if i < 3:
            wide = state["intermediates"][f"block_{i + 1}"]["expanded"][0]
            output = state["intermediates"][f"block_{i}_output"][0]
            assert one.expanded_channels == wide.shape[-1]
            np.testing.assert_allclose(
                one.recovered_expanded, by_least_squares(wide, output), atol=1e-3
            )
    assert found["block_3/project"].recovered_expanded is None


def test_a_bottleneck_that_is_above_zero_loses_nothing_and_one_below_it_all():
    model, variables = model_and_variables(few_v2())
    channels = model.spec.blocks[1].outputs
    kept, lost = variables, variables
    for channel in range(channels):
        kept = with_unit(kept, "block_1/project", channel, 50.0, scale=1.0)
        lost = with_unit(lost, "block_1/project", channel, -50.0, scale=1.0)
    of = {
        name: {b.layer: b for b in bottlenecks.measure_bottlenecks(model, values, batches())}
        for name, values in (("kept", kept), ("lost", lost))
    }
    assert of["kept"]["block_1/project"].recovered > 0.999
    assert of["lost"]["block_1/project"].recovered < 0.01
    constant = variables
    for channel in range(channels):
        constant = with_unit(constant, "block_1/project", channel, 1.0)
    found = {b.layer: b for b in bottlenecks.measure_bottlenecks(model, constant, batches())}
    assert found["block_1/project"].recovered == found["block_1/project"].rank == 1
    linear = bottlenecks.measure_bottlenecks(model, variables, batches(), activation="linear")
    many = [b for b in linear if b.positions > 10 * b.channels]  # enough to fit to
    assert len(many) > 2
    for one in many:
        assert one.recovered > 0.999
        np.testing.assert_allclose(one.activated_rank, one.rank, rtol=1e-3)


def test_only_expansions_that_read_pixel_by_pixel_are_asked(of_mixed):
    model, variables, _ = of_mixed
    found = {b.layer: b for b in bottlenecks.measure_bottlenecks(model, variables, batches())}
    requested = {name for name, b in found.items() if b.recovered_expanded is not None}
    assert list(found) == [f"block_{i}/project" for i in range(1, 6)]
    assert requested == {f"block_{i}/project" for i in (1, 3, 4)}  # block 3 begins with a filter


def test_networks_without_bottlenecks_and_lonely_images_are_refused_in_one_line():
    model, variables = model_and_variables(small_v1())
    one_line(
        ValueError,
        lambda: bottlenecks.measure_bottlenecks(model, variables, batches()),
        "bottlenecks",
    )
    model, variables = model_and_variables(few_v2())
    one = [jnp.zeros((1, 32, 32, 3))]
    one_line(
        ValueError,
        lambda: bottlenecks.measure_bottlenecks(model, variables, one),
        "2 images or more",
    )
    one_line(ValueError, lambda: bottlenecks.measure_bottlenecks(model, variables, []), "batches")
    one_line(ValueError, lambda: dead_units.measure_activity(model, variables, []), "batches")
