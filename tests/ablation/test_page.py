"""report.html without a browser: what is in it, what is not, and that no name becomes markup."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

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
    many_arms,
    pair,
    summary_of,
    troubled,
)

from mnet_jax.ablation import page
from mnet_jax.ablation.claims import Claim
from mnet_jax.ablation.page import tag
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
        if name != "meta":  # the only one without content that is not closed
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


def page_of(report, command=COMMAND, **options):
    return Page(page.to_html(report, command, **options))


def json_texts(value):
    """All texts in a JSON value, one after the other."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return str(value)
    return "\n".join(map(json_texts, value))


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
        "strong", "q", "cite", "tspan",
    }  # fmt: skip
    for name, attributes in nasty.elements:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "href")]
        assert name != "img"
    kinds = [attributes["type"] for name, attributes in nasty.elements if name == "script"]
    assert kinds == ["application/json", "application/json", "module"]
    for text in nasty.texts:
        if text.startswith('{"'):  # a chart: the name is one of its texts, letter by letter
            assert NASTY in json_texts(json.loads(text))
    assert sum(NASTY in text for text in nasty.texts) >= 8


@given(st.text(), st.text())
def test_markup_gives_back_its_text(text, value):
    text = text.replace("\r", " ")  # which HTML reads as a line feed
    source = tag("p", text, data_v=value)
    parsed = Page(source)
    assert "".join(parsed.texts) == text.replace("\0", "") or "\0" in text
    assert parsed.elements == [("p", {"data-v": value})]


SCRIPT = re.compile(r'<script type="module">(.*)</script>', re.DOTALL)


def test_it_needs_no_network():
    """What the browser asks for is in test_browser.py; here, that there is nothing to ask for."""
    source = page.to_html(troubled(), COMMAND)
    own = SCRIPT.sub("", source).replace("http://www.w3.org/2000/svg", "")
    own = own.replace("http://www.w3.org/1999/xlink", "")  # names of XML, no addresses
    assert not re.search(r"https?:|//[a-z]|@import|url\([^#]|<link|<img|<iframe", own)
    assert "default-src 'none'" in own and "connect-src" not in own


@pytest.mark.parametrize("make", [troubled, lambda: many_arms(epochs=350)])
def test_it_has_at_most_two_megabytes(make):
    assert len(page.to_html(make(), COMMAND).encode()) < 2_000_000


def test_where_nothing_is_drawn_the_library_is_left_out():
    assert len(page.to_html(summary_of([], []), COMMAND)) < 20_000


def test_the_scripts_hash_is_that_of_the_script():
    source = page.to_html(pair(), COMMAND)
    script = SCRIPT.search(source).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in source
    assert "unsafe-eval" not in source


def test_it_tells_what_the_table_tells():
    text = page_of(troubled(), command_of=lambda config: f"again {config.spec.width}").text
    assert f"relu6, 1: seed 3 failed: {' '.join(CAUSE.split())}" in text
    assert "relu6, 1: seed 4 not run" in text and "3/5" in text
    assert COMMAND in text and "again 0.75" in text
    assert "jax: 0.7.2" in text and "device: cpu" in text
    assert "spec.blocks[0..16].bottleneck linear relu6" in text
    assert "Bonferroni" in text
    assert "not part of this call" in text


def test_the_cells_have_the_numbers_that_they_are_sorted_by():
    found = page_of(pair())
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
        for key in ("x2", "y2", "d", "transform", "width", "height"):
            assert not re.search("nan|infinity", attributes.get(key, ""), re.IGNORECASE)
