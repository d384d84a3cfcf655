"""An axis does what the factory's option of its name does, and says back what it was given."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest

from mnet_jax.ablation.store import key_of
from mnet_jax.architectures import (
    FACTORIES,
    Attention,
    FusedInvertedResidual,
    InvertedResidual,
    mobilenet_v1,
    mobilenet_v2,
    transforms,
)
from mnet_jax.config import DataConfig, Pretrained, RunConfig, TrainingConfig
from mnet_jax.options import axes
from mnet_jax.options.axes import ABSENT, ARCHITECTURE_AXES, AXES, TAUGHT, grid, labels, with_values

BASES = {
    name: RunConfig(spec=factory(num_classes=10), seed=7) for name, factory in FACTORIES.items()
}
V1, V2 = BASES["mobilenet_v1"], BASES["mobilenet_v2"]
V3 = BASES["mobilenet_v3_large"]
V4 = BASES["mobilenet_v4_conv_medium"]
HYBRID = BASES["mobilenet_v4_hybrid_medium"]
ALL = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_conv_medium",
    "mobilenet_v4_conv_large",
    "mobilenet_v4_hybrid_medium",
    "mobilenet_v4_hybrid_large",
)
PLAIN, HYBRIDS = ALL[:-2], ALL[-2:]  # without and with attention and layer scales
INVERTED = ALL[1:]
V3S = ALL[2:4]
QUANTIZED = (  # axes that only quantized networks have
    "bits", "weight_bits", "activation_bits", "granularity", "weight_symmetry",
    "activation_symmetry", "edge_bits", "step_sizes", "ranges", "calibration_images", "qat_epochs",
    "qat_learning_rate", "dampening",
)  # fmt: skip
LEGAL = {  # axis: (networks that it suits, values)
    "model": (ALL, ALL),
    "dialect": (ALL, ("paper", "timm")),
    "width": (ALL, (0.25, 0.5, 1.0, 1.4)),
    "input_stride": (ALL, (1, 2, 4)),
    "last_stage": (V3S, ("efficient", "original")),
    "hard_swish_from": (V3S, (0, 16, 24, 40)),
    "squeeze_excite": (INVERTED, ("none", "all")),
    "repeats": (ALL[:4], (1, 2, 5)),
    "depth": (("mobilenet_v1",), ("full", "shallow")),
    "kernel": (ALL, (3, 5, 7)),
    "convolution": (("mobilenet_v1",), ("depthwise", "full")),
    "expansion": (INVERTED, (1, 2, 3, 6, 10)),
    "attention": (HYBRIDS, ("none", "mqa", "mha")),
    "attention_downsampling": (HYBRIDS, ("none", "published", "all")),
    "layer_scale": (INVERTED, (False, True)),
    "bottleneck": (PLAIN[1:], ("linear", "relu6")),
    "shortcut": (INVERTED, ("bottleneck", "expansion", "none")),
    "activation": (ALL, ("relu6", "relu", "hard_swish")),
    "block_activation": (ALL, ("relu6", "relu", "hard_swish", "linear")),
    "head_activation": (INVERTED, ("relu6", "relu", "hard_swish", "linear")),
    "norm_epsilon": (ALL, (1e-5, 1e-3)),
    "norm_momentum": (ALL, (0.0, 0.9)),
    "padding": (ALL, ("same", "symmetric", "end")),
    "depthwise_padding": (ALL, ("same", "symmetric", "end")),
    "initializer": (ALL, ("glorot_uniform", "truncated_normal_0.09")),
    "stem_kernel": (ALL, (1, 3, 5)),
    "stem_activation": (ALL, ("relu6", "relu", "hard_swish", "linear")),
    "dropout": (ALL, (0.0, 0.5)),
    "quantization": (PLAIN, ("ptq", "qat")),
    **dict.fromkeys(QUANTIZED, ((), ())),
    "resolution": (ALL, (8, 224)),
    "batch_size": (ALL, (1, 96)),
    "validation_fraction": (ALL, (0.05, 0.5)),
    "bad_images": (ALL, (0, 20)),
    "max_image_pixels": (ALL, (50_000_000, 100)),
    "augmentation": (ALL, ("none", "shift", "shift_flip", "resized_crop_flip")),
    "policy": (ALL, ("none", "randaugment", "autoaugment")),
    "randaugment_layers": (ALL, (1, 3)),
    "randaugment_magnitude": (ALL, (0.0, 15.0)),
    "colour_jitter": (ALL, (0.0, 0.4)),
    "erasing": (ALL, (0.0, 1.0)),
    "scaling": (ALL, ("symmetric", "imagenet", "unit")),
    "crop_share": (ALL, (0.95, 1.0)),
    "interpolation": (ALL, ("bilinear", "bicubic")),
    "epochs": (ALL, (1, 30)),
    "optimizer": (ALL, ("sgd", "rmsprop", "adamw", "lamb", "muon")),
    "nesterov": (ALL, (False, True)),
    "decay": ((), ()),
    "momentum": (ALL, (0.0, 0.95)),
    "epsilon": ((), ()),
    "initial_square": ((), ()),
    "beta1": ((), ()),
    "beta2": ((), ()),
    "update_rms": ((), ()),
    "learning_rate": (ALL, (0.001, 0.1)),
    "schedule": (ALL, ("constant", "cosine", "exponential")),
    "factor": ((), ()),
    "every_epochs": ((), ()),
    "warmup_epochs": (ALL, (0.0, 2.5)),
    "weight_decay": (ALL, (0.0, 1e-4)),
    "decay_depthwise": (ALL, (False, True)),
    "drop_path": (ALL[1:], (0.0, 0.2)),
    "clip_norm": (ALL, (0.0, 1.0)),
    "label_smoothing": (ALL, (0.0, 0.1)),
    "mixup": (ALL, (0.0, 0.2)),
    "cutmix": (ALL, (0.0, 1.0)),
    "ema_decay": (ALL, (0.0, 0.9999)),
    "ema_warmup": (ALL, (True, False)),
    "frozen": (ALL, (0, 3)),
    "depth_decay": (ALL, (0.5, 1.0)),
    "precision": (ALL, ("float32", "bfloat16")),
    "parallel": (ALL, ("jit", "pmap")),
    "lowering": (ALL, ("auto", "grouped", "shifted", "native")),
    "on_divergence": (ALL, ("halt", "skip", "rollback")),
    "spike_factor": (ALL, (0.0, 5.0)),
    "accumulate": (ALL, (1, 4)),
    "norm_groups": (ALL, (1, 8)),
    "remat": (ALL, ("none", "blocks")),
    "teacher_weight": ((), ()),
    "temperature": ((), ()),
    "initial_weights": (ALL, ("random",)),
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
LATER = ("mobilenet_v3", "mobilenet_v4")
BY_TRANSFORM = {
    "expansion": LATER,
    "activation": LATER,
    "kernel": "mobilenet",
    "attention": "mobilenet",
    "layer_scale": "mobilenet",
    "block_activation": "mobilenet",
    "head_activation": "mobilenet",
}
# Whose values no factory and no transform takes.
BY_AXIS = ("model", "squeeze_excite", "repeats", "attention_downsampling")
OPTIONS = [
    (axis, network, value)
    for axis, network, value in CASES + PARTLY
    if axis in ARCHITECTURE_AXES
    and axis.name not in BY_AXIS
    and (network, value) not in [(v1_or_v2, "hard_swish") for v1_or_v2 in ALL[:2]]
    and not network.startswith(BY_TRANSFORM.get(axis.name, "none"))
]


def identify(value):
    return value.name if isinstance(value, axes.Axis) else str(value)


def cases_of(axis, cases=CASES):
    return [(network, value) for other, network, value in cases if other is axis]


VARIED = [axis for axis in AXES if cases_of(axis)]


def test_every_axis_has_a_case():
    assert sorted(axis.name for axis in AXES) == sorted(LEGAL)
    assert not [axis.name for axis in AXES if not axis.help]


@pytest.mark.parametrize("axis", VARIED, ids=identify)
def test_what_is_applied_is_read(axis):
    for network, value in cases_of(axis):
        changed = with_values(BASES[network], {axis.name: value})
        assert axis.read(changed) == value, network
        label = f"{value:g}" if type(value) is float else str(value)
        assert labels(changed)[axis.name] == label, network


# Another network has other axes.
@pytest.mark.parametrize("axis", [axis for axis in VARIED if axis.name != "model"], ids=identify)
def test_an_axis_leaves_the_others_alone(axis):
    settled = {axis.name, *axis.determines, *(a.name for a in AXES if axis.name in a.determines)}
    for network, value in cases_of(axis):
        before = labels(BASES[network])
        after = labels(with_values(BASES[network], {axis.name: value}))
        allowed = set(settled)
        if axis.name == "width" and network.startswith("mobilenet_v3"):
            allowed |= {"expansion"}  # the table's channels round, and so do their ratios
        if axis.name == "repeats":  # of blocks that keep their shape there may be none
            allowed |= {"shortcut", *({"expansion"} if network in V3S else ())}
        changed = {name for name in before if before[name] != after[name]}
        assert changed <= allowed, (network, value)


@pytest.mark.parametrize(("axis", "network", "value"), PARTLY, ids=identify)
def test_a_shortcut_that_some_blocks_cannot_have_is_read_as_it_is(axis, network, value):
    changed = with_values(BASES[network], {axis.name: value})
    found = [b.shortcut for b in changed.spec.blocks if isinstance(b, InvertedResidual)]
    kept = [b.keeps_shape for b in changed.spec.blocks if isinstance(b, InvertedResidual)]
    assert 0 < found.count("expansion") < sum(kept)
    assert axis.read(changed) == "expansion none"


@pytest.mark.parametrize("axis", [a for a in AXES if cases_of(a, OPTIONS)], ids=identify)
def test_an_architecture_axis_is_the_factorys_option(axis):
    for network, value in cases_of(axis, OPTIONS):
        expected = replace(
            BASES[network], spec=FACTORIES[network](num_classes=10, **{axis.name: value})
        )
        assert with_values(BASES[network], {axis.name: value}) == expected, (network, value)


TRANSFORMED = [case for case in CASES if case[1].startswith(BY_TRANSFORM.get(case[0].name, "none"))]


@pytest.mark.parametrize("axis", [a for a in AXES if cases_of(a, TRANSFORMED)], ids=identify)
def test_an_architecture_axis_is_a_transform_where_the_factory_has_no_such_option(axis):
    transform = getattr(transforms, f"with_{axis.name}")
    for network, value in cases_of(axis, TRANSFORMED):
        spec = transform(FACTORIES[network](num_classes=10), value)
        expected = replace(BASES[network], spec=spec)
        assert with_values(BASES[network], {axis.name: value}) == expected, (network, value)


@pytest.mark.parametrize("network", HYBRIDS)
def test_the_axes_of_attention_toggle_the_blocks_of_the_hybrids(network):
    base = BASES[network]
    published = [b for b in base.spec.blocks if isinstance(b, Attention)]
    assert len(published) == 8 and [b.downsampling for b in published] == [2] * 4 + [1] * 4

    def found(**values):
        return [b for b in with_values(base, values).spec.blocks if isinstance(b, Attention)]

    without = with_values(base, {"attention": "none"})
    others = tuple(b for b in base.spec.blocks if not isinstance(b, Attention))
    assert without.spec.blocks == others and labels(without)["attention"] == "none"
    assert found(attention="mha") == [replace(b, kind="mha") for b in published]
    for where, stride in (("none", 1), ("all", 2)):
        expected = [replace(b, downsampling=stride) for b in published]
        assert found(attention_downsampling=where) == expected
    everywhere = with_values(base, {"attention_downsampling": "all"})
    assert with_values(everywhere, {"attention_downsampling": "published"}) == base
    assert found(layer_scale=False) == [replace(b, layer_scale=False) for b in published]
    assert found(shortcut="none") == [replace(b, shortcut="none") for b in published]


def test_a_hybrid_without_layer_scales_has_the_axis_bottleneck():
    changed = with_values(HYBRID, {"layer_scale": False, "bottleneck": "relu6"})
    assert {b.bottleneck for b in changed.spec.blocks if hasattr(b, "bottleneck")} == {"relu6"}


def test_the_networks_are_the_papers():
    assert tuple(FACTORIES) == ALL


@pytest.mark.parametrize("network", PLAIN[2:])
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


@pytest.mark.parametrize("axis", AXES, ids=identify)
def test_the_value_that_a_config_has_changes_nothing(axis):
    applied = 0
    for base in BASES.values():
        value = axis.read(base)
        choice = value in get_args(axis.values) or type(value) is axis.values
        if choice:  # neither absent nor several
            assert with_values(base, {axis.name: value}) == base
            applied += 1
    own_of_kinds = (name for own in KINDS.values() for name in own)
    assert applied or axis.name in ("repeats", *own_of_kinds, *QUANTIZED, *TAUGHT)


@pytest.mark.parametrize("names", [*itertools.permutations(("expansion", "width", "bottleneck"))])
def test_the_order_of_naming_does_not_matter(names):
    values = {"width": 0.35, "expansion": 3, "bottleneck": "relu6"}
    changed = with_values(V2, {name: values[name] for name in names})
    assert changed.spec == mobilenet_v2(num_classes=10, **values)


def test_a_run_from_weights_can_start_at_random():
    tuned = replace(V2, pretrained=Pretrained(path="runs/mine", sha256="0" * 64))
    both = grid(tuned, {"initial_weights": ["pretrained", "random"]})
    assert both == [tuned, V2]
    assert [labels(c)["initial_weights"] for c in both] == ["pretrained", "random"]


def test_v1s_axes_together_are_the_factorys_options():
    values = {"depth": "shallow", "convolution": "full", "width": 0.5, "activation": "relu"}
    assert with_values(V1, values).spec == mobilenet_v1(num_classes=10, **values)


def test_v3s_axes_together_are_the_factorys_options():
    values = {"last_stage": "original", "hard_swish_from": 112, "width": 0.75, "input_stride": 2}
    expected = FACTORIES["mobilenet_v3_large"](num_classes=10, squeeze_excite=False, **values)
    changed = with_values(V3, {**values, "squeeze_excite": "none"})
    assert changed.spec == expected
    back = {"last_stage": "efficient", "hard_swish_from": 80, "width": 1.0, "input_stride": 4}
    assert with_values(with_values(V3, values), back) == V3
    assert with_values(changed, {"squeeze_excite": "published"}) == with_values(V3, values)


@pytest.mark.parametrize("network", V3S)
def test_squeeze_and_excitation_where_it_was_published_is_the_network(network):
    base = BASES[network]
    assert labels(base)["squeeze_excite"] == "published"
    for where in ("none", "all", "published"):
        changed = with_values(base, {"squeeze_excite": where})
        assert with_values(changed, {"squeeze_excite": "published"}) == base


# V1, Table 1; V2, Table 2; V3, Tables 1 and 2: the channels of each stage.
STAGES = {
    "mobilenet_v1": (64, 128, 256, 512, 1024),
    "mobilenet_v2": (16, 24, 32, 64, 96, 160, 320),
    "mobilenet_v3_large": (16, 24, 40, 80, 112, 160),
    "mobilenet_v3_small": (16, 24, 40, 48, 96),
}


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("width", [0.25, 1.0])
@pytest.mark.parametrize("network", STAGES)
def test_repeats_are_the_blocks_of_every_stage(network, width, repeats):
    base = RunConfig(spec=FACTORIES[network](num_classes=10, width=width, input_stride=1))
    plain, spec = base.spec, with_values(base, {"repeats": repeats}).spec
    assert len(spec.blocks) == repeats * len(STAGES[network])
    first = [b for b in plain.blocks if b.stride == 2]
    assert [b for b in spec.blocks if b.stride == 2] == first
    if width == 1:
        expected = [c for c in STAGES[network] for _ in range(repeats)]
        assert [block.outputs for block in spec.blocks] == expected
    for block in spec.blocks:
        if isinstance(block, InvertedResidual):
            assert (block.shortcut == "bottleneck") == block.keeps_shape
            assert not block.expands or block.expanded > block.inputs
    assert with_values(replace(base, spec=spec), {"repeats": repeats}).spec == spec


def test_v2s_repeats_of_a_published_stage_are_its_blocks():
    """Table 2's stage of 96 channels has three blocks, and so has its stage of 32."""
    three = with_values(V2, {"repeats": 3}).spec.blocks
    for published, ours in ((slice(3, 6), slice(6, 9)), (slice(10, 13), slice(12, 15))):
        assert three[ours] == V2.spec.blocks[published]


KINDS = {  # optimizer or schedule: its own numbers
    "sgd": ("momentum", "nesterov"),
    "rmsprop": ("decay", "momentum", "epsilon", "initial_square"),
    "adamw": ("beta1", "beta2", "epsilon"),
    "lamb": ("beta1", "beta2", "epsilon"),
    "muon": ("momentum", "update_rms", "beta1", "beta2", "epsilon"),
    "constant": (),
    "cosine": (),
    "exponential": ("factor", "every_epochs"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_of_an_optimizer_or_schedule_are_axes_where_it_is(kind):
    whole = "optimizer" if kind in [*KINDS][:5] else "schedule"
    base = with_values(V2, {whole: kind})
    assert type(getattr(base.training, whole)).__name__.lower() == kind
    kinds = [*KINDS][:5] if whole == "optimizer" else [*KINDS][5:]
    for name in {name for other in kinds for name in KINDS[other]}:
        value = name == "nesterov" or 0.5
        if name in KINDS[kind]:
            changed = with_values(V2, {name: value, whole: kind})
            assert labels(changed)[name] == str(value)
            assert getattr(getattr(changed.training, whole), name) == value
            assert with_values(changed, {whole: kind}) == changed
        else:
            assert labels(base)[name] == ABSENT
            with pytest.raises(ValueError, match=f"^{name}: the {whole} {kind} has none, legal: "):
                with_values(base, {name: value})


def test_a_table_leaves_out_what_its_axes_settle():
    shown = labels(V3, named=("hard_swish_from", "optimizer"))
    assert not {"activation", "stem_activation", "momentum"} & shown.keys()
    assert {"hard_swish_from", "optimizer", "width"} <= shown.keys()
    assert "momentum" in labels(V3, named=("optimizer", "momentum"))
    assert labels(V3, named=("width",)) == labels(V3)


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
    ("base", "values", "named", "message"),
    [
        (V2, {"bottelneck": "linear"}, "axis", "'bottelneck', legal: model, dialect"),
        (V2, {"bottleneck": "lin"}, "bottleneck", "'lin', legal: linear, relu6"),
        (V2, {"model": "mobilenet_v9"}, "model", "'mobilenet_v9', legal: mobilenet_v1"),
        (V2, {"activation": "linear"}, "activation", "'linear', legal: relu6, relu, hard_swish"),
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
        (V3, {"activation": "swish"}, "activation", "'swish', legal: relu6, relu"),
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
        (V4, {"attention": "none"}, "attention", "has no attention, legal: V4's hybrids"),
        (V4, {"attention": "softmax"}, "attention", "'softmax', legal: none, mqa, mha"),
        (V4, {"attention_downsampling": "all"}, "attention_downsampling", "legal: V4's hybrids"),
        (V1, {"layer_scale": True}, "layer_scale", "legal: V2, V3, V4"),
        (HYBRID, {"bottleneck": "relu6"}, "bottleneck", "'relu6', legal: linear with a layer sc"),
        (HYBRID, {"quantization": "ptq"}, "quantization of block_7/input", "attention none"),
        (V2, {"hard_swish_from": 16}, "hard_swish_from", "mobilenet_v2 has no such option, legal"),
        (V3, {"hard_swish_from": 100}, "hard_swish_from", "100, legal: 0, 16, 24, 40, 80, 112, 1"),
        (V4, {"last_stage": "original"}, "last_stage", "legal: mobilenet_v3_large, mobilenet_v3_s"),
        (V2, {"squeeze_excite": "published"}, "squeeze_excite", "legal: none, all"),
        (V1, {"squeeze_excite": "none"}, "squeeze_excite", "legal: V2, V3, V4"),
        (V1, {"head_activation": "relu"}, "head_activation", "legal: V2, V3, V4"),
        (V4, {"repeats": 2}, "repeats", "legal: V1, V2, V3"),
        (V2, {"repeats": 0}, "repeats", "0, legal: a whole number, 1 to 100"),
        (V3, {"repeats": 2, "last_stage": "original"}, "repeats", "efficient last stage"),
        (V1, {"repeats": 2, "depth": "shallow"}, "depth", "legal: a network of Table 1's 13"),
        (V2, {"kernel": 4}, "kernel", "4, legal: odd sizes"),
        (V2, {"stem_kernel": 4}, "stem_kernel", "4, legal: odd sizes"),
        (V2, {"input_stride": 3}, "input_stride", "3, legal: 4, 2, 1"),
        (V2, {"dropout": 1}, "dropout", "1.0, legal: 0 to below 1"),
        (V2, {"momentum": 1.0}, "momentum", "1.0, legal: 0 to below 1"),
        (V2, {"beta1": 0.9}, "beta1", "the optimizer sgd has none, legal: adamw, lamb, muon"),
        (
            V2,
            {"epsilon": 1.0},
            "epsilon",
            "the optimizer sgd has none, legal: rmsprop, adamw, lamb, muon",
        ),
        (V2, {"schedule": "exponential", "factor": 2.0}, "factor", "2.0, legal: above 0 and up"),
        (V2, {"optimizer": "rmsprop", "epsilon": 0}, "epsilon", "0.0, legal: above 0"),
        (V2, {"optimizer": "lion"}, "optimizer", "'lion', legal: sgd, rmsprop, adamw, lamb, muon"),
        (V2, {"warmup_epochs": 30}, "warmup_epochs", "30.0, legal: from 0 to the epochs (20)"),
        (V1, {"bottleneck": "linear"}, "bottleneck", "legal: V2, V3, V4"),
        (V1, {"expansion": 6}, "expansion", "legal: V2, V3, V4"),
        (V1, {"shortcut": "none"}, "shortcut", "legal: V2, V3, V4"),
        (V2, {"convolution": "full"}, "convolution", "legal: mobilenet_v1"),
        (V2, {"depth": "shallow"}, "depth", "legal: mobilenet_v1"),
        (V2, {"initial_weights": "pretrained"}, "initial_weights", "'pretrained', legal: random,"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_is_not_legal_is_one_line_that_names_the_axis(base, values, named, message):
    with pytest.raises(ValueError) as caught:
        with_values(base, values)
    line = str(caught.value)
    assert line.startswith(named) and message in line and line.splitlines() == [line]
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
        "model": "mobilenet_v2", "dialect": "paper", "width": "0.35", "input_stride": "4",
        "last_stage": ABSENT, "hard_swish_from": ABSENT, "squeeze_excite": "none",
        "repeats": "1 2 3 4", "depth": ABSENT, "kernel": "3", "convolution": ABSENT,
        "expansion": "3", "attention": ABSENT, "attention_downsampling": ABSENT,
        "layer_scale": "False", "bottleneck": "linear", "shortcut": "bottleneck",
        "activation": "relu6", "block_activation": "relu6", "head_activation": "relu6",
        "norm_epsilon": "0.001", "norm_momentum": "0.997", "padding": "same",
        "depthwise_padding": "same", "initializer": "truncated_normal_0.09",
        "stem_kernel": "3", "stem_activation": "relu6", "dropout": "0.2",
        "resolution": "96", "batch_size": "128",
        "validation_fraction": "0.1", "bad_images": "0", "max_image_pixels": "50000000",
        "augmentation": "shift", "policy": "none", "randaugment_layers": "2",
        "randaugment_magnitude": "9", "colour_jitter": "0", "erasing": "0",
        "scaling": "symmetric", "crop_share": "0.875", "interpolation": "bilinear",
        "epochs": "20", "optimizer": "sgd", "nesterov": "False",
        "momentum": "0.9", "decay": ABSENT, "initial_square": ABSENT, "beta1": ABSENT,
        "beta2": ABSENT, "update_rms": ABSENT, "epsilon": ABSENT,
        "learning_rate": "0.045", "schedule": "cosine",
        "factor": ABSENT, "every_epochs": ABSENT, "warmup_epochs": "1",
        "label_smoothing": "0.1", "mixup": "0", "cutmix": "0", "ema_decay": "0.99",
        "ema_warmup": "True",
        "weight_decay": "4e-05",
        "decay_depthwise": "True", "drop_path": "0", "clip_norm": "0",
        "frozen": "0", "depth_decay": "1", "precision": "float32",
        "parallel": "jit", "lowering": "auto", "on_divergence": "halt", "spike_factor": "0",
        "accumulate": "1", "norm_groups": "1", "remat": "none", "initial_weights": "random",
    }  # fmt: skip
    assert [labels(V1)[name] for name in ("expansion", "bottleneck", "shortcut")] == [ABSENT] * 3
    assert [labels(V1)[name] for name in ("convolution", "depth")] == ["depthwise", "full"]
    own = {
        "model": "mobilenet_v3_large", "last_stage": "efficient", "hard_swish_from": "80",
        "squeeze_excite": "published", "kernel": "3 5", "activation": "hard_swish relu",
        "block_activation": "hard_swish relu", "head_activation": "hard_swish",
        "stem_activation": "hard_swish", "norm_momentum": "0.99", "expansion": ...,
    }  # fmt: skip
    assert labels(V3) | {"expansion": ...} == labels(V2) | own
    # Table 1's ratios of expanded channels to those in, each once.
    assert set(labels(V3)["expansion"].split()) == {"2.3", "2.5", "3", "4", "6"}
    assert set(labels(V4)["expansion"].split()) == {"2", "4", "6"}


def test_reading_tells_blocks_that_differ():
    first, *rest = mobilenet_v2(num_classes=10).blocks
    mixed = replace(V2.spec, blocks=(replace(first, bottleneck="relu6"), *rest))
    assert labels(replace(V2, spec=mixed))["bottleneck"] == "linear relu6"


@pytest.mark.parametrize("config", [V1, V2, V3, V4], ids=lambda config: config.spec.name)
def test_a_network_of_ones_own_has_labels_and_no_axes_of_a_factory(config):
    """Its name is none of a paper's, so nothing says what it would be computed anew from."""
    own = replace(config, spec=replace(config.spec, name="mine"))
    assert labels(own)["model"] == "mine"
    assert labels(own)["input_stride"] == ABSENT
    with pytest.raises(ValueError, match=r"^model: got 'mine', legal: mobilenet_v1, "):
        with_values(own, {"width": 0.5})


def test_bits_are_those_of_weights_and_of_activations():
    changed = with_values(V2, {"quantization": "ptq", "bits": 4, "granularity": "tensor"})
    setting = changed.quantization.setting
    assert (setting.weight_bits, setting.activation_bits, setting.granularity) == (4, 4, "tensor")
    assert labels(changed)["bits"] == "4"
    apart = with_values(changed, {"activation_bits": 8})
    assert labels(apart)["bits"] == ABSENT and labels(apart)["activation_bits"] == "8"


@pytest.mark.parametrize("name", ["bits", "weight_bits", "qat_epochs"])
def test_a_network_that_is_not_quantized_has_no_bits(name):
    with pytest.raises(ValueError, match=f"^{name}: got 4, legal: none without --quantization$"):
        with_values(V2, {name: 4})
    assert not {"quantization", *QUANTIZED} & labels(V2).keys()


def test_a_grid_has_the_network_in_floating_point_once():
    found = grid(V2, {"quantization": ["none", "ptq"], "bits": [8, 4]})
    settings = [config.quantization and config.quantization.setting for config in found]
    assert [setting and setting.weight_bits for setting in settings] == [None, 8, 4]
    assert found[0] == V2
    assert [config.source for config in found] == [None, V2, V2]


def test_settings_of_training_make_no_other_arm_of_a_post_training_method():
    found = grid(V2, {"quantization": ["ptq", "qat"], "qat_epochs": [5, 10]})
    assert [(c.quantization.method, c.quantization.qat_epochs) for c in found] == [
        ("ptq", 10), ("qat", 5), ("qat", 10),
    ]  # fmt: skip


def test_what_only_training_reads_is_no_label_of_a_network_that_is_rounded_after_it():
    rounded, trained = grid(V2, {"quantization": ["ptq", "qat"], "bits": [8]})
    assert labels(trained)["qat_epochs"] == "10"
    assert "qat_epochs" not in labels(rounded)
    assert labels(rounded, ["qat_epochs"])["qat_epochs"] == ABSENT
