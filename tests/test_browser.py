"""The page in a real browser: it sorts, says what is pointed at, fits a phone, and stays quiet."""

import re

import browser
import numpy as np
import pytest
from PIL import Image
from summaries import LINEAR, RELU6, make_arm, make_config, summary_of

from mnet_jax.ablation import page
from mnet_jax.ablation.judgement import Claim
from mnet_jax.ablation.store import failure

pytestmark = [
    pytest.mark.skipif(browser.PATH is None, reason="no Chromium on this machine"),
    pytest.mark.slow,
]
PHONE = {"width": 390, "height": 844, "touch": True}
LONG = "ValueError: " + "a_name_without_any_space_" * 8


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    trials = make_arm(LINEAR, epochs=20)
    for width, loss in ((0.5, 0.01), (0.35, 0.03)):
        trials += make_arm(np.subtract(RELU6, loss), "relu6", width, params=int(1e6 * width))
    lost = failure(make_config("relu6", 0.25), LONG, {})
    claim = Claim(direction="worse", text="it costs accuracy", source="Fig. 6a")
    report = summary_of([*trials, lost], claims=[claim])
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.to_html(report, f"python -m experiments.ablate {'--long-flag ' * 30}"))
    return path


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    found = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(autouse=True)
def quiet(screen, path):
    """After every test: no complaint on the console, and no request but for the page itself."""
    yield
    assert screen.complaints == []
    assert screen.requests == [path.as_uri()]


def column(screen, index):
    rows = (
        f"[...document.querySelectorAll('.scroll table tbody')[0].rows].map(r => r.cells[{index}]"
    )
    return screen.evaluate(f"{rows}.dataset.v)")


def heads(screen):
    return screen.evaluate("[...document.querySelectorAll('th button')].map(b => b.textContent)")


def states(screen):
    return screen.evaluate("[...document.querySelectorAll('th[aria-sort]')].map(h => h.ariaSort)")


def button(index):
    return f"th:nth-child({index + 1}) button"


def test_a_click_sorts_and_a_second_turns_it_round(screen, path):
    screen.open(path)
    names = heads(screen)
    index = names.index("accuracy %")
    before = column(screen, index)
    assert before.count("") == 1
    screen.click(button(index))
    values = column(screen, index)
    assert values == [*sorted(filter(None, before), key=float), ""] and values != before
    assert states(screen) == ["ascending" if i == index else "none" for i in range(len(names))]
    screen.click(button(index))
    assert column(screen, index) == [*sorted(filter(None, before), key=float, reverse=True), ""]
    assert states(screen)[index] == "descending"


def test_the_keyboard_sorts_too(screen, path):
    screen.open(path)
    index = heads(screen).index("params")
    screen.evaluate(f"document.querySelector('{button(index)}').focus()")
    screen.press("Enter", "\r")
    values = [float(value) for value in column(screen, index) if value]
    assert values == sorted(values) and states(screen)[index] == "ascending"


def test_numbers_in_names_sort_as_numbers(screen, path):
    screen.open(path)
    index = heads(screen).index("width")
    screen.click(button(index))
    assert column(screen, index) == ["0.25", "0.35", "0.5", "1"]


def tip(screen):
    return screen.evaluate("document.getElementById('tip').hidden ? '' : "
                           "document.getElementById('tip').innerText")  # fmt: skip


@pytest.mark.parametrize("dark", [False, True])
def test_hovering_an_epoch_says_where_all_arms_are(screen, path, dark):
    screen.open(path, dark=dark)
    assert tip(screen) == ""
    screen.hover(".column:nth-last-of-type(1) .hit")
    said = tip(screen)
    assert said.startswith("epoch 20") and f"{100 * np.mean(LINEAR):.2f}" in said
    screen.hover("h1")
    assert tip(screen) == ""


def test_hovering_a_row_says_its_seeds(screen, path):
    screen.open(path)
    screen.hover(".mark .bar")
    said = tip(screen)
    assert all(f"seed {seed}" in said for seed in range(5)) and "points" in said
    screen.press("Escape")
    assert tip(screen) == ""


def test_a_finger_is_as_good(screen, path):
    screen.open(path, **PHONE)
    screen.tap(".mark .bar")
    assert "seed 4" in tip(screen)
    inside = screen.evaluate(
        "(b => b.left >= 0 && b.right <= innerWidth && b.top >= 0 && b.bottom <= innerHeight)"
        "(document.getElementById('tip').getBoundingClientRect())"
    )
    assert inside
    screen.tap("h2")
    assert tip(screen) == ""


def test_the_arrow_keys_walk_along_the_epochs(screen, path):
    screen.open(path)
    screen.evaluate("document.querySelector('svg.columns').focus({preventScroll: true})")
    for key, epoch in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 1)):
        screen.press(key)
        assert re.match(rf"epoch {epoch}\b", tip(screen))


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_only_tables_scroll_sideways(screen, path, width):
    screen.open(path, width=width, touch=width < 700)
    screen.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert screen.evaluate("document.documentElement.scrollWidth") <= width
    outside = screen.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && "
        "!e.closest('svg svg') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []


def luminance(colour):
    """WCAG 2.1's relative luminance of `rgb(r, g, b)`."""
    channels = np.array([float(c) for c in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def contrast(one, two):
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_have_contrast(screen, path, dark):
    """WCAG 2.1: 4.5:1 for text (1.4.3), 3:1 for what a drawing is read by (1.4.11)."""
    screen.open(path, dark=dark)
    ground = screen.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(ground) < 0.05) == dark
    texts = screen.evaluate(
        "[...document.querySelectorAll('h1,h2,p,td,th button,li,code,pre,summary,.badge,.verdict')]"
        ".map(e => [getComputedStyle(e).color, getComputedStyle(e.closest('pre,.claim') || "
        "document.body).backgroundColor])"
    )
    texts += [
        [colour, ground]
        for colour in screen.evaluate(
            "[...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill)"
        )
    ]
    assert len(texts) > 50 and min(contrast(*pair) for pair in texts) >= 4.5
    hues = screen.evaluate(
        "[0,1,2,3,4,5,6].map(i => { const e = document.createElement('i'); e.className = 's' + i;"
        "e.style.color = 'var(--c)'; document.body.append(e); return getComputedStyle(e).color; })"
    )
    assert len({*hues}) == 7 and min(contrast(hue, ground) for hue in hues) >= 3


def test_a_screenshot_has_ink(screen, path, tmp_path):
    screen.open(path, **PHONE, dark=True)
    screen.screenshot(tmp_path / "phone.png")
    picture = Image.open(tmp_path / "phone.png").convert("RGB")
    assert picture.size == (390, 844) and len(picture.getcolors(1 << 20)) > 50
