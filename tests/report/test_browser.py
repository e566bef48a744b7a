"""The page in a headless Chromium: what is moved changes the pictures, nothing fails, and no request leaves the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nnreg.report import write_report
from tests.report.folders import label_maps, predictions

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e .[browser])")
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PICTURES = "[...document.querySelectorAll('#planes canvas')].map((canvas) => canvas.toDataURL())"


class Tab:
    """A page that is open, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: None if request.url.startswith(("data:", path.as_uri())) else self.wrong.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#viewer[data-ready]", state="attached")

    def pictures(self) -> list[str]:
        """What the canvases show."""
        return list(self.page.evaluate(PICTURES))

    def slide(self, selector: str, value: int) -> None:
        """Move a slider, as a finger would."""
        self.page.eval_on_selector(selector, "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); }", value)

    def choose(self, mode: str) -> None:
        """Another way to compare."""
        self.page.locator(f"#modes label:has(input[value={mode}])").click()

    @property
    def modes(self) -> list[str]:
        """What is offered."""
        return list(self.page.eval_on_selector_all("#modes input", "inputs => inputs.map((input) => input.value)"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        try:
            started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_report(predictions(tmp_path_factory.mktemp("predicted")))


@pytest.fixture
def tab(browser, path) -> Iterator[Tab]:
    opened = Tab(browser, path, viewport={"width": 1200, "height": 900})
    yield opened
    opened.context.close()
    assert opened.wrong == []


def test_slices_and_curtain_move_the_pictures(tab):
    first = tab.pictures()
    tab.slide("#planes .slice input >> nth=0", 1)
    second = tab.pictures()
    assert first[0] != second[0]
    assert first[1:] == second[1:]
    tab.slide("#curtain", 10)
    assert all(one != other for one, other in zip(second, tab.pictures(), strict=True))


def test_every_way_to_compare_draws_something_else(tab):
    assert tab.modes == ["curtain", "flicker", "checkerboard", "overlay", "difference", "contours", "grid", "jacobian"]
    shown = []
    for mode in tab.modes:
        tab.choose(mode)
        tab.page.evaluate("document.getElementById('play').getAttribute('aria-pressed') === 'true' && document.getElementById('play').click()")
        shown.append(tab.pictures()[0])
        assert tab.page.locator("#legend").inner_text()
    assert len(set(shown)) == len(shown)


def test_flicker_changes_by_itself_and_stops(tab):
    tab.choose("flicker")
    first = tab.pictures()
    tab.page.wait_for_function(f"(before) => JSON.stringify({PICTURES}) !== before", arg=_joined(first))
    tab.page.click("#play")
    assert tab.page.get_attribute("#play", "aria-pressed") == "false"


def _joined(pictures: list[str]) -> str:
    return json.dumps(pictures, separators=(",", ":"))


def test_keys_change_pair_view_and_side(tab):
    worst, first = tab.page.inner_text("#viewer-title"), tab.pictures()
    tab.page.keyboard.press("]")
    tab.page.wait_for_selector('#viewer[data-ready="1"]')
    assert tab.page.inner_text("#viewer-title") != worst
    tab.page.keyboard.press("[")
    tab.page.wait_for_selector('#viewer[data-ready="0"]')
    assert tab.pictures() == first
    tab.page.keyboard.press("b")
    assert tab.pictures() != first
    tab.page.keyboard.press("m")
    assert tab.page.is_checked("#modes input[value=flicker]")


def test_a_row_opens_its_pair_and_a_head_sorts(tab):
    names = "rows => rows.map((row) => row.querySelector('.open').textContent)"
    assert tab.page.eval_on_selector_all("table.items tbody tr", names)[0] == "a__b"
    tab.page.click("table.items thead button >> nth=1")
    tab.page.click("table.items thead button >> nth=1")
    assert tab.page.eval_on_selector_all("table.items tbody tr", names) == ["b__c", "c__a", "a__b"]
    tab.page.click("table.items tbody tr >> nth=0 >> button.open")
    tab.page.wait_for_selector('#viewer[data-ready="2"]')
    assert tab.page.inner_text("#viewer-title") == "b__c"


def test_pictures_are_described(tab):
    assert tab.page.get_attribute("#planes canvas >> nth=0", "aria-label").startswith("a__b, axial slice ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(browser, path, scheme):
    tab = Tab(browser, path, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    dark = tab.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).every((part) => part < 60)")
    assert dark == (scheme == "dark")
    tab.context.close()
    assert tab.wrong == []


def test_label_maps_are_drawn(browser, tmp_path):
    tab = Tab(browser, write_report(label_maps(tmp_path)), viewport={"width": 1000, "height": 800})
    assert tab.modes == ["prediction", "truth", "errors", "outline", "image"]
    shown = []
    for mode in tab.modes:
        tab.choose(mode)
        shown.append(tab.pictures()[0])
    assert len(set(shown)) == len(shown)
    tab.context.close()
    assert tab.wrong == []
