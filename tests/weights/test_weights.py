"""Conversion itself: every library's names there and back, and every misfit one clear line."""

import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights_parity import (
    assert_equal_trees,
    assert_shaped_as_initialized,
    initial_shapes,
    random_variables,
)

from mnet_jax import models, weights
from mnet_jax.weights.keras import KERAS
from mnet_jax.weights.slim import SLIM
from mnet_jax.weights.timm import TIMM
from mnet_jax.weights.torchvision import TORCHVISION

KEY = jax.random.key(0)
LIBRARIES = {library.name: library for library in (TORCHVISION, TIMM, KERAS, SLIM)}
DIALECTS = {"Keras": "keras", "TF-slim": "slim"}


def small_model(num_classes=10, dialect="timm"):
    return models.mobilenet_v2(width=0.35, num_classes=num_classes, dialect=dialect)


@pytest.fixture(scope="module")
def small():
    """A model, its variables, and timm's state dict of them."""
    model = small_model()
    variables = jax.tree.map(jnp.asarray, random_variables(model))
    return model, variables, weights.to_timm(variables, model)


@pytest.fixture(scope="module")
def fresh(small):
    """The variables with which the small model takes a fresh head."""
    model, _, state = small
    return weights.from_timm(state, model, fresh_head=KEY)


def with_hidden(model, **changes):
    """The model with another dense layer before its classifier."""
    head = model.spec.head
    head = replace(head, hidden=replace(head.hidden, **changes))
    return model.clone(spec=replace(model.spec, head=head))


def refusal(state, model, **options):
    """The one line with which a state dict is refused."""
    with pytest.raises(weights.WeightsError) as caught:
        weights.from_timm(state, model, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("library", "network"), [(n, v) for n, one in LIBRARIES.items() for v in one.networks]
)
def test_every_layer_has_a_name_of_its_own(library, network):
    """As many arrays as there are in our variables, none named twice, no element lost."""
    dialect = DIALECTS.get(library, library)
    model = getattr(models, network)(num_classes=10, dialect=dialect)
    entries = LIBRARIES[library].entries(model.spec)
    expected = {
        "/".join(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(initial_shapes(model))
    }
    assert {entry.ours: entry.our_shape for entry in entries} == expected
    assert len({entry.theirs for entry in entries}) == len(entries)
    assert all(np.prod(entry.shape) == np.prod(entry.our_shape) for entry in entries)


@pytest.mark.parametrize(
    ("library", "network", "names"),
    [  # read off the libraries' own files
        (
            "torchvision",
            "mobilenet_v2",
            {
                "features.1.conv.0.0.weight": (32, 1, 3, 3),
                "features.1.conv.2.running_var": (16,),
                "features.17.conv.2.weight": (320, 960, 1, 1),
                "features.18.1.bias": (1280,),
                "classifier.1.weight": (10, 1280),
            },
        ),
        (
            "torchvision",
            "mobilenet_v3_small",
            {
                "features.1.block.1.fc1.weight": (8, 16, 1, 1),
                "features.4.block.2.fc2.bias": (96,),
                "classifier.0.weight": (1024, 576),
            },
        ),
        (
            "timm",
            "mobilenet_v3_large",
            {
                "blocks.2.0.se.conv_reduce.weight": (24, 72, 1, 1),
                "blocks.6.0.conv.weight": (960, 160, 1, 1),
                "conv_head.bias": (1280,),
            },
        ),
        (
            "timm",
            "mobilenet_v4_conv_medium",
            {
                "blocks.0.0.conv_exp.weight": (128, 32, 3, 3),
                "blocks.2.5.dw_start.conv.weight": (160, 1, 3, 3),
                "norm_head.running_mean": (1280,),
            },
        ),
        (
            "Keras",
            "mobilenet_v3_small",
            {
                "expanded_conv_squeeze_excite_conv_1/kernel": (1, 1, 8, 16),
                "expanded_conv_1_depthwise/kernel": (3, 3, 72, 1),
                "expanded_conv_10_project_bn/moving_variance": (96,),
                "logits/bias": (10,),
            },
        ),
        (
            "TF-slim",
            "mobilenet_v2",
            {
                "MobilenetV2/expanded_conv/depthwise/depthwise_weights": (3, 3, 32, 1),
                "MobilenetV2/expanded_conv_16/project/BatchNorm/gamma": (320,),
                "MobilenetV2/Logits/Conv2d_1c_1x1/biases": (10,),
            },
        ),
        (
            "TF-slim",
            "mobilenet_v3_large",
            {
                "MobilenetV3/expanded_conv_3/squeeze_excite/Conv/weights": (1, 1, 72, 24),
                "MobilenetV3/expanded_conv_3/squeeze_excite/Conv_1/biases": (72,),
                "MobilenetV3/Conv_2/weights": (1, 1, 960, 1280),
            },
        ),
    ],
)
def test_names_and_shapes_are_the_librarys(library, network, names):
    dialect = DIALECTS.get(library, library)
    model = getattr(models, network)(num_classes=10, dialect=dialect)
    entries = {e.theirs: e.shape for e in LIBRARIES[library].entries(model.spec)}
    assert names.items() <= entries.items()


def test_there_and_back_is_the_identity(small):
    model, variables, state = small
    assert_equal_trees(weights.from_timm(state, model), variables)
    assert all(a.flags["C_CONTIGUOUS"] and a.flags["WRITEABLE"] for a in state.values())
    assert_shaped_as_initialized(weights.from_timm(state, model), model)


def test_elements_land_where_the_layouts_say(small):
    _, variables, state = small
    conv = variables["params"]["stem"]["conv"]["kernel"]
    depthwise = variables["params"]["block_1"]["depthwise"]["conv"]["kernel"]
    pointwise = variables["params"]["block_1"]["expand"]["conv"]["kernel"]
    dense = variables["params"]["head"]["classifier"]["kernel"]
    assert state["conv_stem.weight"][5, 2, 0, 1] == conv[0, 1, 2, 5]
    assert state["blocks.1.0.conv_dw.weight"][7, 0, 2, 1] == depthwise[2, 1, 7]
    assert state["blocks.1.0.conv_pw.weight"][9, 3, 0, 0] == pointwise[3, 9]
    assert state["classifier.weight"][4, 11] == dense[11, 4]


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_one_wrapper_is_taken_off(small, wrapper):
    model, variables, state = small
    checkpoint = {wrapper: state, "epoch": 3, "optimizer": {}}
    assert_equal_trees(weights.from_timm(checkpoint, model), variables)
    assert "got dict, legal: an array" in refusal({wrapper: {wrapper: state}}, model)


@pytest.mark.parametrize("wrapper", ["state_dict_ema", "model_ema"])
def test_an_average_of_the_weights_is_preferred_to_them(small, wrapper):
    model, variables, state = small
    others = {n: np.zeros_like(a) for n, a in state.items()}
    checkpoint = {"state_dict": others, "model": others, wrapper: state, "args": None}
    assert_equal_trees(weights.from_timm(checkpoint, model), variables)
    checkpoint = {"state_dict": state, wrapper: None}
    assert_equal_trees(weights.from_timm(checkpoint, model), variables)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.module."])
def test_prefixes_of_wrapped_modules_are_taken_off(small, prefix):
    model, variables, state = small
    wrapped = {prefix + name: array for name, array in state.items()}
    assert_equal_trees(weights.from_timm({"model": wrapped}, model), variables)
    both = wrapped | {"bn1.weight": state["bn1.weight"]}
    assert refusal(both, model) == "state_dict: holds bn1.weight under several names"


@pytest.mark.parametrize(
    "head",
    [
        {"fc.weight": (19, 1280), "fc.bias": (19,)},
        {"classifier.1.weight": (19, 1280), "classifier.1.bias": (19,)},
        {
            "classifier.0.weight": (64, 1280), "classifier.0.bias": (64,),
            "classifier.1.weight": (64,), "classifier.1.running_var": (64,),
            "classifier.1.num_batches_tracked": (), "classifier.4.weight": (1, 64),
            "classifier.4.bias": (1,),
        },
        {"conv.weight": (19, 1280, 1, 1)},
        {"flat.weight": (19, 1280 * 7 * 7)},
        {},
    ],
    ids=["renamed", "in a sequence", "several layers", "convolution", "flattened", "none"],
)  # fmt: skip
def test_a_fresh_head_takes_the_place_of_any_other(small, fresh, head):
    model, _, state = small
    body = {name: array for name, array in state.items() if not name.startswith("classifier.")}
    given = body | {name: np.ones(shape, np.float32) for name, shape in head.items()}
    assert_equal_trees(weights.from_timm(given, model, fresh_head=KEY), fresh)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("adapter.weight", (3, 1, 1, 1)),
        ("adapter.weight", (3, 3, 1, 1)),
        ("blocks.1.0.se.conv_reduce.weight", (8, 96, 1, 1)),
        ("blocks.7.0.conv_pw.weight", (672, 112, 1, 1)),
        ("blocks.7.0.bn1.weight", (672,)),
        ("scale", ()),
    ],
)
def test_a_fresh_head_excuses_no_other_layer(small, name, shape):
    model, _, state = small
    given = state | {name: np.ones(shape, np.float32)}
    given["classifier.weight"] = np.ones((3, 1280), np.float32)  # whose outputs are 3
    line = refusal(given, model, fresh_head=KEY)
    assert line.endswith(f"1 extra ({name} {list(shape)})")


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("mobilenet_v3_small", "there"),
        ("mobilenet_v3_small", "other"),
        ("mobilenet_v4_conv_small", "absent"),
    ],
)
def test_a_hidden_layer_that_does_not_fit_is_fresh_with_the_head(name, case):
    model = getattr(models, name)(width=0.5, num_classes=3, dialect="timm")
    variables = random_variables(model)
    state = weights.to_timm(variables, model)
    hidden = [n for n in state if n.startswith(("conv_head.", "norm_head."))]
    if case == "there":
        found = weights.from_timm(state, model, fresh_head=KEY)
        assert_equal_trees(found["params"]["head"]["hidden"], variables["params"]["head"]["hidden"])
        return
    for array in hidden:
        removed = state.pop(array)
        if case == "other" and removed.ndim:
            state[array] = np.ones((7, *removed.shape[1:]), np.float32)
    with pytest.raises(weights.WeightsError, match=r"conv_head\.weight"):
        weights.from_timm(state, model)
    with pytest.warns(UserWarning, match=r"holds no conv_head.* random too"):
        found = weights.from_timm(state, model, fresh_head=KEY)
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, variables)
    images = jnp.zeros((1, 32, 32, 3))
    initial = jax.jit(lambda k: model.init(k, images, train=False)["params"]["head"])(KEY)
    assert_equal_trees(found["params"]["head"], initial | {"conv": found["params"]["head"]["conv"]})
    assert_equal_trees(found["params"]["stem"], variables["params"]["stem"])


def test_more_names_than_a_network_can_use_are_refused_at_once(small):
    model, _, _ = small
    line = refusal({f"a{i}": np.zeros(1, np.float32) for i in range(300_000)}, model)
    assert line.startswith("state_dict: got 300000 arrays (a0, a1, ") and len(line) < 200
    assert " and 299992 more), legal: " in line


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16])
def test_any_precision_becomes_float32(small, dtype):
    model, variables, state = small
    given = {n: a.astype(dtype) if a.dtype == np.float32 else a for n, a in state.items()}
    expected = jax.tree.map(lambda a: np.asarray(a).astype(dtype).astype(np.float32), variables)
    assert_equal_trees(weights.from_timm(given, model), expected)


def test_step_counters_may_be_there_or_not(small):
    model, variables, state = small
    bare = {n: jnp.asarray(a) for n, a in state.items() if "num_batches" not in n}
    assert len(bare) < len(state)
    assert_equal_trees(weights.from_timm(bare, model), variables)


def test_a_misfit_names_everything_at_once(small):
    model, _, state = small
    wrong = dict(state)
    del wrong["conv_stem.weight"], wrong["bn1.bias"]
    wrong["blocks.0.0.conv_dw.weight"] = np.zeros((16, 1, 5, 5), np.float32)
    wrong["se.weight"] = np.zeros((3,), np.float32)
    line = refusal(wrong, model)
    assert line == (
        "state_dict: does not fit mobilenet_v2 as timm names it: "
        "2 missing (conv_stem.weight [16, 3, 3, 3], bn1.bias [16]); 1 extra (se.weight [3]); "
        "1 misshapen (blocks.0.0.conv_dw.weight: got [16, 1, 5, 5], legal: [16, 1, 3, 3])"
    )


def test_a_long_list_is_cut_and_counted(small):
    model, _, _ = small
    total = len(TIMM.entries(model.spec))
    line = refusal({}, model)
    assert f"{total} missing" in line and f"and {total - 8} more" in line


def test_another_models_weights_are_refused(small):
    _, _, state = small
    line = refusal(state, models.mobilenet_v3_small(width=0.5, num_classes=10, dialect="timm"))
    assert "does not fit mobilenet_v3_small" in line and "missing" in line and "extra" in line
    wider = models.mobilenet_v2(width=0.5, num_classes=10, dialect="timm")
    assert "misshapen" in refusal(state, wider)


def test_names_from_a_file_cannot_forge_a_line(small):
    model, _, state = small
    forged = {"a\nall is well\x1b[2J": np.zeros(3, np.float32), "b" * 10_000: np.zeros(3, "f4")}
    line = refusal(state | forged, model)
    assert r"a all is well\x1b[2J [3]" in line and len(line) < 1000


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_is_refused(small, value):
    model, _, state = small
    array = state["bn1.weight"].astype(np.float64)
    array[3] = value
    line = refusal(state | {"bn1.weight": array}, model)
    assert line.endswith("1 not finite (bn1.weight)")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (42, "state_dict: got int, legal: a mapping"),
        ({3: np.zeros(3)}, "name of an entry: got 3, legal: text"),
        ({"a": "text"}, "a: got str, legal: an array"),
        ({"a": np.array([{}], dtype=object)}, "a: got type object"),
        ({"a": np.array([1j])}, "a: got type complex128"),
        ({"a": np.broadcast_to(np.float32(0), (2**40,))}, "bytes, legal: "),
    ],
)
def test_what_is_no_state_dict_is_refused(small, state, reason):
    assert reason in refusal(state, small[0])


def test_whole_numbers_are_no_weights(small):
    """As quantized files have."""
    model, _, state = small
    line = refusal(state | {"bn1.weight": np.ones(16, np.int8)}, model)
    assert line.endswith("1 not floating (bn1.weight: got int8)")


def test_another_number_of_classes_needs_a_fresh_head(small):
    _, variables, state = small
    model = small_model(num_classes=7)
    line = refusal(state, model)
    assert "classifier.weight: got [10, 1280], legal: [7, 1280]" in line
    assert line.endswith("for another number of classes pass a PRNG key as fresh_head")

    key = jax.random.key(3)
    fresh = weights.from_timm(state, model, fresh_head=key)
    assert_shaped_as_initialized(fresh, model)
    images = jnp.zeros((1, 64, 64, 3))
    initial = jax.jit(lambda k: model.init(k, images, train=False)["params"]["head"]["classifier"])
    drawn = fresh["params"]["head"].pop("classifier")
    assert_equal_trees(drawn, dict(initial(key)))
    kept = jax.tree.map(lambda a: a, variables)
    del kept["params"]["head"]["classifier"]
    assert_equal_trees(fresh, kept)


def test_a_fresh_head_is_a_key(small):
    model, _, state = small
    with pytest.raises(ValueError, match="fresh_head: got True, legal: a PRNG key"):
        weights.from_timm(state, model, fresh_head=True)


def test_a_fresh_head_is_fresh_for_the_same_classes_too(small, fresh):
    _, variables, _ = small
    one, other = (v["params"]["head"]["classifier"]["kernel"] for v in (fresh, variables))
    assert not np.array_equal(one, other)


def test_variables_of_another_model_are_refused(small):
    _, variables, _ = small
    with pytest.raises(weights.WeightsError, match="variables: do not fit mobilenet_v2: 2 missh"):
        weights.to_timm(variables, small_model(num_classes=7))
    with pytest.raises(weights.WeightsError, match="missing"):
        weights.to_timm({"params": variables["params"]}, small_model())


@pytest.mark.parametrize(
    ("convert", "model"),
    [
        (weights.to_torchvision, models.mobilenet_v1()),
        (weights.to_torchvision, models.mobilenet_v4_conv_small()),
        (weights.to_torchvision, models.mobilenet_v3_large(last_stage="original")),
        (weights.to_timm, models.mobilenet_v1(depth="shallow")),
        (weights.to_timm, models.mobilenet_v1(convolution="full")),
        (weights.to_keras, models.mobilenet_v4_conv_large()),
        (weights.to_timm, with_hidden(models.mobilenet_v4_conv_small(), normalized=False)),
        (weights.to_torchvision, with_hidden(models.mobilenet_v3_small(), normalized=True)),
    ],
)
def test_networks_that_a_library_has_not_are_refused(convert, model):
    with pytest.raises(weights.WeightsError, match=rf"has no such {model.spec.name}, legal: "):
        convert({}, model)


@pytest.mark.parametrize("convert", [weights.from_timm, weights.from_torchvision])
def test_what_is_no_model_is_refused(convert):
    with pytest.raises(weights.WeightsError, match="model: got str, legal: a MobileNet"):
        convert({}, "mobilenet_v2")


def test_importing_the_room_imports_no_other_library():
    program = (
        "import sys; from mnet_jax import weights\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'keras', 'h5py'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
