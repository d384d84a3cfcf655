"""An axis does what the factory's option of its name does, and says back what it was given."""

import itertools
from dataclasses import replace

import pytest

from mnet_jax.ablation import axes
from mnet_jax.ablation.axes import ABSENT, ARCHITECTURE_AXES, AXES, grid, labels, with_values
from mnet_jax.ablation.store import key_of
from mnet_jax.architectures import (
    FACTORIES,
    FusedInvertedResidual,
    InvertedResidual,
    mobilenet_v1,
    mobilenet_v2,
    transforms,
)
from mnet_jax.config import DataConfig, RunConfig, TrainingConfig

BASES = {
    name: RunConfig(spec=factory(num_classes=10), seed=7) for name, factory in FACTORIES.items()
}
V1, V2 = BASES["mobilenet_v1"], BASES["mobilenet_v2"]
V3 = BASES["mobilenet_v3_large"]
V4 = BASES["mobilenet_v4_conv_medium"]
ALL = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_conv_medium",
    "mobilenet_v4_conv_large",
)
INVERTED = ALL[1:]
LEGAL = {  # axis: (networks that it suits, values)
    "model": (ALL, ALL),
    "dialect": (ALL, ("paper", "timm")),
    "width": (ALL, (0.25, 0.5, 1.0, 1.4)),
    "convolution": (("mobilenet_v1",), ("depthwise", "full")),
    "depth": (("mobilenet_v1",), ("full", "shallow")),
    "expansion": (INVERTED, (1, 2, 3, 6, 10)),
    "bottleneck": (INVERTED, ("linear", "relu6")),
    "shortcut": (INVERTED, ("bottleneck", "expansion", "none")),
    "activation": (ALL, ("relu6", "relu")),
    "resolution": (ALL, (8, 224)),
    "epochs": (ALL, (1, 30)),
    "learning_rate": (ALL, (0.001, 0.1)),
    "label_smoothing": (ALL, (0.0, 0.1)),
    "ema_decay": (ALL, (0.0, 0.9999)),
    "weight_decay": (ALL, (0.0, 1e-4)),
    "decay_depthwise": (ALL, (False, True)),
    "frozen": (ALL, (0, 3)),
    "depth_decay": (ALL, (0.5, 1.0)),
    "precision": (ALL, ("float32", "bfloat16")),
    "parallel": (ALL, ("jit", "pmap")),
    "lowering": (ALL, ("auto", "grouped", "shifted", "native")),
}
MORE_DIALECTS = {  # that not every network has
    "slim": ALL[:4],
    "keras": ALL[:4],
    "torchvision": ALL[1:4],
}
CASES = [
    (axis, network, value)
    for axis in AXES
    for network in LEGAL[axis.name][0]
    for value in LEGAL[axis.name][1]
]
CASES += [
    (axis, network, dialect)
    for axis in AXES
    if axis.name == "dialect"
    for dialect, networks in MORE_DIALECTS.items()
    for network in networks
]
# Where not every block that keeps its shape has a next one as wide, some stay without identity.
PARTLY = [
    (axis, network, "expansion") for axis in AXES if axis.name == "shortcut" for network in ALL[2:]
]
CASES = [case for case in CASES if case not in PARTLY]
# Cases of an axis that is a transform and no option of the network's factory.
BY_TRANSFORM = {
    "expansion": ("mobilenet_v3", "mobilenet_v4"),
    "activation": ("mobilenet_v3", "mobilenet_v4"),
}
OPTIONS = [
    (axis, network, value)
    for axis, network, value in CASES + PARTLY
    if axis in ARCHITECTURE_AXES
    and axis.name != "model"
    and not network.startswith(BY_TRANSFORM.get(axis.name, "none"))
]


def identify(value):
    return value.name if isinstance(value, axes.Axis) else str(value)


def test_every_axis_has_a_case():
    assert [axis.name for axis in AXES] == list(LEGAL)


@pytest.mark.parametrize(("axis", "network", "value"), CASES, ids=identify)
def test_what_is_applied_is_read(axis, network, value):
    changed = with_values(BASES[network], {axis.name: value})
    assert axis.read(changed) == value
    assert labels(changed)[axis.name] == (f"{value:g}" if type(value) is float else str(value))


# Another network has other axes.
@pytest.mark.parametrize(
    ("axis", "network", "value"), [case for case in CASES if case[0].name != "model"], ids=identify
)
def test_an_axis_leaves_the_others_alone(axis, network, value):
    before, after = labels(BASES[network]), labels(with_values(BASES[network], {axis.name: value}))
    allowed = {axis.name}
    if axis.name == "width" and network.startswith("mobilenet_v3"):
        allowed |= {"expansion"}  # the table's channels round, and so do their ratios
    assert {name for name in before if before[name] != after[name]} <= allowed


@pytest.mark.parametrize(("axis", "network", "value"), PARTLY, ids=identify)
def test_a_shortcut_that_some_blocks_cannot_have_is_read_as_it_is(axis, network, value):
    changed = with_values(BASES[network], {axis.name: value})
    found = [b.shortcut for b in changed.spec.blocks if isinstance(b, InvertedResidual)]
    kept = [b.keeps_shape for b in changed.spec.blocks if isinstance(b, InvertedResidual)]
    assert 0 < found.count("expansion") < sum(kept)
    assert axis.read(changed) == "expansion none"


@pytest.mark.parametrize(("axis", "network", "value"), OPTIONS, ids=identify)
def test_an_architecture_axis_is_the_factorys_option(axis, network, value):
    expected = FACTORIES[network](num_classes=10, **{axis.name: value})
    assert with_values(BASES[network], {axis.name: value}) == replace(BASES[network], spec=expected)


TRANSFORMED = [case for case in CASES if case[1].startswith(BY_TRANSFORM.get(case[0].name, "none"))]


@pytest.mark.parametrize(("axis", "network", "value"), TRANSFORMED, ids=identify)
def test_an_architecture_axis_is_a_transform_where_the_factory_has_no_such_option(
    axis, network, value
):
    spec = getattr(transforms, f"with_{axis.name}")(FACTORIES[network](num_classes=10), value)
    assert with_values(BASES[network], {axis.name: value}) == replace(BASES[network], spec=spec)


def test_the_networks_are_the_papers():
    assert tuple(FACTORIES) == ALL


@pytest.mark.parametrize("network", ALL[2:])
def test_the_axes_of_v2_toggle_the_blocks_of_v3_and_v4(network):
    base = BASES[network]
    blocks = {
        axis: with_values(base, {axis: value}).spec.blocks
        for axis, value in (("bottleneck", "relu6"), ("shortcut", "none"), ("expansion", 2))
    }
    for plain, *changed in zip(base.spec.blocks, *blocks.values(), strict=True):
        clipped, alone, narrow = changed
        if isinstance(plain, InvertedResidual | FusedInvertedResidual):
            assert clipped == replace(plain, bottleneck="relu6")
        if isinstance(plain, InvertedResidual):
            assert alone == replace(plain, shortcut="none")
            assert narrow.expanded == (2 * plain.inputs if plain.expands else plain.expanded)
    assert any(b.shortcut == "bottleneck" for b in base.spec.blocks if hasattr(b, "shortcut"))


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
        (
            V1,
            {"dialect": "torchvision"},
            "dialect",
            "'torchvision', legal: paper, slim, keras, timm",
        ),
        (V4, {"dialect": "torchvision"}, "dialect", "'torchvision', legal: paper, timm"),
        (V2, {"dialect": "torch"}, "dialect", "legal: paper, slim, keras, torchvision, timm"),
        (V3, {"width": 0.001}, "width", "0.001, legal: 0.0625 or more"),
        (V4, {"width": -0.5}, "width", "-0.5"),
        (V3, {"expansion": 0}, "expansion", "0, legal: a whole number, 1 or more"),
        (V3, {"activation": "gelu"}, "activation", "'gelu', legal: relu6, relu"),
        (V4, {"bottleneck": "relu"}, "bottleneck", "'relu', legal: linear, relu6"),
        (V3, {"convolution": "full"}, "convolution", "legal: mobilenet_v1"),
        (V4, {"depth": "shallow"}, "depth", "legal: mobilenet_v1"),
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
        (V1, {"bottleneck": "linear"}, "bottleneck", "legal: V2, V3, V4"),
        (V1, {"expansion": 6}, "expansion", "legal: V2, V3, V4"),
        (V1, {"shortcut": "none"}, "shortcut", "legal: V2, V3, V4"),
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
        "activation": "relu6", "resolution": "96", "epochs": "20", "learning_rate": "0.045",
        "label_smoothing": "0.1", "ema_decay": "0.99", "weight_decay": "4e-05",
        "decay_depthwise": "True", "frozen": "0", "depth_decay": "1", "precision": "float32",
        "parallel": "jit", "lowering": "auto",
    }  # fmt: skip
    assert [labels(V1)[name] for name in ("expansion", "bottleneck", "shortcut")] == [ABSENT] * 3
    assert [labels(V1)[name] for name in ("convolution", "depth")] == ["depthwise", "full"]
    assert labels(V3) | {"expansion": ...} == labels(V2) | {
        "model": "mobilenet_v3_large", "activation": "hard_swish", "expansion": ...,
    }  # fmt: skip
    # Table 1's ratios of expanded channels to those in, each once.
    assert set(labels(V3)["expansion"].split()) == {"2.3", "2.5", "3", "4", "6"}
    assert set(labels(V4)["expansion"].split()) == {"2", "4", "6"}


def test_reading_tells_blocks_that_differ():
    first, *rest = mobilenet_v2(num_classes=10).blocks
    mixed = replace(V2.spec, blocks=(replace(first, bottleneck="relu6"), *rest))
    assert labels(replace(V2, spec=mixed))["bottleneck"] == "linear relu6"
