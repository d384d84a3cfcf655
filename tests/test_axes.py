"""An axis does what the factory's option of its name does, and says back what it was given."""

import itertools
from dataclasses import replace

import pytest

from mnet_jax.ablation import axes
from mnet_jax.ablation.axes import ABSENT, ARCHITECTURE_AXES, AXES, grid, labels, with_values
from mnet_jax.ablation.store import key_of
from mnet_jax.architectures import mobilenet_v1, mobilenet_v2
from mnet_jax.config import DataConfig, RunConfig, TrainingConfig

V1 = RunConfig(spec=mobilenet_v1(num_classes=10), seed=7)
V2 = RunConfig(spec=mobilenet_v2(num_classes=10), seed=7)
BASES = {"mobilenet_v1": V1, "mobilenet_v2": V2}
FACTORIES = {"mobilenet_v1": mobilenet_v1, "mobilenet_v2": mobilenet_v2}
ALL = ("mobilenet_v1", "mobilenet_v2")
LEGAL = {  # axis: (networks that it suits, values)
    "model": (ALL, ALL),
    "dialect": (ALL, ("paper", "keras", "timm")),
    "width": (ALL, (0.25, 0.5, 1.0, 1.4)),
    "convolution": (("mobilenet_v1",), ("depthwise", "full")),
    "depth": (("mobilenet_v1",), ("full", "shallow")),
    "expansion": (("mobilenet_v2",), (1, 2, 3, 6, 10)),
    "bottleneck": (("mobilenet_v2",), ("linear", "relu6")),
    "shortcut": (("mobilenet_v2",), ("bottleneck", "expansion", "none")),
    "activation": (ALL, ("relu6", "relu")),
    "resolution": (ALL, (8, 224)),
    "learning_rate": (ALL, (0.001, 0.1)),
    "label_smoothing": (ALL, (0.0, 0.1)),
    "ema_decay": (ALL, (0.0, 0.9999)),
    "weight_decay": (ALL, (0.0, 1e-4)),
    "decay_depthwise": (ALL, (False, True)),
    "precision": (ALL, ("float32", "bfloat16")),
}
CASES = [
    (axis, network, value)
    for axis in AXES
    for network in LEGAL[axis.name][0]
    for value in LEGAL[axis.name][1]
]
OPTIONS = [case for case in CASES if case[0] in ARCHITECTURE_AXES and case[0].name != "model"]


def identify(value):
    return value.name if isinstance(value, axes.Axis) else str(value)


def test_every_axis_has_a_case():
    assert [axis.name for axis in AXES] == list(LEGAL)


@pytest.mark.parametrize(("axis", "network", "value"), CASES, ids=identify)
def test_what_is_applied_is_read(axis, network, value):
    changed = with_values(BASES[network], {axis.name: value})
    assert axis.read(changed) == value
    assert labels(changed)[axis.name] == (f"{value:g}" if type(value) is float else str(value))


@pytest.mark.parametrize(("axis", "network", "value"), CASES, ids=identify)
def test_an_axis_leaves_the_others_alone(axis, network, value):
    if axis.name == "model":
        pytest.skip("another network has other axes")
    before, after = labels(BASES[network]), labels(with_values(BASES[network], {axis.name: value}))
    assert {name for name in before if before[name] != after[name]} <= {axis.name}


@pytest.mark.parametrize(("axis", "network", "value"), OPTIONS, ids=identify)
def test_an_architecture_axis_is_the_factorys_option(axis, network, value):
    expected = FACTORIES[network](num_classes=10, **{axis.name: value})
    assert with_values(BASES[network], {axis.name: value}) == replace(BASES[network], spec=expected)


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_the_model_axis_is_the_factory(base, model):
    assert with_values(base, {"model": model}).spec == FACTORIES[model](num_classes=10)


@pytest.mark.parametrize("input_stride", [1, 2, 4])
@pytest.mark.parametrize("model", ALL)
def test_what_is_not_named_stays(model, input_stride):
    kept = {"num_classes": 7, "norm_momentum": 0.95, "input_stride": input_stride}
    base = RunConfig(spec=FACTORIES[model](width=0.5, dialect="timm", **kept), seed=3)
    for other in ALL:
        changed = with_values(base, {"width": 0.75, "model": other, "precision": None})
        assert changed.spec == FACTORIES[other](width=0.75, dialect="timm", **kept)
        assert replace(changed, spec=base.spec) == base


def test_nothing_named_changes_nothing():
    assert with_values(V2, {}) == V2
    assert with_values(V2, {axis.name: None for axis in AXES}) == V2


@pytest.mark.parametrize("names", [*itertools.permutations(("expansion", "width", "bottleneck"))])
def test_the_order_of_naming_does_not_matter(names):
    values = {"width": 0.35, "expansion": 3, "bottleneck": "relu6"}
    changed = with_values(V2, {name: values[name] for name in names})
    assert changed.spec == mobilenet_v2(num_classes=10, **values)


def test_v1s_axes_together_are_the_factorys_options():
    values = {"depth": "shallow", "convolution": "full", "width": 0.5, "activation": "relu"}
    assert with_values(V1, values).spec == mobilenet_v1(num_classes=10, **values)


@pytest.mark.parametrize("axis", ["width", "learning_rate", "label_smoothing", "weight_decay"])
def test_1_and_1_point_0_are_one_config(axis):
    whole = 0 if axis == "label_smoothing" else 1
    a, b = with_values(V2, {axis: whole}), with_values(V2, {axis: float(whole)})
    assert a == b and key_of(a) == key_of(b) and labels(a) == labels(b)
    assert len(grid(V2, {axis: [whole, float(whole)]})) == 1


def test_the_grid_is_the_product_in_order():
    values = {"bottleneck": ["relu6", "linear"], "width": [1.0, 0.5, 0.75]}
    found = [(labels(c)["bottleneck"], labels(c)["width"]) for c in grid(V2, values)]
    assert found == list(itertools.product(["relu6", "linear"], ["1", "0.5", "0.75"]))
    assert all(config.seed == V2.seed for config in grid(V2, values))


def test_the_grid_has_no_duplicates():
    assert len(grid(V2, {"bottleneck": ["linear", "relu6", "linear"], "width": [1, 1.0]})) == 2
    assert grid(V2, {}) == [V2] == grid(V2, {"bottleneck": [], "width": ()})


@pytest.mark.parametrize(
    ("base", "values", "named", "told"),
    [
        (V2, {"bottelneck": "linear"}, "axis", "'bottelneck', legal: model, dialect"),
        (V2, {"bottleneck": "lin"}, "bottleneck", "'lin', legal: linear, relu6"),
        (V2, {"model": "mobilenet_v9"}, "model", "'mobilenet_v9', legal: mobilenet_v1"),
        (V2, {"activation": "linear"}, "activation", "'linear', legal: relu6, relu"),
        (V2, {"precision": "float16"}, "precision", "'float16', legal: float32, bfloat16"),
        (V1, {"dialect": "torchvision"}, "dialect", "'torchvision', legal: paper, keras, timm"),
        (V2, {"width": 0}, "width", "0"),
        (V2, {"width": -1.0}, "width", "-1"),
        (V2, {"width": float("nan")}, "width", "nan, legal: finite numbers"),
        (V2, {"width": float("inf")}, "width", "inf, legal: finite numbers"),
        (V2, {"width": 1e308}, "width", "1e+308"),
        (V2, {"width": 0.001}, "width", "0.001"),
        (V2, {"width": "1"}, "width", "'1', legal: finite numbers"),
        (V2, {"width": True}, "width", "True, legal: finite numbers"),
        (V2, {"expansion": 0}, "expansion", "0"),
        (V2, {"expansion": -1}, "expansion", "-1"),
        (V2, {"expansion": 1.5}, "expansion", "1.5, legal: whole numbers"),
        (V2, {"expansion": True}, "expansion", "True, legal: whole numbers"),
        (V2, {"resolution": 0}, "resolution", "0"),
        (V2, {"resolution": 16.0}, "resolution", "16.0, legal: whole numbers"),
        (V2, {"learning_rate": 0.0}, "learning_rate", "0.0"),
        (V2, {"learning_rate": float("inf")}, "learning_rate", "inf, legal: finite numbers"),
        (V2, {"ema_decay": 1.0}, "ema_decay", "1.0"),
        (V2, {"label_smoothing": -0.1}, "label_smoothing", "-0.1"),
        (V2, {"weight_decay": float("nan")}, "weight_decay", "nan, legal: finite numbers"),
        (V2, {"decay_depthwise": 1}, "decay_depthwise", "1, legal: True, False"),
        (V1, {"bottleneck": "linear"}, "bottleneck", "legal: mobilenet_v2"),
        (V1, {"expansion": 6}, "expansion", "legal: mobilenet_v2"),
        (V1, {"shortcut": "none"}, "shortcut", "legal: mobilenet_v2"),
        (V2, {"convolution": "full"}, "convolution", "legal: mobilenet_v1"),
        (V2, {"depth": "shallow"}, "depth", "legal: mobilenet_v1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_is_not_legal_is_one_line_that_names_the_axis(base, values, named, told):
    with pytest.raises(ValueError) as caught:
        with_values(base, values)
    line = str(caught.value)
    assert line.startswith(named) and told in line and line.splitlines() == [line]
    with pytest.raises(ValueError) as in_a_grid:
        grid(base, {name: [value] for name, value in values.items()})
    assert str(in_a_grid.value) == line


@pytest.mark.parametrize("late", [{"bottleneck": "relu6"}, {"expansion": 3}, {"shortcut": "none"}])
def test_a_network_with_changed_blocks_is_not_computed_anew(late):
    changed = with_values(V2, late)
    with pytest.raises(ValueError, match=r"^width: "):
        with_values(changed, {"width": 0.5})


def test_labels_are_what_a_table_shows():
    config = RunConfig(
        spec=mobilenet_v2(width=0.35, expansion=3),
        data=DataConfig(resolution=96),
        training=TrainingConfig(learning_rate=0.045, weight_decay=4e-5, decay_depthwise=True),
    )
    assert labels(config) == {
        "model": "mobilenet_v2", "dialect": "paper", "width": "0.35", "convolution": ABSENT,
        "depth": ABSENT, "expansion": "3", "bottleneck": "linear", "shortcut": "bottleneck",
        "activation": "relu6", "resolution": "96", "learning_rate": "0.045",
        "label_smoothing": "0.1", "ema_decay": "0.99", "weight_decay": "4e-05",
        "decay_depthwise": "True", "precision": "float32",
    }  # fmt: skip
    assert [labels(V1)[name] for name in ("expansion", "bottleneck", "shortcut")] == [ABSENT] * 3
    assert [labels(V1)[name] for name in ("convolution", "depth")] == ["depthwise", "full"]


def test_reading_tells_blocks_that_differ():
    first, *rest = mobilenet_v2(num_classes=10).blocks
    mixed = replace(V2.spec, blocks=(replace(first, bottleneck="relu6"), *rest))
    assert labels(replace(V2, spec=mixed))["bottleneck"] == "linear relu6"
