"""The figure shows every seed, whatever the arms are."""

import io
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from summaries import CPU, LINEAR, RELU6, make_arm, make_config, pair, summary_of

from mnet_jax.ablation import figure
from mnet_jax.ablation.report import summarize
from mnet_jax.ablation.store import failure
from mnet_jax.config import Arm


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


def test_the_figure_shows_every_seed(monkeypatch):
    """The dots on the right are the differences, in points; the curves' ends the accuracies."""
    dots, lines = [], []
    scatter, plot = figure.Axes.scatter, figure.Axes.plot
    monkeypatch.setattr(
        figure.Axes, "scatter", lambda self, x, y, **k: dots.extend(x) or scatter(self, x, y, **k)
    )
    monkeypatch.setattr(
        figure.Axes, "plot", lambda self, *a, **k: lines.append(a[1]) or plot(self, *a, **k)
    )
    figure.to_png(pair())
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
        baseline=Arm.of(make_config()),
    )
    assert figure.to_png(summary)


@pytest.mark.parametrize(
    ("modules", "strangers"),
    [
        ("rendering, report, store, statistics", {"jax", "flax", "matplotlib"}),
        ("figure", {"jax", "flax", "matplotlib.pyplot"}),
    ],
    ids=["table", "figure"],
)
def test_neither_table_nor_figure_loads_what_it_does_not_need(modules, strangers):
    code = (
        f"import sys; from mnet_jax.ablation import {modules};"
        f"assert not {strangers} & sys.modules.keys()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
