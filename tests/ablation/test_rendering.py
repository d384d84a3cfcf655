"""Every rendering tells the same numbers, and none leaves out what failed."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from summaries import (
    CAUSE,
    CPU,
    LINEAR,
    RELU6,
    make_arm,
    make_config,
    pair,
    shown,
    summary_of,
    troubled,
    words,
)

from mnet_jax import serialization
from mnet_jax.ablation import rendering, wording
from mnet_jax.ablation.presets import PRESETS
from mnet_jax.ablation.report import Report
from mnet_jax.ablation.store import failure
from mnet_jax.statistics import formatting
from mnet_jax.statistics.intervals import Interval

PUBLISHED = sorted(Path(__file__).parents[2].glob("docs/results/*/report.csv"))
COMMAND = "python -m experiments.ablate --bottleneck linear relu6 --seeds 5"


def csv_rows(summary):
    return list(csv.DictReader(io.StringIO(rendering.to_csv(summary))))


def test_fewer_pairs_than_seeds_is_said():
    summary = summary_of(make_arm(LINEAR[:2]) + make_arm(RELU6, "relu6"))
    assert "n=2" in words(shown(summary))


def test_terminal():
    lines = shown(pair())
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
            assert "97.11 ± 0.39" in row and row.split()[-2] == "600"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_failures_are_rows_on_a_terminal(width):
    text = words(shown(troubled(), width))
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
def test_a_narrow_terminal_cuts_no_number_short(width):
    """A cut number shows an ellipsis: 600 images per second never become 60."""
    numbers = {"2.24M", "5.90M", "600", "5", "6", "0:30"}  # 6 from relu6, in two lines
    lines = shown(pair(), width)
    table = " ".join(lines[: next(i for i, line in enumerate(lines) if "all arms" in line)])
    for arm in pair().arms:
        numbers |= {*_percents(arm.accuracy).split(), *_percents(arm.difference, "+").split()}
    for cell in {word for word in table.split() if word[0] in "0123456789+-"}:
        assert cell in numbers or cell.endswith("…")


def test_text_is_no_markup():
    trial = failure(make_config(), "ValueError: shape [b, h] is not [/b]", CPU)
    assert "ValueError: shape [b, h] is not [/b]" in words(shown(summary_of([trial])))


def test_markdown_has_a_row_for_each_arm_and_each_failure():
    rows = [r for r in rendering.to_markdown(troubled()).splitlines() if r.startswith("|")]
    cells = [
        [cell.strip() for cell in row.replace("\\|", "¦").strip("|").split("|")] for row in rows
    ]
    assert {len(row) for row in cells} == {11}
    assert [row[:2] for row in cells[2:]] == [
        ["linear", "1"], ["relu6", "1"], ["relu6", "1"], ["relu6", "1"],
        ["relu6", "0.5"], ["relu6", "0.5"], ["relu6", "0.5"], ["linear\\*", "0.75"],
    ]  # fmt: skip
    escaped = CAUSE.replace("|", "¦").replace("`", "\\`")
    assert cells[4][7] == f"seed 3 failed: {escaped}"
    assert cells[7][7] == "seed 0 failed: out of memory"


def test_csv_has_the_numbers_unrounded():
    rows = csv_rows(troubled())
    assert len(rows) == len(troubled().arms)
    for row, arm in zip(rows, troubled().arms, strict=True):
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


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_what_is_published_is_separated_where_the_interval_excludes_zero(path):
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        if row["p_value"]:
            low, high = float(row["difference_low"]), float(row["difference_high"])
            expected = "better" if low > 0 else "worse" if high < 0 else "not separated"
            assert row["verdict"] == expected
            assert (expected != "not separated") == (float(row["p_value"]) < 0.05)
            if expected == "not separated" and row["claim"] not in ("", "cannot tell"):
                # Only a claim of equality can be supported, by an interval within its margin.
                claims = PRESETS[path.parent.name].claims
                margin = max(claim.margin for claim in claims if claim.is_about(row))
                assert row["claim"] == "supports" and -margin <= low <= high <= margin


def test_json_is_the_report():
    text = rendering.to_json(troubled())
    assert serialization.from_json(Report, text) == troubled()
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


near_zero = st.floats(1e-6, 0.02) | st.floats(-1e-4, -1e-6) | st.just(0.0)


@given(near_zero, st.floats(1e-4, 0.02), st.sampled_from([1, 1 - 1e-3, 1 + 1e-3, 1 - 1e-5]))
def test_what_is_shown_of_an_interval_includes_zero_where_it_does(mean, half, border):
    """Also where both ends are a hair's breadth from zero: the digits after the point decide."""
    for reach in (half, abs(mean) * border):
        low, high = mean - reach, mean + reach
        excludes = low > 0 or high < 0
        interval = Interval(mean=mean, low=low, high=high, count=5)
        shown_mean, shown_half = map(float, formatting.percent(interval, "t", "+").split(" ± "))
        assert (abs(shown_mean) > shown_half) == excludes
        shown_low, shown_high = json.loads(
            formatting.percent(interval, "bootstrap", "+").split(" ", 1)[1].replace("+", "")
        )
        assert (shown_low > 0 or shown_high < 0) == excludes


@given(st.floats(1e-6, 1) | st.floats(0.0499, 0.0501))
def test_what_is_shown_of_a_p_value_is_below_the_border_where_it_is(value):
    shown = formatting.p_value(value)
    assert (shown.startswith("<") or float(shown) < 0.05) == (value < 0.05)


def test_usual_numbers_have_two_digits():
    interval = Interval(mean=-0.00854, low=-0.01921, high=0.00213, count=5)
    assert formatting.percent(interval, "t", "+") == "-0.85 ± 1.07"
    assert [formatting.p_value(p) for p in (0.0254, 0.66, 0.0004)] == ["0.025", "0.66", "<0.001"]
    assert formatting.p_value(0.04996) == "0.04996"


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


def test_the_files(tmp_path):
    rendering.write(troubled(), tmp_path / "out", COMMAND)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "pareto.png", "report.csv", "report.html", "report.json", "report.md", "report.png",
    ]  # fmt: skip
    page = (out / "report.md").read_text(encoding="utf-8")
    assert f"\n{COMMAND}\n" in page
    assert "](report.png)" in page
    assert rendering.to_markdown(troubled()) in page
    assert "seeds: 0, 1, 2, 3, 4" in page
    assert "jax: 0.7.2" in page and "device: cpu" in page
    assert (out / "report.csv").read_text(encoding="utf-8") == rendering.to_csv(troubled())


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode")
def test_names_that_are_no_text_are_written_as_escapes(tmp_path):
    """A file name of bytes that are no UTF-8: the trials are done by then, and must not be lost."""
    odd = b"r\xff".decode(errors="surrogateescape")
    trials = [*make_arm(LINEAR), failure(make_config(seed=9), "lost it", CPU | {"device": odd})]
    rendering.write(summary_of(trials), tmp_path / odd, f"{COMMAND} --results {odd}")
    for name in ("report.md", "report.html"):
        assert "--results r\\udcff" in (tmp_path / odd / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("count", "message"), [(1, "1 trial, 0.5 "), (2, "2 trials, 1.0 ")])
def test_one_trial_is_no_trials(count, message):
    assert f"time: {message}minutes in all" in wording.facts(summary_of(make_arm(LINEAR[:count])))


def test_a_directory_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^cannot write .*file.*: ") as caught:
        rendering.write(pair(), tmp_path / "file", COMMAND)
    assert "\n" not in str(caught.value)
