"""The charts of a report, as pictures: each shows every arm and seed, in letters that are there."""

import io
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image, ImageColor
from summaries import (
    CPU,
    LINEAR,
    RELU6,
    make_arm,
    make_config,
    many_arms,
    pair,
    summary_of,
    troubled,
)

from mnet_jax.ablation import charts, figure
from mnet_jax.ablation.report import summarize
from mnet_jax.ablation.store import failure
from mnet_jax.ablation.themes import DARK, LIGHT, PAGE
from mnet_jax.config import Arm

SVG = "{http://www.w3.org/2000/svg}"


REPORTS = {
    "two": pair,
    "twelve": many_arms,
    "the baseline alone": lambda: summary_of(make_arm(LINEAR)),
    "one seed": lambda: summary_of(make_arm(LINEAR[:1]) + make_arm(RELU6[:1], "relu6")),
    "one epoch": lambda: summary_of(make_arm(LINEAR, epochs=1)),
    "no baseline": lambda: summary_of(make_arm(RELU6, "relu6")),
    "equal": lambda: summary_of(make_arm((1.0,) * 3) + make_arm((1.0,) * 3, "relu6")),
    "failed": lambda: summary_of([failure(make_config(), "killed", CPU)]),
    "troubled": troubled,
    "nothing": lambda: summary_of([], []),
}


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS.keys())
@pytest.mark.filterwarnings("error")
def test_pictures(make):
    for draw in (charts.over_seeds, charts.against_costs):
        content = figure.to_png(draw(make(), LIGHT), "nothing")
        assert len(content) < 200_000
        picture = Image.open(io.BytesIO(content))
        assert picture.format == "PNG" and 600 <= picture.width <= 2000
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 2


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_a_theme_colours_ground_and_arms(theme):
    picture = Image.open(io.BytesIO(figure.to_png(charts.over_seeds(pair(), theme), "", theme)))
    counts = {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert max(counts, key=counts.get) == ImageColor.getrgb(theme.ground)
    for hue in theme.hues[:2]:  # of two arms; few colours for the whole picture move one a little
        distance = np.abs(np.subtract([*counts], ImageColor.getrgb(hue))).max(axis=1)
        assert distance.min() <= 8


def groups(svg):
    """The marks of a Vega chart, drawn as SVG: a list of elements for each of its layers."""
    root = ElementTree.fromstring(svg)
    return [g for g in root.iter(f"{SVG}g") if "role-mark" in g.get("class", "").split()]


def places(group):
    """Where the symbols of a layer are, in pixels: [n, 2]."""
    found = [re.fullmatch(r"translate\((.+),(.+)\)", m.get("transform", "")) for m in group]
    return np.array([[float(x) for x in match.groups()] for match in found if match])


def test_every_seed_has_a_dot_at_its_difference():
    """Pixels are a linear function of the differences, with zero where the line at zero is."""
    (chart,) = [c for c in charts.over_seeds(pair(), LIGHT) if "Difference" in c.title]
    layers = groups(figure.to_svg(chart, LIGHT))
    dots = max((places(g) for g in layers if "mark-symbol" in g.get("class")), key=len)
    (zero,) = next(places(g) for g in layers if "mark-rule" in g.get("class"))
    differences = np.subtract(RELU6, LINEAR)
    (slope,), *_ = np.linalg.lstsq(differences[:, None], dots[:, 0] - zero[0], rcond=None)
    assert len(dots) == 5 and slope > 0
    np.testing.assert_allclose(dots[:, 0] - zero[0], slope * differences, atol=0.05)


def tooltips(report):
    """What the marks of each chart say, by the chart's title."""
    found = {}
    for chart in (*charts.over_seeds(report, PAGE), *charts.against_costs(report, PAGE)):
        labels = [m.get("aria-label") for g in groups(figure.to_svg(chart, PAGE)) for m in g]
        found[chart.title] = [label for label in labels if label]
    return found


def test_marks_say_every_seed_and_every_epoch():
    found = tooltips(pair())
    epochs = found["Learning curves"]
    assert [text.splitlines()[0] for text in epochs] == ["epoch 1", "epoch 2", "epoch 3"]
    assert f"linear (baseline): {100 * np.mean(LINEAR) * 0.875:.2f} ±" in epochs[-1]
    (row,) = found["Difference to the baseline, linear"]
    assert row.startswith("relu6\n")
    for seed, difference in enumerate(np.subtract(RELU6, LINEAR)):
        assert f"seed {seed}: {100 * difference:+.2f} points" in row.splitlines()


def test_what_is_not_there_is_said():
    (chart,) = [c for c in charts.over_seeds(troubled(), LIGHT) if "Difference" in c.title]
    texts = [t for g in groups(figure.to_svg(chart, LIGHT)) for t in g.itertext()]
    assert "relu6, 1: worse, 3/5 seeds" in texts
    assert "relu6, 0.5: nothing finished, 0/2 seeds" in texts
    assert "linear, 0.75: not separated" in texts


def test_arms_that_cost_the_same_have_no_chart_of_that_cost():
    arms = make_arm(LINEAR), make_arm(RELU6, "relu6")
    assert charts.against_costs(summary_of(arms[0] + arms[1]), LIGHT) == []


def named(*names):
    """Two arms with these names."""
    texts = dict(zip(("linear", "relu6"), names, strict=True))
    return summarize(
        make_arm((0.9, 0.91)) + make_arm((0.9, 0.92), "relu6"), [],
        lambda config: {"path": texts[config.spec.blocks[0].bottleneck]},
        baseline=Arm.of(make_config()),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["$x_{$", "_a", "<b>&amp;\"'", "Καλημέρα", "щенок", "datum['x']"])
def test_a_name_is_drawn_as_it_is(name):
    (_, chart) = charts.over_seeds(named("plain", name), LIGHT)
    texts = [t for g in groups(figure.to_svg(chart, LIGHT)) for t in g.itertext()]
    assert f"{name}: not separated" in texts


def test_names_that_no_font_has_are_told_apart_in_a_picture():
    def pixels(name):
        picture = figure.to_png(charts.over_seeds(named("plain", name), LIGHT), "")
        return np.asarray(Image.open(io.BytesIO(picture)).convert("L"))

    chinese, japanese = pixels("\u4e2d\u56fd"), pixels("\u65e5\u672c")
    assert chinese.shape != japanese.shape or (chinese != japanese).any()
    np.testing.assert_array_equal(chinese, pixels(r"\u4e2d\u56fd"))


PROGRAM = """
import hashlib
from summaries import pair
from mnet_jax.ablation import charts, figure, page
from mnet_jax.ablation.themes import LIGHT
for content in (
    figure.to_png(charts.over_seeds(pair(), LIGHT), ""),
    page.to_html(pair(), "again").encode(),
):
    print(hashlib.sha256(content).hexdigest())
"""


def printed(program, *words, **environment):
    paths = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        check=True, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": paths} | environment,
    ).stdout  # fmt: skip


def test_the_same_report_has_the_same_bytes():
    """Also in another process, and after other charts."""
    first = printed(PROGRAM, PYTHONHASHSEED="1")
    assert len(first.split()) == 2
    assert printed(2 * PROGRAM, PYTHONHASHSEED="2") == 2 * first


@pytest.mark.parametrize(
    ("modules", "strangers"),
    [
        ("rendering, report, store", {"jax", "flax", "matplotlib", "altair"}),
        ("charts, page", {"jax", "flax", "matplotlib.pyplot"}),
    ],
    ids=["table", "charts"],
)
def test_neither_table_nor_charts_load_what_they_do_not_need(modules, strangers):
    printed(
        f"import sys; from mnet_jax.ablation import {modules};"
        f"assert not {strangers} & sys.modules.keys()"
    )


LIMITED = """
import resource, sys
from pathlib import Path
from summaries import pair
from mnet_jax.ablation import rendering
resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
print(rendering.write(pair(), Path(sys.argv[1]), "again"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on addresses")
def test_where_nothing_can_be_drawn_the_report_is_written_and_says_so(tmp_path):
    """The converter would end the process: its JavaScript engine reserves more addresses."""
    (tmp_path / "report.png").write_bytes(b"of an earlier report")
    obstacle = printed(LIMITED, tmp_path).strip()
    assert "\n" not in obstacle and "ulimit -v" in obstacle
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.csv", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert obstacle in text and ".png" not in text
