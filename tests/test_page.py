"""report.html without a browser: what is in it, what is not, and that no name becomes markup."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
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
    summary_of,
    troubled,
)

from mnet_jax.ablation import page
from mnet_jax.ablation.judgement import Claim
from mnet_jax.ablation.page import plot
from mnet_jax.ablation.page.markup import EMPTY, tag
from mnet_jax.ablation.report import summarize
from mnet_jax.ablation.store import failure
from mnet_jax.config import Arm

COMMAND = "python -m experiments.ablate --bottleneck linear relu6 --seeds 5"
NASTY = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>${style}"


class Page(HTMLParser):
    """Elements, texts and attributes; fails where tags do not match."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(source)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in EMPTY:
            self._open.append(name)

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self._open.pop() == name

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def tips(self):
        return [json.loads(a["data-tip"]) for _, a in self.elements if "data-tip" in a]


def page_of(report, command=COMMAND, **options):
    return Page(page.to_html(report, command, **options))


def nasty_report():
    trials = make_arm(LINEAR) + make_arm(RELU6, "relu6", environment=CPU | {"gpu": NASTY})
    trials.append(failure(make_config("relu6", seed=7), NASTY, CPU))
    return summarize(
        trials, [trial.config for trial in trials],
        lambda config: {NASTY: f"{config.spec.blocks[0].bottleneck} {NASTY}", "all": NASTY},
        baseline=Arm.of(make_config()), named_axes=[NASTY],
        claims=[Claim(direction="worse", text=NASTY, source=NASTY)],
    )  # fmt: skip


def test_no_name_becomes_markup():
    plain, nasty = page_of(pair()), page_of(nasty_report(), NASTY, command_of=lambda config: NASTY)
    assert {name for name, _ in nasty.elements} <= {name for name, _ in plain.elements} | {
        "strong", "q", "cite",
    }  # fmt: skip
    for name, attributes in nasty.elements:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "href")]
        assert name != "img"
    assert sum(name == "script" for name, _ in nasty.elements) == 1
    assert sum(NASTY in text for text in nasty.texts) >= 8


@given(st.text(), st.text())
def test_markup_gives_back_its_text(text, value):
    text = text.replace("\r", " ")  # which HTML reads as a line feed
    source = tag("p", text, data_v=value)
    parsed = Page(source)
    assert "".join(parsed.texts) == text.replace("\0", "") or "\0" in text
    assert parsed.elements == [("p", {"data-v": value})]


def test_it_needs_no_network():
    source = page.to_html(troubled(), COMMAND)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<img|<iframe", source)
    assert "default-src 'none'" in source
    assert len(source) < 200_000


def test_the_scripts_hash_is_that_of_the_script():
    source = page.to_html(pair(), COMMAND)
    script = re.search(r"<script>(.*)</script>", source, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in source


def test_it_tells_what_the_table_tells():
    text = page_of(troubled(), command_of=lambda config: f"again {config.spec.width}").text
    assert f"relu6, 1: seed 3 failed: {' '.join(CAUSE.split())}" in text
    assert "relu6, 1: seed 4 not run" in text and "3/5" in text
    assert COMMAND in text and "again 0.75" in text
    assert "jax: 0.7.2" in text and "device: cpu" in text
    assert "spec.blocks[0..16].bottleneck linear relu6" in text
    assert "Bonferroni" in text
    assert "not part of this call" in text


def test_marks_say_every_seed_and_the_cells_their_numbers():
    found = page_of(pair())
    tips = {tip[0]: [row[2] for row in tip[1:]] for tip in found.tips() if tip[0] == "relu6"}
    epochs = [tip for tip in found.tips() if tip[0].startswith("epoch ")]
    assert [tip[0] for tip in epochs] == ["epoch 1", "epoch 2", "epoch 3"]
    assert f"{100 * np.mean(LINEAR) * 0.875:.2f}" in epochs[-1][1][2]
    assert tips, "the row of the arm"
    said = [tip for tip in found.tips() if tip[0] == "relu6" and "seed 0" in str(tip)]
    values = [row[2].split()[0] for row in said[0][1:] if row[1].startswith("seed")]
    assert values == [f"{100 * (b - a):+.2f}" for a, b in zip(LINEAR, RELU6, strict=True)]
    cells = [a["data-v"] for name, a in found.elements if name == "td" and "data-v" in a]
    assert repr(pair().arms[1].accuracy.mean) in cells and "5900000" in cells


REPORTS = {
    "nothing": lambda: summary_of([], []),
    "one": lambda: summary_of(make_arm(LINEAR[:1], epochs=1)),
    "equal": lambda: summary_of(make_arm((1.0,) * 3) + make_arm((1.0,) * 3, "relu6")),
    "failed": lambda: summary_of([failure(make_config(), "killed", CPU)]),
    "no baseline": lambda: summary_of(make_arm(RELU6, "relu6")),
    "no axis": lambda: summary_of(make_arm(LINEAR), baseline=None, named_axes=()),
    "bootstrap": lambda: summary_of(
        make_arm(LINEAR) + make_arm(RELU6, "relu6"), method="bootstrap"
    ),
    "long": lambda: summary_of(make_arm(LINEAR, epochs=350) + make_arm(RELU6, "relu6", epochs=351)),
}


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS.keys())
@pytest.mark.filterwarnings("error")
def test_every_report_has_a_page(make):
    found = page_of(make())
    assert found.elements and "nan" not in found.text.lower().split()
    for _, attributes in found.elements:
        for key in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "d", "width", "height"):
            assert "nan" not in attributes.get(key, "") and "inf" not in attributes.get(key, "")


numbers = st.floats(1e-3, 1e6)


@given(numbers, numbers, st.booleans())
def test_ticks_lie_within_and_rise(one, two, logarithmic):
    make = plot.padded_log if logarithmic and one != two else plot.padded
    scale = make([one, two], 0.0, 100.0)
    ticks = scale.ticks()
    assert ticks == sorted(ticks)
    assert all(-1e-6 <= scale(tick) <= 100 + 1e-6 for tick in ticks)
    assert min(scale(one), scale(two)) >= 0 and max(scale(one), scale(two)) <= 100
