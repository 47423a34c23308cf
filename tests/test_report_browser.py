"""The page in a real browser: charts are drawn, nothing is loaded, nothing that a trace says is obeyed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import Browser, browsing, executable
from tests.made_captures import HOSTILE, capture, days, hostile_capture, instant, mixed, nothing, short, storm
from tests.replays import REPLAYS, trace_of
from tests.stories import LABELS, backing_off
from tests.test_report import page_of
from tracer.text import printable

pytestmark = pytest.mark.slow
REQUIRE = "REGTRACE_REQUIRE_CHROMIUM"
CANVASES = "[...document.querySelectorAll('canvas')]"
BLANK = f"""{CANVASES}.filter(canvas => {{
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let at = 0; at < data.length && colours.size < 8; at += 4) colours.add(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
  return colours.size < 8;
}}).length"""
"""How many canvases have fewer than eight colours."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if executable() is None:
        reason = "there is no Chromium (apt install chromium)"
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{REQUIRE}=1, but {reason}", pytrace=False)
        pytest.skip(reason)
    with browsing(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def fresh(browser: Browser) -> Browser:
    """The browser with nothing told yet."""
    browser.events.clear()
    return browser


def written(tmp_path: Path, trace: Path) -> Path:
    page = tmp_path / "page.html"
    page.write_text(page_of(trace), "utf-8")
    return page


def assert_peaceful(browser: Browser, page: Path) -> None:
    """Nothing was said on the console, nothing was loaded but the page."""
    assert browser.told("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") == []
    requests = {told["request"]["url"] for told in browser.told("Network.requestWillBeSent")}
    assert requests == {page.resolve().as_uri()}


@pytest.mark.parametrize("make", [backing_off, mixed, days, short, instant, storm], ids=lambda make: make.__name__)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_charts_are_drawn_and_nothing_is_loaded(fresh: Browser, tmp_path: Path, make, dark: bool) -> None:  # type: ignore[no-untyped-def]
    page = written(tmp_path, capture(tmp_path / "t.arrows", make()))
    assert fresh.open(page, dark=dark) == "drawn"
    assert fresh.value(f"{CANVASES}.length") == 2
    assert fresh.value(BLANK) == 0
    assert_peaceful(fresh, page)


@pytest.mark.parametrize("width", [400, 1600])
def test_it_fits_into_its_window(fresh: Browser, tmp_path: Path, width: int) -> None:
    page = written(tmp_path, capture(tmp_path / "t.arrows", mixed()))
    assert fresh.open(page, width) == "drawn"
    assert fresh.value("document.documentElement.scrollWidth") <= width
    assert fresh.value(f"Math.max(...{CANVASES}.map(canvas => canvas.getBoundingClientRect().right))") <= width


@pytest.mark.parametrize("width", [1000, 1200])
def test_no_table_has_to_be_moved_sideways(fresh: Browser, tmp_path: Path, width: int) -> None:
    for trace in (capture(tmp_path / "t.arrows", mixed()), trace_of(REPLAYS / "lab-dockerd-429-closed-loop")):
        assert fresh.open(written(tmp_path, trace), width) == "drawn"
        assert fresh.value("document.querySelectorAll('.table').length") == 3
        assert (
            fresh.value("[...document.querySelectorAll('.table')].filter(each => each.scrollWidth > each.clientWidth).length")
            == 0
        )


def test_the_verdict_is_in_sight_without_scrolling(fresh: Browser, tmp_path: Path) -> None:
    fresh.open(written(tmp_path, capture(tmp_path / "t.arrows", backing_off())), 400, 800)
    assert fresh.value("document.querySelector('.verdict h2').textContent") == f"CRITICAL: rate-limit at {LABELS[1]}"
    assert fresh.value("document.querySelector('.verdict h2').getBoundingClientRect().bottom") < 400


def test_hostile_names_are_shown_and_not_obeyed(fresh: Browser, tmp_path: Path) -> None:
    page = written(tmp_path, hostile_capture(tmp_path / "t.arrows"))
    assert fresh.open(page) == "drawn"
    assert fresh.value("document.title").endswith(" · Connections to registries from host-1")
    assert fresh.value("document.querySelectorAll('main img, main script, main a:not(.vega-actions a)').length") == 0
    assert_peaceful(fresh, page)


def test_a_tooltip_shows_hostile_names_as_text(fresh: Browser, tmp_path: Path) -> None:
    page = written(tmp_path, hostile_capture(tmp_path / "t.arrows"))
    fresh.open(page, 1200, 3000)
    box = fresh.value("JSON.parse(JSON.stringify(document.querySelector('canvas').getBoundingClientRect()))")
    shown = set()
    for y in range(int(box["top"]) + 24, int(box["top"]) + 210, 12):  # bands of findings
        fresh.mouse("mouseMoved", box["left"] + 300, y)
        shown.add(fresh.value("document.querySelector('#vg-tooltip-element.visible')?.textContent ?? ''"))
    said = " ".join(shown)
    assert [text for text in HOSTILE if " ".join(printable(text).split()) not in " ".join(said.split())] == []
    assert fresh.value("document.querySelectorAll('#vg-tooltip-element :is(img, script, a)').length") == 0
    assert_peaceful(fresh, page)


def test_the_wheel_zooms_all_charts_of_time_only_with_a_key(fresh: Browser, tmp_path: Path) -> None:
    page = written(tmp_path, capture(tmp_path / "t.arrows", mixed()))
    fresh.open(page, 1200, 1800)
    box = fresh.value("JSON.parse(JSON.stringify(document.querySelector('canvas').getBoundingClientRect()))")
    drawn = "document.querySelector('canvas').toDataURL()"
    middle = (box["left"] + 600, box["top"] + 40)
    fresh.mouse("mouseMoved", *middle)
    before = fresh.value(drawn)
    fresh.mouse("mouseWheel", *middle, deltaX=0, deltaY=-200)
    fresh.value("new Promise(done => setTimeout(done, 300))")
    assert fresh.value(drawn) == before
    fresh.mouse("mouseWheel", *middle, deltaX=0, deltaY=-200, modifiers=2)
    fresh.value("new Promise(done => setTimeout(done, 300))")
    zoomed = fresh.value(drawn)
    assert zoomed != before
    assert_peaceful(fresh, page)


def test_a_page_of_nothing_needs_no_script(fresh: Browser, tmp_path: Path) -> None:
    page = written(tmp_path, nothing(tmp_path / "t.arrows"))
    fresh.call("Page.navigate", url=page.resolve().as_uri())
    fresh.value("new Promise(done => setTimeout(done, 300))")
    assert fresh.value("document.querySelector('.verdict h2').textContent") == "Nothing to judge"
    assert_peaceful(fresh, page)
