"""Every preset's arms are legal, differ in what it says, and cost what the papers' tables print."""

import itertools
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from mnet_jax.ablation.preset import NOT_RUN, SCALES
from mnet_jax.ablation.presets import PRESETS
from mnet_jax.analysis import cost
from mnet_jax.commands import ablate, catalog, sweeps
from mnet_jax.options import axes, recipes
from mnet_jax.options.recipes import RECIPES

EVERY = [(name, scale) for name in PRESETS for scale in SCALES]
everywhere = pytest.mark.parametrize(("name", "scale"), EVERY)


def plan(line):
    """The sweep of a command line of flags with one value or more each."""
    words = map(str.split, line.split("--")[1:])
    given = {flag.replace("-", "_"): tuple(values) for flag, *values in words}
    own = {f.name for f in fields(sweeps.SweepArguments)}
    options = {name: values[0] for name, values in given.items() if name in own}
    options |= {"seeds": int(options["seeds"])} if "seeds" in options else {}
    kinds = {axis.name: axis.values for axis in axes.AXES}
    named = {
        name: tuple(kinds[name](v) if kinds[name] in (int, float) else v for v in values)
        for name, values in given.items()
        if name not in own
    }
    arguments = sweeps.SweepArguments(**options)
    return arguments, sweeps.plan(arguments, named)


def arms(name, scale):
    classes = 1000 if scale == "full" else 10
    sweep = plan(f"--preset {name} --scale {scale}")[1]
    return [arm.config(classes) for arm in sweep.arms]


def expense(config):
    return cost.count(config.spec, config.data.resolution)


def changed(one, other, path=""):
    """The paths of the fields in which two values differ; blocks count as one another's."""
    if is_dataclass(one) and type(one) is type(other):
        names = (f.name for f in fields(one))
        pairs = ((getattr(one, n), getattr(other, n), f"{path}.{n}".strip(".")) for n in names)
        return set().union(*itertools.starmap(changed, pairs))
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        pairs = zip(one, other, strict=True)
        return set().union(*(changed(a, b, f"{path}[]") for a, b in pairs))
    return {path} if one != other else set()


@everywhere
def test_every_claim_is_about_an_arm_that_is_compared(name, scale):
    sweep = plan(f"--preset {name} --scale {scale}")[1]
    others = [axes.labels(arm, sweep.axes) for arm in sweep.arms if arm != sweep.baseline]
    claims = PRESETS[name].claims
    assert claims
    judged = [next((c for c in claims if c.is_about(labels)), None) for labels in others]
    assert all(claim in judged for claim in claims)


@everywhere
def test_every_arm_is_legal_and_no_two_are_the_same(name, scale):
    arguments, sweep = plan(f"--preset {name} --scale {scale}")
    preset = PRESETS[name]
    assert len(set(sweep.arms)) == len(preset.arms_of(scale)) == len(preset.arms) >= 2
    assert sweep.baseline == sweep.nearest == sweep.arms[0]
    assert {arm.data.name for arm in sweep.arms} == {SCALES[scale].dataset}
    assert [*arguments.arm_seeds] == [*range(SCALES[scale].seeds)]
    for arm, values in zip(sweep.arms, preset.values(scale), strict=True):
        read = {axis.name: axis.read(arm) for axis in axes.AXES}
        kept = {axis: values[axis] for axis in values if not without_effect(axis, values)}
        assert {axis: read[axis] for axis in kept} == kept


def without_effect(axis, values):
    """The epochs of quantization-aware training, in the arms without it."""
    return axis == "qat_epochs" and values["quantization"] != "qat"


V1_WIDTH = {"spec.width", "spec.stem.outputs", "spec.blocks[].inputs", "spec.blocks[].outputs"}
HEAD = "spec.head.conv.activation", "spec.head.hidden.activation"
DIFFERENCES = {  # preset: fields of the config that an arm may differ in from the first
    "v1-depthwise": {"spec.blocks[]"},  # another kind of block
    "v1-thin-or-shallow": {*V1_WIDTH, "spec.blocks"},  # fewer blocks
    "v1-width": V1_WIDTH,
    "v1-resolution": {"data.resolution"},
    "v2-linear-bottleneck": {"spec.blocks[].bottleneck"},
    "v2-shortcut": {"spec.blocks[].shortcut"},
    "v2-expansion": {"spec.blocks[].expanded"},
    "v3-activation": {"spec.stem.activation", "spec.blocks[].activation", *HEAD},
    "v3-squeeze-excite": {"spec.blocks[].squeeze"},
    "v3-tail": {"spec.blocks", "spec.head.conv.inputs", "spec.head.conv.outputs",
                "spec.head.hidden"},
    **{f"{version}-quantization": {"quantization"} for version in ("v1", "v2", "v3")},
}  # fmt: skip


@everywhere
def test_arms_differ_in_what_the_preset_varies_and_in_nothing_else(name, scale):
    first, *others = arms(name, scale)
    for other in others:
        found = changed(first, other)
        if name == "v1-to-v4":
            assert {path.partition(".")[0] for path in found} == {"spec"}
            assert first.spec.dialect.name == other.spec.dialect.name
        else:
            assert found and found <= DIFFERENCES[name]
        assert other.training == first.training


@everywhere
def test_the_recipe_is_the_named_one_but_for_what_the_preset_names(name, scale):
    start, first = RECIPES[PRESETS[name].recipe_at(scale)].arm.config(10), arms(name, scale)[0]
    found = changed(start.training, first.training) | changed(start.data, first.data)
    assert {path.split(".")[-1] for path in found} <= PRESETS[name].values(scale)[0].keys()


def published(name):
    """MAdds and parameters of a preset's arms at full scale, in millions, by their values."""
    return {
        tuple(arm.values()): (expense(config).madds / 1e6, expense(config).params / 1e6)
        for arm, config in zip(PRESETS[name].arms_of("full"), arms(name, "full"), strict=True)
    }


def rounded(expected):
    """What a table prints, one or no decimals: half a unit either way."""
    madds, params = expected
    return pytest.approx(madds, abs=0.51), pytest.approx(params, abs=0.051)


def test_v1s_table_4():
    found = published("v1-depthwise")
    # The paper has 4866, arithmetic 4867.3.
    assert found[("full",)] == (pytest.approx(4866, abs=1.5), pytest.approx(29.3, abs=0.05))
    assert found[("depthwise",)] == rounded((569, 4.2))


def test_v1s_table_5():
    found = published("v1-thin-or-shallow")
    assert found[(0.75,)] == rounded((325, 2.6))
    assert found[("shallow",)] == rounded((307, 2.9))
    assert found[()] == rounded((569, 4.2))


def test_v1s_table_6():
    found = published("v1-width")
    table = {1.0: (569, 4.2), 0.75: (325, 2.6), 0.5: (149, 1.3), 0.25: (41, 0.5)}
    assert found == {(width,): rounded(row) for width, row in table.items()}


def test_v1s_table_7():
    found = published("v1-resolution")
    table = {224: (569, 4.2), 192: (418, 4.2), 160: (290.5, 4.2), 128: (186, 4.2)}
    assert found == {(side,): rounded(row) for side, row in table.items()}


def test_v2s_expansions_cost_what_their_arithmetic_says():
    """Parameters from the layers' shapes by hand: expand, depthwise, project, their norms."""
    baseline, *others = arms("v2-expansion", "full")
    assert expense(baseline).params == 3_504_872  # Table 4: 3.4M
    for arm in others:
        difference = sum(
            (b.expanded if b.expands else 0) * (b.inputs + 2) + b.expanded * (9 + 2 + b.outputs)
            - (a.expanded if a.expands else 0) * (a.inputs + 2) - a.expanded * (9 + 2 + a.outputs)
            for a, b in zip(baseline.spec.blocks, arm.spec.blocks, strict=True)
        )  # fmt: skip
        assert expense(arm).params - expense(baseline).params == difference


@pytest.mark.parametrize("name", ["v2-linear-bottleneck", "v2-shortcut", "v3-activation"])
@pytest.mark.parametrize("scale", SCALES)
def test_arms_that_only_compute_otherwise_cost_the_same(name, scale):
    assert len({(expense(a).madds, expense(a).params) for a in arms(name, scale)}) == 1


def test_v3s_efficient_tail_saves_what_section_5_1_says():
    efficient, original = map(expense, arms("v3-tail", "full"))
    assert original.madds - efficient.madds == pytest.approx(30e6, abs=5e6)


def test_v3s_table_5_is_where_h_swish_begins():
    """Table 5's arms, by the channels of the blocks of V3-Large that have it."""
    large = arms("v3-activation", "full")
    first = [
        next((b.outputs for b in arm.spec.blocks if b.activation == "hard_swish"), None)
        for arm in large
    ]
    assert first == [80, None, 16, 112]
    assert {b.activation for b in large[1].spec.blocks} == {"relu"} == {
        large[1].spec.stem.activation, large[1].spec.head.hidden.activation,
    }  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
def test_the_versions_have_equal_madds(scale):
    configs = arms("v1-to-v4", scale)
    names = [config.spec.name.split("_")[1] for config in configs]
    assert names == ["v1", "v2", "v3", "v4"]
    v2 = expense(configs[1]).madds
    for config in configs:
        assert expense(config).madds == pytest.approx(v2, rel=0.03)


def test_flags_take_the_place_of_a_presets_values():
    arguments, sweep = plan("--preset v2-expansion --expansion 1 6 --epochs 7 --seeds 2")
    assert [axes.labels(arm)["expansion"] for arm in sweep.arms] == ["1", "6"]
    assert {arm.training.epochs for arm in sweep.arms} == {7}
    assert axes.labels(sweep.baseline)["epochs"] == "3"
    assert sweep.nearest == sweep.arms[1]  # six is the preset's baseline
    assert [*arguments.arm_seeds] == [0, 1]
    assert sweep.axes == ("expansion",)


def test_a_sweep_is_about_what_has_several_values():
    assert plan("--bottleneck linear relu6 --epochs 5")[1].axes == ("bottleneck",)
    assert plan("--preset v2-shortcut --optimizer sgd adamw --width 1")[1].axes == (
        "shortcut",
        "optimizer",
    )
    assert plan("--bottleneck linear --epochs 5 5")[1].axes == ("bottleneck", "epochs")


def test_flags_cross_with_a_presets_arms():
    _, sweep = plan("--preset v1-depthwise --optimizer sgd adamw")
    found = [(axes.labels(a)["convolution"], axes.labels(a)["optimizer"]) for a in sweep.arms]
    assert found == [*itertools.product(("depthwise", "full"), ("sgd", "adamw"))]


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_claims_are_about_a_presets_own_arms(name, scale):
    _, sweep = plan(f"--preset {name} --scale {scale}")
    assert all(PRESETS[name].judges(arm, sweep.baseline) for arm in sweep.arms)


@pytest.mark.parametrize(
    ("words", "judged"),
    [
        # Two values of an axis cross with the arms: those that have the baseline's are judged.
        ("--preset v2-linear-bottleneck --expansion 1 3", [True, False, True, False]),
        ("--preset v1-width --scale desk --learning-rate 0.05 0.1", [False, True] * 4),
        ("--preset v1-to-v4 --epochs 1 2", [True, False] * 4),
        # The epochs of the scale's quantization-aware training, and others.
        ("--preset v1-quantization --scale desk --qat-epochs 1 10", [True] * 3 + [True, False] * 3),
        # Another baseline than the preset's.
        ("--preset v1-width --scale desk --width 0.5 0.75", [False, False]),
        ("--preset v2-expansion --expansion 3 10", [False, False]),
    ],
)
def test_claims_are_about_no_arm_that_differs_in_more_than_they_say(words, judged):
    arguments, sweep = plan(words)
    preset = PRESETS[arguments.preset]
    assert [preset.judges(arm, sweep.nearest) for arm in dict.fromkeys(sweep.arms)] == judged


def test_a_claim_about_8_bits_is_about_no_other_bits():
    _, sweep = plan("--preset v2-quantization --scale desk --bits 6")
    labels = [axes.labels(arm, sweep.axes) for arm in sweep.arms]
    assert [own["quantization"] for own in labels] == ["none", "ptq", "ptq", "qat"]
    claims = PRESETS["v2-quantization"].claims
    assert not [own for own in labels if any(claim.is_about(own) for claim in claims)]


def test_other_images_keep_the_scales_recipe():
    _, sweep = plan("--preset v2-shortcut --scale full --dataset folder --data-dir photos")
    _, own = plan("--preset v2-shortcut --scale full")
    for arm, expected in zip(sweep.arms, own.arms, strict=True):
        assert (arm.spec, arm.training) == (expected.spec, expected.training)
        assert (arm.data.name, arm.data.directory) == ("folder", "photos")


def test_every_preset_has_a_place_of_its_own():
    places = {plan(f"--preset {name} --scale {scale}")[0].store for name, scale in EVERY}
    assert len(places) == len(EVERY)
    assert str(plan("--preset v3-tail --results here")[0].store) == "here"


def test_without_a_preset_a_sweep_is_the_grid_from_the_baseline():
    base = recipes.baseline("digits")
    arguments, sweep = plan("--bottleneck relu6 linear --width 0.25 0.5")
    values = {"bottleneck": ["relu6", "linear"], "width": [0.25, 0.5]}
    assert [*sweep.arms] == axes.grid(base, values)
    assert (sweep.baseline, sweep.nearest) == (base, base)
    assert (str(arguments.store), len(arguments.arm_seeds)) == ("results", 3)


def test_at_desk_an_arm_takes_about_three_minutes_and_at_smoke_a_preset_does():
    for name, preset in PRESETS.items():
        assert catalog.seconds_of(preset, "smoke") <= 150, name
        if preset.arms[0].keys() == {"quantization"}:  # one network, and all its arms start from it
            assert catalog.seconds_of(preset, "desk") <= 1800, name
            continue
        times = [
            SCALES["desk"].seconds(expense(config).madds, config.training.epochs)
            for config in arms(name, "desk")
        ]
        assert 90 <= sum(times) / len(times) <= 300, name


def test_the_estimate_is_three_forward_passes_of_every_image():
    trials = 2 * SCALES["full"].seeds
    spec = arms("v2-linear-bottleneck", "full")[0].spec
    expected = trials * 200 * 3 * 300_774_272 * SCALES["full"].train_images / 2e12
    assert cost.count(spec, 224).madds == 300_774_272
    assert catalog.seconds_of(PRESETS["v2-linear-bottleneck"], "full") == pytest.approx(expected)


def test_the_estimate_counts_each_quantized_network_once():
    at, preset = SCALES["desk"], PRESETS["v1-quantization"]
    madds = expense(arms("v1-quantization", "desk")[0]).madds
    epochs = 4 + 3 * 1  # in floating point; with 8, 4 and 3 bits
    expected = len(preset.arms) * at.arm_seconds + at.seeds * at.seconds(madds, epochs)
    assert catalog.seconds_of(preset, "desk") == pytest.approx(expected)


def test_the_list_shows_every_preset(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["ablate", "--list"])
    ablate.main()
    out = capfd.readouterr().out
    for name, preset in PRESETS.items():
        assert f" {name} " in out
        assert preset.source.split(",")[0] in out
    assert out.count(NOT_RUN) == sum(p.result == NOT_RUN for p in PRESETS.values())


def test_the_result_of_every_preset_is_there():
    root = Path(__file__).parents[2]
    for preset in PRESETS.values():
        assert preset.result == NOT_RUN or (root / preset.result / "report.md").is_file()


def test_the_document_has_every_presets_row():
    document = (Path(__file__).parents[2] / "docs" / "ablations.md").read_text()
    for name, source, claim, own, expenses, result in catalog.rows():
        cells = (f"`{name}`", source, claim, "; ".join(own), "; ".join(expenses), result)
        assert f"| {' | '.join(cells)} |\n" in document
