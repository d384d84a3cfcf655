"""The benchmark: the work it counts, the ratios it takes, and that it runs what it says."""

import ast
import dataclasses
import json
import math
from importlib import resources
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import pytest
from messages import call_command
from small_networks import shortened
from tiny_network import make_tiny_spec

from mnet_jax import serialization
from mnet_jax.analysis import cost
from mnet_jax.analysis.cost import Machine
from mnet_jax.architectures import FACTORIES
from mnet_jax.architectures.shapes import Heads
from mnet_jax.benchmark import machine, report
from mnet_jax.benchmark.cases import CompileCase, DepthwiseCase, LayerCase, NetworkCase
from mnet_jax.benchmark.contenders import BY_NAME, CONTENDERS, LOWERINGS, OURS, QUANTIZED, SEEDS
from mnet_jax.benchmark.jax_contenders import ours, seeds_together
from mnet_jax.benchmark.suites import (
    FAMILY,
    depthwise_cases,
    layer_cases,
    network,
    network_cases,
    table_cases,
)
from mnet_jax.benchmark.timing import BenchmarkResult, Comparison, Timing, compare
from mnet_jax.commands import benchmark
from mnet_jax.ops import choice
from mnet_jax.ops.lowering import geometry_of
from mnet_jax.ops.types import Direction
from mnet_jax.plots.benchmark import STYLES, to_png

pytestmark = pytest.mark.usefixtures("quickly_compiled")
MACHINE = Machine(flops_per_second=100.0, bytes_per_second=10.0, device="cpu")
TINY_STEP = NetworkCase(
    program="training", spec=shortened(make_tiny_spec(), 1), resolution=8, batch_size=2
)


def test_the_bound_is_the_slower_of_arithmetic_and_memory():
    assert MACHINE.bound_seconds(madds=500, moved_bytes=20) == 2 * 500 / 100
    assert MACHINE.bound_seconds(madds=5, moved_bytes=20) == 20 / 10
    assert MACHINE.ridge == 10
    with pytest.raises(ValueError, match="bytes_per_second: got 0, legal: above 0"):
        Machine(flops_per_second=1.0, bytes_per_second=0, device="cpu")


def test_the_work_of_a_depthwise_convolution_by_hand():
    case = DepthwiseCase(shape=(2, 5, 6, 4), kernel=3, stride=2, derivative="forward")
    inputs, outputs, kernel = 2 * 5 * 6 * 4, 2 * 3 * 3 * 4, 9 * 4
    assert case.work.madds == 9 * outputs
    assert case.work.moved_bytes == 4 * (inputs + outputs + kernel)


def test_both_gradients_are_twice_the_work_and_write_both_results():
    case = DepthwiseCase(shape=(2, 5, 6, 4), kernel=3, stride=2, derivative="both gradients")
    inputs, outputs, kernel = 2 * 5 * 6 * 4, 2 * 3 * 3 * 4, 9 * 4
    assert case.work.madds == 2 * 9 * outputs
    assert case.work.moved_bytes == 4 * (2 * inputs + outputs + 2 * kernel)


def test_the_work_of_a_network_is_its_costs():
    spec = FACTORIES["mobilenet_v1"](width=0.25)
    counted = cost.count(spec, 64)
    infer, train = (
        NetworkCase(program=program, spec=spec, resolution=64, batch_size=3).work
        for program in ("inference", "training")
    )
    assert infer.madds == 3 * counted.madds
    assert infer.moved_bytes == 3 * counted.activation_bytes + counted.weight_bytes
    assert (train.madds, train.moved_bytes) == (3 * infer.madds, 3 * infer.moved_bytes)


def test_every_distinct_depthwise_layer_is_a_case_with_three_derivatives():
    cases = depthwise_cases(["mobilenet_v1"], 224, 16)
    # V1's Table 1 has 13 depthwise layers, of which five are alike.
    assert len(cases) == len(set(cases)) == 3 * (13 - 4)
    assert {case.stride for case in cases} == {1, 2}


def test_the_table_of_lowerings_has_narrow_layers_too():
    cases = table_cases(["mobilenet_v1"], 224, 16)
    layers = {(case.shape, case.kernel, case.stride) for case in cases}
    # At width 0.25 the first three have 8, 16 and 32 channels, of which V1 has 32 itself.
    assert len(cases) == 2 * len(layers) == 2 * (13 - 4 + 2)
    assert {case.derivative for case in cases} == {"forward", "both gradients"}
    assert sorted(shape[3] for shape, _, _ in layers)[:3] == [8, 16, 32]


def test_the_work_of_a_layer_by_hand():
    forward = LayerCase(
        kind="conv", shape=(2, 5, 6, 4), outputs=7, kernel=3, stride=2, activation="relu",
        direction="forward", count=1,
    )  # fmt: skip
    inputs, outputs, kernel = 2 * 5 * 6 * 4, 2 * 3 * 3 * 7, 9 * 4 * 7
    assert forward.work.madds == 9 * 4 * outputs
    assert forward.work.moved_bytes == 4 * (inputs + outputs + kernel)
    backward = dataclasses.replace(forward, direction="backward").work
    assert (backward.madds, backward.moved_bytes) == (
        2 * forward.work.madds, 2 * forward.work.moved_bytes,
    )  # fmt: skip
    depthwise = dataclasses.replace(forward, kind="depthwise", outputs=4)
    assert depthwise.work.madds == 9 * 2 * 3 * 3 * 4


def test_the_layers_of_v2_are_those_of_its_table():
    cases = layer_cases([network("mobilenet_v2", 224)], 224, 16)
    forward = [case for case in cases if case.direction == "forward"]
    assert len(cases) == len(set(cases)) == 2 * len(forward)
    counts = {kind: 0 for kind in ("conv", "depthwise", "pointwise")}
    for case in forward:
        counts[case.kind] += case.count
    # Table 2: 17 bottlenecks, of which the first does not expand, a stem and a last convolution.
    assert counts == {"conv": 1, "depthwise": 17, "pointwise": 17 + 16 + 1}
    # A stem sees images, an expansion the linear bottleneck, everyone else a ReLU6.
    assert [case.shape[3] for case in forward if case.activation is None] == [3]
    linear = {case.shape[3] for case in forward if case.activation == "linear"}
    assert linear == {16, 24, 32, 64, 96, 160, 320}
    assert {case.activation for case in forward if case.kind == "depthwise"} == {"relu6"}


@pytest.mark.parametrize("name", [*FAMILY, "mobilenet_v4_hybrid_medium"])
def test_the_layers_of_a_network_have_its_work(name):
    """But for the dense layers and normalizations alone, which are the cost model's own rows."""
    rows = [
        row
        for row in cost.count(FACTORIES[name](), 224).rows
        if row.layer.kind not in ("dense", "norm")
    ]
    cases = [
        case for case in layer_cases([network(name, 224)], 224, 4) if case.direction == "forward"
    ]
    assert sum(case.count for case in cases) == len(rows)
    assert sum(case.count * case.work.madds for case in cases) == 4 * sum(r.madds for r in rows)


def test_the_depthwise_layers_of_v3_and_v4_know_what_came_before():
    def activations(name):
        cases = layer_cases([network(name, 224)], 224, 1)
        return {case.activation for case in cases if case.kind == "depthwise"}

    assert activations("mobilenet_v3_large") == {"relu", "hard_swish"}
    assert activations("mobilenet_v4_conv_small") == {
        "linear",
        "relu",
    }  # some come before expanding


def test_small_images_skip_the_early_strides():
    small, large = network_cases("training", ["mobilenet_v2"], [(32, 128), (224, 16)])
    assert (small.spec.stem.stride, large.spec.stem.stride) == (1, 2)


def timing(contender, seconds, failure=None):
    return Timing(contender=contender, seconds=tuple(seconds), setup_seconds=1.0, failure=failure)


RESULT = BenchmarkResult(
    suite="training",
    machine=MACHINE,
    environment={"jax": "0.7.2"},
    comparisons=(
        Comparison(
            label="a network",
            madds=50,
            moved_bytes=5,
            timings=(
                timing(OURS, [1.0, 2.0, 4.0]),
                timing("torch eager", [2.0, 2.0, 2.0]),
                timing("Keras on JAX", [], "ValueError: no"),
            ),
        ),
    ),
)


def test_ratios_are_taken_round_by_round():
    comparison = RESULT.comparisons[0]
    ours, eager, _ = comparison.timings
    assert comparison.ratios(eager) == (0.5, 1.0, 2.0)
    assert comparison.ratios(ours) == (1.0, 1.0, 1.0)
    assert comparison.over_bound(ours, MACHINE) == 2.0 / 1.0


def test_the_table_has_a_row_for_each_contender_and_says_why_one_failed():
    rows = report.rows(RESULT)
    assert rows[0][:4] == ("a network", OURS, "2000", "1000 to 4000")
    assert rows[1][4:6] == ("1.00", "0.50 to 2.00")
    assert rows[2][1:4] == ("Keras on JAX", "failed", "ValueError: no")
    markdown = report.to_markdown([RESULT])
    assert "| a network | ours | 2000 |" in markdown and "jax 0.7.2" in markdown


def grouped_result(*cases):
    """Of (group, count, seconds of ours, seconds of another); None for a failure."""
    return dataclasses.replace(
        RESULT,
        comparisons=tuple(
            Comparison(
                label="a layer", madds=1, moved_bytes=1, group=group, count=count,
                timings=(
                    timing(OURS, ours),
                    timing("torch eager", other or [], None if other else "ValueError: no"),
                ),
            )
            for group, count, ours, other in cases
        ),
    )  # fmt: skip


def test_the_summary_counts_each_layer_as_often_as_the_network_has_it():
    assert report.summary_rows(RESULT) == []
    result = grouped_result(
        ("conv forward", 1, [0.1, 0.2, 0.9], [0.4] * 3),
        ("conv backward", 2, [0.1] * 3, [0.2] * 3),
        ("conv forward", 3, [0.2] * 3, [0.4] * 3),
    )
    assert report.summary_rows(result) == [
        ("conv forward", OURS, "800", "80.0", "1.00"),  # 0.2 + 3 * 0.2
        ("", "torch eager", "1600", "80.0", "0.50"),
        ("conv backward", OURS, "200", "20.0", "1.00"),
        ("", "torch eager", "400", "20.0", "0.50"),
        ("all", OURS, "1000", "100.0", "1.00"),
        ("", "torch eager", "2000", "100.0", "0.50"),
    ]
    assert "| conv forward | ours | 800 |" in report.to_markdown([result])


def test_no_sum_is_told_of_who_failed():
    result = grouped_result(("conv forward", 1, [0.2], [0.4]), ("conv backward", 1, [0.1], None))
    of_torch = [row for row in report.summary_rows(result) if row[1] == "torch eager"]
    assert [row[2:] for row in of_torch] == [
        ("400", "", "0.50"), ("failed", "", ""), ("failed", "", ""),
    ]  # fmt: skip


def test_the_result_is_json_and_back_and_has_a_picture():
    text = serialization.to_json(RESULT)
    assert serialization.from_json(BenchmarkResult, text) == RESULT
    assert to_png(RESULT).startswith(b"\x89PNG")


def test_the_picture_has_a_style_of_its_own_for_every_contender():
    assert {*STYLES} == {*BY_NAME}
    shown_together = [STYLES[contender.name] for contender in (*CONTENDERS, *QUANTIZED)]
    assert len({*shown_together}) == len(shown_together)


@pytest.mark.parametrize("name", FACTORIES)
def test_the_torch_network_is_the_same_network(name):
    pytest.importorskip("torch", reason="PyTorch is a contender only where it is installed")
    from mnet_jax.benchmark.torch_contenders import Network

    spec = FACTORIES[name](width=0.5)
    module = Network(spec)
    assert sum(p.numel() for p in module.parameters()) == cost.count(spec, 224).params


def test_who_takes_what():
    depthwise = DepthwiseCase(shape=(1, 4, 4, 1), kernel=3, stride=1, derivative="forward")
    (network,) = network_cases("training", ["mobilenet_v4_conv_small"], [(224, 1)])
    taking = {c.name for c in CONTENDERS if c.takes(network)}
    together = f"{OURS}, {SEEDS} seeds under vmap"
    assert taking == {OURS, together, "XLA convolutions", "torch eager", "torch.compile"}
    assert not BY_NAME["Keras on JAX"].takes(depthwise)
    assert BY_NAME["XLA convolutions"].takes(CompileCase(network=network, cached=False))


@pytest.mark.parametrize(
    "contender", [*CONTENDERS, *QUANTIZED, *LOWERINGS], ids=lambda one: one.name
)
def test_the_function_of_a_contender_is_there(contender):
    """It is named by text, so that no framework is imported where it is not measured."""
    module, _, function = contender.maker.partition(":")
    source = resources.files("mnet_jax.benchmark").joinpath(f"{module}.py").read_text()
    defined = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert function in [node.name for node in defined]


@pytest.mark.slow
def test_seeds_under_vmap_take_the_step_of_one_alone():
    alone, together = (make(TINY_STEP)().params for make in (ours, seeds_together))
    for one, several in zip(*map(jax.tree.leaves, (alone, together)), strict=True):
        chex.assert_shape(several, (SEEDS, *one.shape))
        for each in several:
            chex.assert_trees_all_close(each, one, atol=1e-3 * float(jnp.abs(one).max()))


@pytest.mark.slow
def test_a_step_with_quantizers_is_timed_against_the_same_one_without():
    rounding, exact = (
        BY_NAME[f"shifted, {bits}"].load()(TINY_STEP) for bits in ("4 bits", "float")
    )
    assert int(rounding().step) == 1
    second = rounding()
    assert int(second.step) == 2
    assert {"input_quantizer", "stem"} <= second.params.keys()
    assert not [name for name in exact().params if "quantizer" in name]
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(second.params))


@pytest.mark.slow
def test_the_rates_of_this_machine_are_measured():
    measured = machine.measure({})
    assert measured.device == jax.local_devices()[0].device_kind
    assert 0 < measured.flops_per_second < math.inf and 0 < measured.bytes_per_second < math.inf


@pytest.fixture
def callers_cache(tmp_path, monkeypatch):
    """An empty compilation cache, which the processes of a benchmark are to leave alone."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    yield cache
    assert not any(cache.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("callers_cache")
def test_contenders_run_in_turn_and_a_failure_is_a_row():
    case = DepthwiseCase(shape=(1, 8, 8, 4), kernel=3, stride=1, derivative="kernel gradient")
    contenders = [BY_NAME[OURS], BY_NAME["XLA convolutions"]]
    impossible = dataclasses.replace(case, kernel=0)
    first, failed, last = compare([case, impossible, case], contenders, rounds=2, environment={})
    for found in (first, last):
        assert [len(t.seconds) for t in found.timings] == [2, 2]
        assert all(0 < s < math.inf for t in found.timings for s in (*t.seconds, t.setup_seconds))
    assert failed.timings[0].seconds == ()
    assert failed.timings[0].failure.startswith("ValueError: kernel: got (0, 0, 4)")


@pytest.mark.slow
@pytest.mark.usefixtures("callers_cache")
def test_every_sample_of_a_compilation_leaves_the_callers_cache_alone():
    case = CompileCase(network=TINY_STEP, cached=True)
    (found,) = compare([case], [BY_NAME[OURS]], rounds=2, environment={})
    assert len(found.timings[0].seconds) == 2 and found.timings[0].failure is None


LAYERS = [
    LayerCase(
        kind=kind, shape=(2, 8, 8, 4), outputs=outputs, kernel=kernel, stride=stride,
        activation=activation, direction=direction, count=1,
    )
    for kind, outputs, kernel, stride, activation in (
        ("conv", 6, 3, 2, None), ("conv", 6, 3, 2, "relu"), ("depthwise", 4, 5, 1, "relu6"),
        ("pointwise", 6, 1, 1, "hard_swish"),
    )
    for direction in ("forward", "backward")
]  # fmt: skip


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.label)
def test_both_contenders_on_jax_compute_the_same_layer(case):
    ours, plain = (BY_NAME[name].load()(case)() for name in (OURS, "XLA convolutions"))
    of_input = case.activation is not None
    assert len(ours) == (3 if case.direction == "forward" or of_input else 1)
    chex.assert_trees_all_close(ours, plain, rtol=1e-3, atol=1e-3)


ATTENTION = LayerCase(
    kind="attention", shape=(2, 8, 6, 12), outputs=12, kernel=1, stride=1, activation="linear",
    direction="forward", count=1, heads=Heads(queries=3, keys=1, key_size=(4, 3)),
)  # fmt: skip


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_attention_has_the_shapes_and_the_work_of_its_products(direction):
    case = dataclasses.replace(ATTENTION, direction=direction)
    inputs = [(2, 8, 6, 12), (2, 4, 3, 4), (2, 4, 3, 4)]
    passes = 1 if direction == "forward" else 2
    assert case.work.madds == passes * 2 * 2 * 3 * 48 * 12 * 4  # both products, images, heads
    numbers = 2 * math.prod(inputs[0]) + 2 * math.prod(inputs[1])
    assert case.work.moved_bytes == passes * 4 * numbers
    ours = BY_NAME[OURS].load()(case)()
    found = [ours.shape] if direction == "forward" else [array.shape for array in ours]
    assert found == (inputs[:1] if direction == "forward" else inputs)
    pytest.importorskip("torch", reason="PyTorch is a contender only where it is installed")
    theirs = BY_NAME["torch eager"].load()(case)()
    found = [theirs.shape] if direction == "forward" else [array.shape for array in theirs]
    heads_first = [(2, 3, 48, 4), (2, 1, 12, 4), (2, 1, 12, 4)]
    assert found == (heads_first[:1] if direction == "forward" else heads_first)


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.label)
def test_a_torch_layer_has_the_shapes_of_the_case(case):
    pytest.importorskip("torch", reason="PyTorch is a contender only where it is installed")
    results = BY_NAME["torch eager"].load()(case)()
    x, y = ((2, c, s, s) for c, s in ((4, 8), (case.outputs, 8 // case.stride)))
    kernel = (case.outputs, 1 if case.kind == "depthwise" else 4, case.kernel, case.kernel)
    if case.direction == "forward":
        assert results.shape == y
    elif case.activation is None:
        assert [gradient.shape for gradient in results] == [kernel]
    else:
        assert [gradient.shape for gradient in results] == [(4,), (4,), kernel, x]


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Calls the command here: its exit code, and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        return call_command(benchmark, line.split(), monkeypatch, capfd)

    return run


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "--suite: got '', legal: depthwise, layers, inference"),
        ("speed", "--suite: got 'speed', legal: depthwise, layers, inference"),
        ("depthwise --rounds 0", "--rounds: got 0, legal: 1 or more"),
        ("training --batch-size 0", "--batch-size: got 0, legal: 1 or more"),
        ("training --model resnet", "--model: got 'resnet', legal: mobilenet_v1"),
        ("training --contender pytorch", "--contender: got 'pytorch', legal: ours"),
        (
            "depthwise training --write-table",
            "--suite: got 'training', legal: depthwise alone with --write-table",
        ),
        (
            "depthwise --write-table --contender ours",
            "--contender: got 'ours', legal: none with --write-table",
        ),
        ("training --results file", "--results: got 'file', legal: a directory"),
    ],
)
def test_bad_input_is_one_line(call, line, message, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, out, err = call(line)
    assert (code, out) == (2, "")
    assert err.startswith(f"experiments.benchmark: {message}") and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def stand_ins(monkeypatch):
    """Two blocks of MobileNetV1, and a machine that is slower or faster when measured again."""
    v1 = FACTORIES["mobilenet_v1"]
    monkeypatch.setitem(FACTORIES, "mobilenet_v1", lambda **options: shortened(v1(**options), 2))
    measured = iter([
        dataclasses.replace(MACHINE, bytes_per_second=5.0),
        dataclasses.replace(MACHINE, flops_per_second=50.0),
    ])  # fmt: skip
    monkeypatch.setattr(machine, "measure", lambda environment: next(measured))


@pytest.mark.slow
@pytest.mark.usefixtures("stand_ins", "callers_cache")
def test_the_command_prints_and_writes_its_table(call, tmp_path):
    code, out, _ = call(
        "inference --model mobilenet_v1 --resolution 32 --batch-size 1 --rounds 1 "
        "--contender ours --results R"
    )
    assert code == 0 and "mobilenet_v1 32, batch 1, inference" in out
    assert {p.name for p in (tmp_path / "R").iterdir()} == {
        "benchmark.md", "inference.json", "inference.png",
    }  # fmt: skip
    plain = json.loads((tmp_path / "R" / "inference.json").read_text())
    result = serialization.from_plain(BenchmarkResult, plain)
    assert result.machine == MACHINE  # the better of both measurements
    assert [t.contender for t in result.comparisons[0].timings] == [OURS]
    assert len(result.comparisons[0].timings[0].seconds) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("stand_ins")
def test_layers_says_where_the_time_goes(call, tmp_path):
    code, out, _ = call(
        "layers --model mobilenet_v1 --resolution 32 --batch-size 1 --rounds 1 "
        "--contender ours --results R"
    )
    assert code == 0 and "where the time goes" in out
    text = (tmp_path / "R" / "layers.json").read_text()
    result = serialization.from_plain(BenchmarkResult, json.loads(text))
    assert len(result.comparisons) == len(layer_cases([network("mobilenet_v1", 32)], 32, 1))
    assert all(timing.seconds for c in result.comparisons for timing in c.timings)
    kinds = [row[0] for row in report.summary_rows(result)]
    assert {*kinds[:-1]} == {
        f"{kind} {direction}"
        for kind in ("conv", "depthwise", "pointwise")
        for direction in ("forward", "backward")
    } and kinds[-1] == "all"


@pytest.mark.slow
@pytest.mark.usefixtures("stand_ins")
def test_write_table_times_the_lowerings_and_auto_follows(call, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "users_directory", lambda: tmp_path / "tables")
    line = (
        "depthwise --write-table --model mobilenet_v1 --resolution 32 --batch-size 1 "
        "--rounds 1 --results R"
    )
    code, out, _ = call(line)
    backend, kind = choice.present_device()
    path = choice.path_in(tmp_path / "tables", kind)
    assert code == 0 and f"auto follows {path} on this device" in out
    table = serialization.from_json(choice.Table, path.read_text())
    assert (table.backend, table.device_kind) == (backend, kind)
    assert table.command == f"python -m experiments.benchmark {line}" and "jax" in table.environment
    assert (tmp_path / "R" / path.name).read_text() == path.read_text()
    assert (tmp_path / "R" / "depthwise.png").exists()
    cases = table_cases(["mobilenet_v1"], 32, 1)
    classes = {choice.class_of(case.shape, case.kernel, case.stride) for case in cases}
    assert {entry.shapes for entry in table.entries} == classes
    assert sum(entry.layers for entry in table.entries) == len(cases) // 2
    choice._table.cache_clear()
    try:
        for case in cases:
            x = jax.ShapeDtypeStruct(case.shape, jnp.float32)
            geometry = geometry_of(x, (case.kernel, case.kernel), case.stride, "SAME", 1)
            entry = next(
                entry
                for entry in table.entries
                if entry.shapes == choice.class_of(case.shape, case.kernel, case.stride)
            )
            for direction in get_args(Direction):
                first = getattr(entry, direction).order[0]
                assert choice.fastest(x, geometry, backend, direction, native=True) == first
    finally:
        choice._table.cache_clear()
