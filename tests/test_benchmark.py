"""The benchmark: the work it counts, the ratios it takes, and that it runs what it says."""

import dataclasses
import json
import math
import sys

import pytest

from experiments import benchmark
from mnet_jax import serialization
from mnet_jax.analysis import cost
from mnet_jax.analysis.roofline import Machine
from mnet_jax.architectures import FACTORIES
from mnet_jax.benchmark import report
from mnet_jax.benchmark.cases import (
    CompileCase,
    DepthwiseCase,
    NetworkCase,
    depthwise_cases,
    network_cases,
)
from mnet_jax.benchmark.contenders import BY_NAME, CONTENDERS, OURS
from mnet_jax.benchmark.figure import to_png
from mnet_jax.benchmark.timing import BenchmarkResult, Comparison, Timing, compare

MACHINE = Machine(flops_per_second=100.0, bytes_per_second=10.0)


def test_the_bound_is_the_slower_of_arithmetic_and_memory():
    assert MACHINE.bound_seconds(madds=500, moved_bytes=20) == 2 * 500 / 100
    assert MACHINE.bound_seconds(madds=5, moved_bytes=20) == 20 / 10
    assert MACHINE.ridge == 10
    with pytest.raises(ValueError, match="bytes_per_second: got 0, legal: above 0"):
        Machine(flops_per_second=1.0, bytes_per_second=0)


def test_the_work_of_a_depthwise_convolution_by_hand():
    case = DepthwiseCase(shape=(2, 5, 6, 4), kernel=3, stride=2, derivative="forward")
    inputs, outputs, kernel = 2 * 5 * 6 * 4, 2 * 3 * 3 * 4, 9 * 4
    assert case.work.madds == 9 * outputs
    assert case.work.moved_bytes == 4 * (inputs + outputs + kernel)


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


def test_the_result_is_json_and_back_and_has_a_picture():
    text = serialization.to_json(RESULT)
    assert serialization.from_json(BenchmarkResult, text) == RESULT
    assert to_png(RESULT).startswith(b"\x89PNG")


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
    assert taking == {OURS, "obvious Flax", "torch eager", "torch.compile"}
    assert not BY_NAME["Keras on JAX"].takes(depthwise)
    assert BY_NAME["obvious Flax"].takes(CompileCase(network=network, cached=False))


@pytest.mark.slow
def test_contenders_run_in_turn_and_a_failure_is_a_row():
    case = DepthwiseCase(shape=(1, 8, 8, 4), kernel=3, stride=1, derivative="kernel gradient")
    contenders = [BY_NAME[OURS], BY_NAME["obvious Flax"]]
    found = compare(case, contenders, rounds=2, environment={})
    assert [len(t.seconds) for t in found.timings] == [2, 2]
    assert all(0 < s < math.inf for t in found.timings for s in (*t.seconds, t.setup_seconds))
    impossible = dataclasses.replace(case, kernel=0)
    found = compare(impossible, contenders[:1], rounds=2, environment={})
    assert found.timings[0].seconds == ()
    assert found.timings[0].failure.startswith("ValueError: kernel: got (0, 0, 4)")


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Calls the command here: its exit code, and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        monkeypatch.setattr(sys, "argv", ["benchmark", *line.split()])
        try:
            benchmark.main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code
        return (code, *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "--suite: got '', legal: depthwise, inference, training, input, compile"),
        ("speed", "--suite: got 'speed', legal: depthwise, inference"),
        ("depthwise --rounds 0", "--rounds: got 0, legal: 1 or more"),
        ("training --batch-size 0", "--batch-size: got 0, legal: 1 or more"),
        ("training --model resnet", "--model: got 'resnet', legal: mobilenet_v1"),
        ("training --contender pytorch", "--contender: got 'pytorch', legal: ours"),
        ("training --results file", "--results: got 'file', legal: a directory"),
    ],
)
def test_bad_input_is_one_line(call, line, told, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, out, err = call(line)
    assert (code, out) == (2, "")
    assert err.startswith(f"experiments.benchmark: {told}") and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
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
    assert [t.contender for t in result.comparisons[0].timings] == [OURS]
    assert len(result.comparisons[0].timings[0].seconds) == 1
