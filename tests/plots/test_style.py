"""Names in pictures are drawn as they are, or told apart in letters that the fonts have."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image

from mnet_jax.analysis.bottlenecks import Bottleneck
from mnet_jax.analysis.dead_units import Activity, ActivityMeasurement, Kernels
from mnet_jax.plots import bottlenecks, dead_units, style
from mnet_jax.plots.contact_sheet import contact_sheet
from mnet_jax.runs.preview import Preview

ODD = ("$a", "$a_{$", "_hidden", "\\$1$", "__x", "a\nb", "\u4e2d\u56fd", "\x1b[31m", "50 % of $")
SHOWN = ("$a", "$a_{$", " _hidden", "\\$1$", " __x", "a b", r"\u4e2d\u56fd", r"\x1b[31m",
         "50 % of $")  # fmt: skip


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine without fonts of its own."""
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: [])


def pixels_of(text):
    """What Matplotlib makes of a label, drawn by itself."""
    figure = style.new_figure(4, 1)
    figure.text(0.1, 0.5, text, fontsize=12)
    return np.asarray(Image.open(io.BytesIO(style.to_png(figure))).convert("L"))


def pixels_without_mathematics(text):
    figure = style.new_figure(4, 1)
    figure.text(0.1, 0.5, text, fontsize=12, parse_math=False)
    return np.asarray(Image.open(io.BytesIO(style.to_png(figure))).convert("L"))


@pytest.mark.parametrize(("name", "shown"), [*zip(ODD, SHOWN, strict=True)])
def test_a_label_is_drawn_letter_by_letter(name, shown):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib warns of a box
        found = pixels_of(style.label(name))
    np.testing.assert_array_equal(found, pixels_without_mathematics(shown))


def survey():
    share = np.array([0.5, 1.0])
    activity = Activity(
        layer="stem", activation="relu", positions=9, active=share, clipped=0 * share
    )
    return ActivityMeasurement((activity,), (Kernels(layer="stem", norms=share),))


def bottleneck():
    return Bottleneck(
        layer="block_0/project", channels=4, positions=9, rank=3.0, activated_rank=2.0,
        recovered=0.5, expanded_channels=8, recovered_expanded=0.75,
    )  # fmt: skip


@pytest.mark.parametrize("picture", ["activations", "bottlenecks"])
def test_every_name_is_in_the_legends(picture):
    names = ("$a_{$", "_hidden", "plain")
    if picture == "activations":
        figure = dead_units.draw({name: [survey()] for name in names}, 0.01)
    else:
        figure = bottlenecks.draw({name: [(bottleneck(),)] for name in names}, "relu")
    style.to_png(figure)
    for axes in figure.axes:
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        for name in names:
            assert any(style.label(name) in text for text in texts), (name, texts)


def sheet_of(*names, font_size=56):
    """The captions' pixels of a sheet with an image of each class."""
    count = len(names)
    preview = Preview(
        images=np.zeros((count, font_size, font_size, 3), np.uint8), labels=np.arange(count),
        partners=None, share=1.0, class_names=names,
    )  # fmt: skip
    return np.asarray(contact_sheet(preview))


@pytest.mark.usefixtures("no_fonts")
def test_names_that_no_font_has_are_told_apart_on_the_sheet():
    first, second = (sheet_of(name) for name in ("\u4e2d\u56fd", "\u65e5\u672c"))
    assert (first != second).any(), "boxes would be alike"
    np.testing.assert_array_equal(first, sheet_of(r"0: \u4e2d\u56fd"))


@pytest.mark.usefixtures("no_fonts")
def test_other_alphabets_are_as_they_are():
    for name in ("Καλημέρα", "щенок", "čeština"):
        assert style.font_with(name) == style.DEJAVU
        assert (sheet_of(name) != sheet_of(style.escaped(name, Path("none")))).any()


def test_a_font_of_the_system_is_taken_for_letters_that_ours_lacks(monkeypatch):
    """Here that is a font that comes with Matplotlib, of mathematical signs."""
    stix = style.DEJAVU.with_name("STIXGeneral.ttf")
    lacking = {*FT2Font(str(stix)).get_charmap()} - {*FT2Font(str(style.DEJAVU)).get_charmap()}
    sign = chr(max(lacking))
    fonts = [str(Path(__file__)), "/nowhere.ttf", str(stix)]  # what is no font is passed over
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: fonts)
    assert style.font_with(sign) == stix
    with_it = sheet_of(sign)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: [])
    assert style.font_with(sign) is None and (with_it != sheet_of(sign)).any()
