"""Every rendering tells the same numbers, and none leaves out what failed."""

import csv
import io
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from rich.console import Console

from mnet_jax import serialization
from mnet_jax.ablation import figure, rendering
from mnet_jax.ablation.report import Report, summarize
from mnet_jax.ablation.store import failure, success
from mnet_jax.architectures import mobilenet_v1, mobilenet_v2
from mnet_jax.config import RunConfig, TrainingConfig
from mnet_jax.result import EpochRecord, RunResult

CPU = {"jax": "0.7.2", "device": "cpu"}
CAUSE = "NonFiniteError: the loss is nan at step 120 of 1200, learning rate 0.1 | see `here`"
LINEAR = (0.9722, 0.9694, 0.9750, 0.9667, 0.9722)
RELU6 = (0.9639, 0.9611, 0.9694, 0.9583, 0.9611)
COMMAND = "python -m experiments.ablate --bottleneck linear relu6 --seeds 5"


def make_config(bottleneck="linear", width=1.0, seed=0):
    spec = mobilenet_v2(bottleneck=bottleneck, width=width, num_classes=10)
    return RunConfig(spec=spec, seed=seed)


def labels_of(config):
    return {
        "model": config.spec.name,
        "bottleneck": getattr(config.spec.blocks[0], "bottleneck", "-"),
        "width": f"{config.spec.width:g}",
    }


def make_trial(config, accuracy, *, params=2_236_682, speed=600.0, epochs=3, environment=CPU):
    history = tuple(
        EpochRecord(
            epoch=i + 1, step=10 * i, learning_rate=0.1, train_loss=1.0, train_accuracy=0.8,
            validation_loss=0.5, validation_accuracy=accuracy * (1 - 0.5 ** (i + 1)),
            seconds=2.0, images_per_second=speed,
        )
        for i in range(epochs)
    )  # fmt: skip
    result = RunResult(
        params=params, madds=5_900_000, test_loss=0.2, test_accuracy=accuracy, test_count=360,
        history=history, images_per_second=speed, seconds=30.5,
    )  # fmt: skip
    return success(config, result, environment)


def make_arm(accuracies, bottleneck="linear", width=1.0, **options):
    return [
        make_trial(make_config(bottleneck, width, seed), accuracy, **options)
        for seed, accuracy in enumerate(accuracies)
    ]


def summary_of(trials, requested=None, baseline=make_config(), named_axes=("bottleneck",)):  # noqa: B008
    requested = [trial.config for trial in trials] if requested is None else requested
    return summarize(trials, requested, labels_of, baseline=baseline, named_axes=named_axes)


@pytest.fixture(scope="module")
def pair():
    return summary_of(make_arm(LINEAR) + make_arm(RELU6, "relu6"))


@pytest.fixture(scope="module")
def troubled():
    """Failed seeds, an arm that failed altogether, one from the store, seeds never run."""
    trials = make_arm(LINEAR) + make_arm(RELU6, "relu6")[:3]
    trials.append(failure(make_config("relu6", seed=3), CAUSE, CPU))
    requested = [make_config(b, seed=seed) for b in ("linear", "relu6") for seed in range(5)]
    lost = [failure(make_config("relu6", 0.5, seed), "out of memory", CPU) for seed in (0, 1)]
    requested += [trial.config for trial in lost]
    return summary_of(trials + lost + make_arm((0.95, 0.94), width=0.75), requested)


def shown(summary, width=80):
    """The table's lines as a terminal of so many columns shows them."""
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(rendering.to_table(summary))
    return text.getvalue().splitlines()


def words(lines):
    return " ".join(" ".join(lines).split())


def csv_rows(summary):
    return list(csv.DictReader(io.StringIO(rendering.to_csv(summary))))


# Rows.


def test_rows_against_scipy(pair):
    linear, relu6 = pair.arms
    difference = np.subtract(RELU6, LINEAR)
    oracle = scipy.stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert relu6.difference.mean == pytest.approx(np.mean(difference))
    assert (relu6.difference.low, relu6.difference.high) == pytest.approx((oracle.low, oracle.high))
    assert [outcome.difference for outcome in relu6.outcomes] == pytest.approx(list(difference))
    assert linear.accuracy.mean == pytest.approx(np.mean(LINEAR))
    assert linear.baseline and linear.difference is None and not relu6.baseline
    assert linear.seeds == (0, 1, 2, 3, 4)
    assert linear.seconds == pytest.approx(5 * 30.5)


def test_speed_is_the_median_over_seeds():
    trials = [
        make_trial(make_config(seed=seed), 0.9, speed=speed)
        for seed, speed in enumerate([100.0, 900.0, 5000.0])
    ]
    assert summary_of(trials).arms[0].images_per_second == 900.0


def test_the_order_of_the_trials_changes_nothing(pair):
    trials = make_arm(LINEAR) + make_arm(RELU6, "relu6")
    requested = [trial.config for trial in trials]
    assert summary_of(trials[::-1], requested) == pair
    assert summary_of(trials + trials, requested) == pair


def test_arms_of_the_call_come_first(troubled):
    rows = [(arm.labels["bottleneck"], arm.labels["width"]) for arm in troubled.arms]
    assert rows == [("linear", "1"), ("relu6", "1"), ("relu6", "0.5"), ("linear", "0.75")]
    assert [arm.requested for arm in troubled.arms] == [True, True, True, False]


def test_seeds_that_finished_failed_and_never_ran(troubled):
    _, relu6, lost, stored = troubled.arms
    assert relu6.seeds == (0, 1, 2)
    assert [(f.seed, f.cause) for f in relu6.failures] == [(3, CAUSE)]
    assert relu6.not_run == (4,)
    assert relu6.difference.count == 3
    assert lost.accuracy is None and lost.params is None and len(lost.failures) == 2
    assert stored.difference.count == 2 and stored.not_run == ()


def test_columns_are_what_varies_and_what_was_named(pair, troubled):
    assert pair.columns == ("bottleneck",)
    assert pair.common == {"model": "mobilenet_v2", "width": "1"}
    assert troubled.columns == ("bottleneck", "width")
    assert troubled.common == {"model": "mobilenet_v2"}
    alone = summary_of(make_arm(LINEAR), named_axes=("width", "bottleneck"))
    assert alone.columns == ("width", "bottleneck")


def test_an_axis_that_no_label_has():
    with pytest.raises(ValueError, match=r"^axis: got 'colour', legal: model, bottleneck, width$"):
        summary_of(make_arm(LINEAR), named_axes=("colour",))


def test_axes_that_some_networks_lack():
    v1 = RunConfig(spec=mobilenet_v1(num_classes=10))
    summary = summarize(
        [*make_arm((0.9,)), make_trial(v1, 0.8)],
        [make_config(), v1],
        lambda config: {k: v for k, v in labels_of(config).items() if v != "-"},
        baseline=v1,
    )
    assert summary.columns == ("model", "bottleneck")
    assert summary.arms[1].labels["bottleneck"] == "-"


def test_arms_that_no_axis_tells_apart_are_told_apart():
    """What differs has no label; two rows of one name would be taken for one arm."""
    other = replace(make_config(), training=TrainingConfig(epochs=21))
    summary = summary_of([*make_arm((0.9,)), make_trial(other, 0.8)])
    assert summary.columns == ("bottleneck", "config")
    assert len({arm.labels["config"] for arm in summary.arms}) == 2


# The baseline.


def test_the_baseline_is_named_whatever_its_seed(pair):
    trials = make_arm(LINEAR) + make_arm(RELU6, "relu6")
    assert summary_of(trials, baseline=make_config(seed=17)) == pair


@pytest.mark.parametrize("start", [None, failure(make_config(), "killed", CPU)])
def test_without_a_finished_baseline_there_is_no_difference(start):
    trials = [*([start] if start else []), *make_arm(RELU6, "relu6")]
    summary = summary_of(trials)
    assert all(arm.difference is None for arm in summary.arms)
    line = "no differences: the baseline (bottleneck linear) has no finished trial"
    assert summary.note == line
    assert line in words(shown(summary))
    assert line in rendering.to_markdown(summary)
    assert json.loads(rendering.to_json(summary))["note"] == line


def test_without_a_baseline():
    summary = summary_of(make_arm(LINEAR), baseline=None)
    assert summary.note == "no differences: no baseline was given"
    assert not any(arm.baseline for arm in summary.arms)


def test_no_common_seed():
    relu6 = [make_trial(make_config("relu6", seed=9), 0.9)]
    summary = summary_of(make_arm(LINEAR) + relu6)
    assert summary.arms[1].difference is None and summary.note is None
    assert "no common seed" in words(shown(summary))


def test_fewer_pairs_than_seeds_is_said():
    summary = summary_of(make_arm(LINEAR[:2]) + make_arm(RELU6, "relu6"))
    assert "n=2" in words(shown(summary))


# Renderings.


def test_terminal(pair):
    lines = shown(pair)
    text = words(lines)
    half = 100 * scipy.stats.sem(LINEAR) * scipy.stats.t.ppf(0.975, 4)
    assert f"linear 2.24M 5.90M {100 * np.mean(LINEAR):.2f} ± {half:.2f} baseline 5 600" in text
    differences = 100 * np.subtract(RELU6, LINEAR)
    half = scipy.stats.sem(differences) * scipy.stats.t.ppf(0.975, 4)
    assert f"{np.mean(differences):+.2f} ± {half:.2f} worse 5 600" in text
    assert "all arms: model mobilenet_v2, width 1" in text
    assert "difference: to bottleneck linear, paired by seed, in percentage points" in text


def test_two_axes_fit_eighty_columns_in_a_line_each():
    trials = [
        trial
        for bottleneck in ("linear", "relu6")
        for width in (1.0, 0.75)
        for trial in make_arm(LINEAR, bottleneck, width)
    ]
    summary = summary_of(trials, baseline=make_config(), named_axes=("bottleneck", "width"))
    lines = shown(summary)
    assert max(map(len, lines)) <= 80
    for bottleneck in ("linear", "relu6"):
        for width in ("1", "0.75"):
            (row,) = [line for line in lines if line.split()[:2] == [bottleneck, width]]
            assert "97.11 ± 0.39" in row and row.split()[-1] == "600"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_failures_are_rows_on_a_terminal(troubled, width):
    text = words(shown(troubled, width))
    assert f"relu6, 1: seed 3 failed: {CAUSE}" in text
    assert "relu6, 1: seed 4 not run" in text
    assert "relu6, 0.5: seed 0 failed: out of memory" in text
    assert "relu6, 0.5: seed 1 failed: out of memory" in text
    assert "3/5" in text and "0/2" in text
    assert "*: not part of this call" in text


def _percents(interval, sign=""):
    if interval is None:
        return ""
    return f"{100 * interval.mean:{sign}.2f} ± {100 * (interval.high - interval.mean):.2f}"


@pytest.mark.parametrize("width", range(20, 81, 5))
def test_a_narrow_terminal_cuts_no_number_short(pair, width):
    """A cut number shows an ellipsis: 600 images per second never become 60."""
    numbers = {"2.24M", "5.90M", "600", "5", "6"}  # the last from relu6, in two lines
    lines = shown(pair, width)
    table = " ".join(lines[: next(i for i, line in enumerate(lines) if "all arms" in line)])
    for arm in pair.arms:
        numbers |= {*_percents(arm.accuracy).split(), *_percents(arm.difference, "+").split()}
    for cell in {word for word in table.split() if word[0] in "0123456789+-"}:
        assert cell in numbers or cell.endswith("…")


def test_text_is_no_markup():
    trial = failure(make_config(), "ValueError: shape [b, h] is not [/b]", CPU)
    assert "ValueError: shape [b, h] is not [/b]" in words(shown(summary_of([trial])))


def test_markdown_has_a_row_for_each_arm_and_each_failure(troubled):
    rows = [r for r in rendering.to_markdown(troubled).splitlines() if r.startswith("|")]
    cells = [
        [cell.strip() for cell in row.replace("\\|", "¦").strip("|").split("|")] for row in rows
    ]
    assert {len(row) for row in cells} == {9}
    assert [row[:2] for row in cells[2:]] == [
        ["linear", "1"], ["relu6", "1"], ["relu6", "1"], ["relu6", "1"],
        ["relu6", "0.5"], ["relu6", "0.5"], ["relu6", "0.5"], ["linear\\*", "0.75"],
    ]  # fmt: skip
    escaped = CAUSE.replace("|", "¦").replace("`", "\\`")
    assert cells[4][6] == f"seed 3 failed: {escaped}"
    assert cells[7][6] == "seed 0 failed: out of memory"


def test_csv_has_the_numbers_unrounded(troubled):
    rows = csv_rows(troubled)
    assert len(rows) == len(troubled.arms)
    for row, arm in zip(rows, troubled.arms, strict=True):
        for name in ("accuracy", "difference"):
            interval = getattr(arm, name)
            for column, end in ((name, "mean"), (f"{name}_low", "low"), (f"{name}_high", "high")):
                text = repr(getattr(interval, end)) if interval else ""
                assert row[column] == text
        assert row["seeds"].split() == [str(seed) for seed in arm.seeds]
        assert all(row[axis] == label for axis, label in arm.labels.items())
    assert rows[1]["failures"] == f"seed 3: {CAUSE}"
    assert rows[1]["not_run"] == "4"
    assert rows[2]["failures"] == "seed 0: out of memory; seed 1: out of memory"
    assert rows[0]["params"] == "2236682"


def test_json_is_the_report(troubled):
    text = rendering.to_json(troubled)
    assert serialization.from_json(Report, text) == troubled
    relu6 = json.loads(text)["arms"][1]
    assert [outcome["accuracy"] for outcome in relu6["outcomes"]] == list(RELU6[:3])
    assert relu6["failures"] == [{"seed": 3, "cause": CAUSE}]


def test_counts_are_short():
    texts = [
        rendering.to_markdown(summary_of(make_arm((0.9,), params=params)))
        for params in (999, 3_504_872, 25_600_000, 1_000_000_000)
    ]
    for text, count in zip(texts, ("999", "3.50M", "25.6M", "1.00G"), strict=True):
        assert f"| {count} |" in text


def test_no_negative_zero():
    summary = summary_of(make_arm((0.9, 0.9)) + make_arm((0.89999, 0.9), "relu6"))
    assert "-0.00" not in " ".join(shown(summary))


def test_environments_that_differ_are_told():
    other = CPU | {"jax": "0.8.0"}
    trials = make_arm(LINEAR) + make_arm(RELU6, "relu6", environment=other)
    summary = summary_of(trials)
    assert summary.environment == {"device": ("cpu",), "jax": ("0.7.2", "0.8.0")}
    assert "environments differ: jax 0.7.2, 0.8.0" in words(shown(summary))
    assert "environments differ" not in words(shown(summary_of(make_arm(LINEAR))))


def test_nothing_at_all():
    summary = summary_of([], [])
    assert summary.arms == ()
    shown(summary)
    rendering.to_markdown(summary)
    assert csv_rows(summary) == []


# Files.


def test_the_four_files(tmp_path, troubled):
    rendering.write(troubled, tmp_path / "out", COMMAND)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "report.csv", "report.json", "report.md", "report.png",
    ]  # fmt: skip
    page = (out / "report.md").read_text(encoding="utf-8")
    assert f"\n{COMMAND}\n" in page
    assert "](report.png)" in page
    assert rendering.to_markdown(troubled) in page
    assert "seeds: 0, 1, 2, 3, 4" in page
    assert "jax: 0.7.2" in page and "device: cpu" in page
    assert (out / "report.csv").read_text(encoding="utf-8") == rendering.to_csv(troubled)


def test_a_directory_in_the_way(tmp_path, pair):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^cannot write .*file.*: ") as caught:
        rendering.write(pair, tmp_path / "file", COMMAND)
    assert "\n" not in str(caught.value)


def _many_arms():
    rng = np.random.default_rng(0)
    trials = [
        trial
        for bottleneck in ("linear", "relu6")
        for width in (1.4, 1.0, 0.75, 0.5, 0.35, 0.25)
        for trial in make_arm(rng.uniform(0.9, 0.99, 5), bottleneck, width, epochs=20)
    ]
    return summary_of(trials)


FIGURES = {
    "two": lambda: summary_of(make_arm(LINEAR) + make_arm(RELU6, "relu6")),
    "twelve": _many_arms,
    "the baseline alone": lambda: summary_of(make_arm(LINEAR)),
    "one seed": lambda: summary_of(make_arm(LINEAR[:1]) + make_arm(RELU6[:1], "relu6")),
    "one epoch": lambda: summary_of(make_arm(LINEAR, epochs=1)),
    "no baseline": lambda: summary_of(make_arm(RELU6, "relu6")),
    "equal": lambda: summary_of(make_arm((1.0,) * 3) + make_arm((1.0,) * 3, "relu6")),
    "failed": lambda: summary_of([failure(make_config(), "killed", CPU)]),
    "nothing": lambda: summary_of([], []),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES.keys())
def test_figures(make):
    content = figure.to_png(make())
    assert len(content) < 200_000
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size) == ("PNG", (1200, 500))
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 2


def test_the_figure_shows_every_seed(pair, monkeypatch):
    """The dots on the right are the differences, in points; the curves' ends the accuracies."""
    dots, lines = [], []
    scatter, plot = figure.Axes.scatter, figure.Axes.plot
    monkeypatch.setattr(
        figure.Axes, "scatter", lambda self, x, y, **k: dots.extend(x) or scatter(self, x, y, **k)
    )
    monkeypatch.setattr(
        figure.Axes, "plot", lambda self, *a, **k: lines.append(a[1]) or plot(self, *a, **k)
    )
    figure.to_png(pair)
    assert dots == pytest.approx(list(100 * np.subtract(RELU6, LINEAR)))
    ends = [line[-1] for line in lines if len(line) == 3]
    for arm in (LINEAR, RELU6):
        for accuracy in (*arm, math.fsum(arm) / len(arm)):
            assert any(end == pytest.approx(100 * accuracy * 0.875) for end in ends)


def test_a_dollar_is_no_formula():
    summary = summarize(
        make_arm((0.9, 0.91)) + make_arm((0.9, 0.92), "relu6"),
        [],
        lambda config: {"path": f"$x_{config.spec.blocks[0].bottleneck}^$"},
        baseline=make_config(),
    )
    assert figure.to_png(summary)


def test_the_table_needs_neither_jax_nor_matplotlib():
    code = (
        "import sys; from mnet_jax.ablation import rendering, report, store, statistics;"
        "assert not {'jax', 'flax', 'matplotlib'} & sys.modules.keys()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_figure_needs_no_jax():
    code = (
        "import sys; from mnet_jax.ablation import figure;"
        "assert not {'jax', 'flax', 'matplotlib.pyplot'} & sys.modules.keys()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
