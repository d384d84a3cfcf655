"""The page in a real browser: it sorts, says what is pointed at, fits a phone, and stays quiet."""

import base64
import io
import itertools
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from summaries import LINEAR, RELU6, make_arm, make_config, summary_of

from mnet_jax.ablation import page
from mnet_jax.ablation.claims import Claim
from mnet_jax.ablation.store import failure

selenium = pytest.importorskip("selenium", reason="Selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
DRIVER = shutil.which("chromedriver")  # given by its path, so that Selenium downloads none
SECONDS = 60  # for whatever the browser is asked to do
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")

pytestmark = [
    pytest.mark.skipif(
        BROWSER is None or DRIVER is None,
        reason="no Chromium with its chromedriver on this machine (Debian: chromium-driver)",
    ),
    pytest.mark.slow,
]
PHONE = {"width": 390, "height": 844, "touch": True}
LONG = "ValueError: " + "a_name_without_any_space_" * 8


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    trials = make_arm(LINEAR, epochs=20)
    for width, loss in ((0.5, 0.01), (0.35, 0.03)):
        costs = {"params": int(1e6 * width), "madds": int(5e6 * width)}
        trials += make_arm(np.subtract(RELU6, loss), "relu6", width, **costs)
    lost = failure(make_config("relu6", 0.25), LONG, {})
    claim = Claim(direction="worse", text="it costs accuracy", source="Fig. 6a")
    report = summary_of([*trials, lost], claims=[claim])
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.to_html(report, f"python -m experiments.ablate {'--long-flag ' * 30}"))
    return path


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Eight arms with long names, of which some are nearly as accurate and cost nearly as much."""
    trials = []
    for index, width in enumerate((1.0, 0.99, 0.98, 0.75, 0.74, 0.73, 0.5, 0.35)):
        loss = 0.002 * (index % 3)
        costs = {"madds": int(5e8 * width), "seconds": 1000 * width}
        trials += make_arm(np.subtract(LINEAR, loss), "linear", width, **costs)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.to_html(summary_of(trials, named_axes=("model", "width")), "again"))
    return path


class Screen:
    """A page in a headless Chromium, as screens of several sizes and tastes show it."""

    def __init__(self):
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for flag in FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.opened = set()
        self.driver.set_page_load_timeout(SECONDS)
        self.driver.set_script_timeout(SECONDS)
        self.driver.command_executor.client_config.timeout = SECONDS

    def open(self, path, *, width=1100, height=900, dark=False, touch=False, scripts=True):
        call = self.driver.execute_cdp_cmd
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        call("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        call("Emulation.setDeviceMetricsOverride", size)
        call("Emulation.setTouchEmulationEnabled", {"enabled": touch})
        call("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        self.opened.add(path.as_uri())
        self.driver.get(path.as_uri())
        if scripts:
            count = len(self.all("figure"))
            WebDriverWait(self.driver, SECONDS).until(
                lambda _: len(self.all(".drawing[tabindex] svg")) == count
            )

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def first(self, selector):
        """The first element that a selector finds, in the middle of the screen."""
        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.evaluate(
            "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element
        )
        return element

    def evaluate(self, expression, *arguments):
        return self.driver.execute_script(f"return {expression}", *arguments)

    def hover(self, selector):
        ActionChains(self.driver).move_to_element(self.first(selector)).perform()

    def tap(self, selector):
        box = self.first(selector).rect
        scrolled = self.evaluate("scrollY")
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] - scrolled + box["height"] / 2}
        for kind, points in (("touchStart", [place]), ("touchEnd", [])):
            self.driver.execute_cdp_cmd(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
            )

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def screenshot(self):
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {})
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        requested = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in requested]


@pytest.fixture(scope="module")
def screen():
    found = Screen()
    yield found
    found.driver.quit()


@pytest.fixture(autouse=True)
def quiet(screen):
    """After every test: no complaint on the console, and no request but for the page itself."""
    screen.complaints(), screen.requests()  # of what was before
    screen.opened.clear()
    yield
    assert screen.complaints() == []
    assert {*screen.requests()} == screen.opened


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
    screen.first(button(index)).click()
    values = column(screen, index)
    assert values == [*sorted(filter(None, before), key=float), ""] and values != before
    assert states(screen) == ["ascending" if i == index else "none" for i in range(len(names))]
    screen.first(button(index)).click()
    assert column(screen, index) == [*sorted(filter(None, before), key=float, reverse=True), ""]
    assert states(screen)[index] == "descending"


def test_the_keyboard_sorts_too(screen, path):
    screen.open(path)
    index = heads(screen).index("params")
    screen.first(button(index)).send_keys(Keys.ENTER)
    values = [float(value) for value in column(screen, index) if value]
    assert values == sorted(values) and states(screen)[index] == "ascending"


def test_numbers_in_names_sort_as_numbers(screen, path):
    screen.open(path)
    index = heads(screen).index("width")
    screen.first(button(index)).click()
    assert column(screen, index) == ["0.25", "0.35", "0.5", "1"]


CURVES, DIFFERENCES = "figure:nth-of-type(1)", "figure:nth-of-type(2)"


def mark(figure, place=1):
    """One of the marks of a chart that say something."""
    return f"{figure} .role-mark > [aria-label]:nth-child({place})"


def tip(screen):
    shown = screen.all("#vg-tooltip-element.visible")
    return shown[0].get_property("innerText") if shown else ""


@pytest.mark.parametrize("dark", [False, True])
def test_hovering_an_epoch_says_where_all_arms_are(screen, path, dark):
    screen.open(path, dark=dark)
    assert tip(screen) == ""
    screen.hover(mark(CURVES, 20))
    output = tip(screen)
    assert output.startswith("epoch 20\n") and f"{100 * np.mean(LINEAR):.2f}" in output
    screen.hover("h1")
    assert tip(screen) == ""


def test_hovering_a_row_says_its_seeds(screen, path):
    screen.open(path)
    screen.hover(mark(DIFFERENCES))
    output = tip(screen).splitlines()
    assert [line.split(":")[0] for line in output[2:]] == [f"seed {seed}" for seed in range(5)]
    assert all("points" in line for line in output[1:])


def test_hovering_a_dot_says_its_cost(screen, path):
    screen.open(path)
    screen.hover(mark("figure:nth-of-type(3)", 2))
    assert "million multiply-adds per image: 2.5" in tip(screen).splitlines()


def test_a_finger_is_as_good(screen, path):
    screen.open(path, **PHONE)
    screen.tap(mark(DIFFERENCES))
    assert "seed 4" in tip(screen)
    inside = screen.evaluate(
        "(b => b.left >= 0 && b.right <= innerWidth && b.top >= 0 && b.bottom <= innerHeight)"
        "(document.getElementById('vg-tooltip-element').getBoundingClientRect())"
    )
    assert inside
    screen.tap("h2")
    assert tip(screen) == ""


def test_the_arrow_keys_walk_along_the_epochs(screen, path):
    screen.open(path)
    screen.evaluate("document.querySelector('.drawing').focus()")
    for key, epoch in (
        (Keys.ARROW_RIGHT, 1), (Keys.ARROW_RIGHT, 2), (Keys.ARROW_LEFT, 1), (Keys.ARROW_LEFT, 1),
    ):  # fmt: skip
        screen.press(key)
        assert re.match(rf"epoch {epoch}\n", tip(screen))
    screen.press(Keys.ESCAPE)
    assert tip(screen) == ""


def test_without_scripts_the_charts_are_there(screen, path):
    screen.open(path, scripts=False)
    stills = screen.all("noscript svg")
    assert len(stills) == len(screen.all("figure")) == 3
    assert all(still.is_displayed() and still.rect["width"] > 300 for still in stills)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_only_tables_scroll_sideways(screen, path, width):
    screen.open(path, width=width, touch=width < 700)
    screen.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert screen.evaluate("document.documentElement.scrollWidth") <= width
    outside = screen.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, clipPath') && "
        "!e.closest('[clip-path]') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []


TEXTS = """\
[...document.querySelectorAll('figure')].map(figure => [...figure.querySelectorAll('.drawing text')]
    .filter(text => text.textContent.trim() && getComputedStyle(text).opacity !== '0')
    .map(text => { const b = text.getBoundingClientRect();
                   return [text.textContent, b.left, b.top, b.right, b.bottom]; }))
"""


def covered(texts):
    """The pairs of texts of which one covers the other by more than a pixel or two."""
    distinct = {(text, *(round(edge) for edge in box)): box for text, *box in texts}  # halos
    boxes = [(text, *box) for (text, *_), box in distinct.items()]
    return [
        (one[0], two[0])
        for one, two in itertools.combinations(boxes, 2)
        if min(one[3], two[3]) - max(one[1], two[1]) > 1
        and min(one[4], two[4]) - max(one[2], two[2]) > 3
    ]


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("which", ["path", "crowded"])
def test_no_text_covers_another(screen, request, which, width):
    screen.open(request.getfixturevalue(which), width=width, touch=width < 700)
    for texts in screen.evaluate(TEXTS):
        assert len(texts) > 4
        assert covered(texts) == []


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
            "[...document.querySelectorAll('.drawing text')].map(e => getComputedStyle(e).fill)"
        )
    ]
    assert len(texts) > 50 and min(contrast(*pair) for pair in texts) >= 4.5
    hues = screen.evaluate(
        "[0,1,2,3,4,5,6].map(i => { const e = document.createElement('i'); e.className = 's' + i;"
        "e.style.color = 'var(--c)'; document.body.append(e); return getComputedStyle(e).color; })"
    )
    assert len({*hues}) == 7 and min(contrast(hue, ground) for hue in hues) >= 3


def test_a_screenshot_has_ink(screen, path):
    screen.open(path, **PHONE, dark=True)
    picture = screen.screenshot()
    assert picture.size == (390, 844) and len(picture.getcolors(1 << 20)) > 50
