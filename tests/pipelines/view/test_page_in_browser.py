"""The page in a real browser: pictures move, zones and lines are drawn with mouse and keyboard, and saved."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import CHROMIUM, Browser
from support.live_page import FedPage, event, fed_page

from edgectl.pipelines.host.config import yaml_values

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[FedPage]:
    """Seven streams, more than a browser opens connections to one host, ten frames a second."""
    names = ("gate", *(f"cam-{i}" for i in range(2, 8)))
    stop = threading.Event()
    with fed_page(tmp_path, streams=names) as page:

        def feed() -> None:
            while not stop.wait(0.1):
                for name in names:
                    page.frame(name)
                page.stats()

        feeder = threading.Thread(target=feed)
        feeder.start()
        yield page
        stop.set()
        feeder.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as browser:
        yield browser
        assert browser.complaints == [], "errors, or what its own policy forbids"


def saved(page: FedPage) -> dict[str, Any]:
    values: dict[str, Any] = yaml_values(page.file.read_text())
    return values


def open_editor(browser: Browser, page: FedPage) -> None:
    browser.open(f"{page.url}/streams/gate")
    browser.until("document.querySelector('.frame.sized') !== null")
    browser.click("[data-do=edit]")
    browser.until("document.querySelectorAll('.shape').length === 2")
    browser.run("document.querySelector('.frame').scrollIntoView()")


def at(browser: Browser, x: float, y: float) -> tuple[float, float]:
    """A place of the picture, 0..1, in the window."""
    left, top, width, height = browser.box("svg[data-editing]")
    return left + x * width, top + y * height


def save(browser: Browser) -> None:
    browser.until("!document.querySelector('[data-do=save]').disabled")
    browser.click("[data-do=save]")
    browser.until("document.querySelector('[data-said]').textContent.includes('Saved')")


def test_a_stream_without_a_picture_says_why_and_one_that_had_one_shows_it_grey(
    browser: Browser, tmp_path: Path
) -> None:
    away = {"state": "outage", "reason": "refused", "detail": "cannot reach it", "retry_s": 100.0}

    def of(stream: str, what: str) -> str:
        return f"document.querySelector('[data-stream={stream}] {what}')"

    with fed_page(tmp_path, streams=("gate", "dead")) as page:
        page.frame("gate")
        page.stats("gate")
        page.stats("dead", **away)
        browser.open(page.url)
        browser.until(f"{of('gate', '.frame.sized')} !== null")
        said = browser.until(f"{of('dead', '.absence')}.textContent", lambda text: "trying" in text)
        assert said.startswith("no picture: connection refused, trying again in ")
        assert said.endswith("cannot reach it")
        assert browser.run(f"{of('dead', '.frame img')} === null")
        assert browser.run(f"{of('gate', '.absence')}.hidden")
        page.stats("gate", **away)
        browser.until(f"{of('gate', '.frame')}.classList.contains('old')")
        told = browser.until(f"{of('gate', '.absence')}.innerText", lambda text: "trying" in text)
        assert "this picture is " in told
        assert "grayscale" in browser.run(f"getComputedStyle({of('gate', 'canvas')}).filter")
        page.stats("gate")
        page.frame("gate")
        browser.until(f"{of('gate', '.absence')}.hidden")


def test_all_visible_streams_move_and_hidden_ones_do_not(browser: Browser, page: FedPage) -> None:
    browser.open(page.url)
    browser.until("document.querySelectorAll('.frame.sized').length >= 4")
    shown = browser.run("[...document.querySelectorAll('canvas')].map(c => c.parentElement.className)")
    assert len(shown) == 7
    browser.run("scrollTo(0, document.body.scrollHeight)")
    browser.until("document.querySelectorAll('.frame.sized').length === 7")
    browser.until("document.querySelector('[data-stream=gate] [data-fps]').textContent !== '–'")
    assert "3 superseded" in browser.run(
        "document.querySelector('[data-stream=gate] [data-drops]').textContent"
    )
    browser.until("/ms old/.test(document.querySelector('[data-stream=cam-7] [data-age]').textContent)")
    # a page that nobody looks at costs nothing
    browser.run(
        "Object.defineProperty(document, 'hidden', {value: true}); document.dispatchEvent(new Event('visibilitychange'))"
    )
    hub = page.view._hub
    for _ in range(600):
        if not hub.viewers:
            break
        threading.Event().wait(0.05)
    assert hub.viewers == 0


def test_events_come_with_their_picture(browser: Browser, page: FedPage) -> None:
    browser.open(page.url)
    browser.until("document.getElementById('connection').textContent === 'connected'")
    page.frame("gate", event("1", rule="<img src=x>"))
    browser.until("document.querySelector('[data-event] img')?.naturalWidth > 0")
    assert "<img src=x>" in browser.run("document.querySelector('[data-event] b').textContent")
    because = {"what": "stayed", "value": 7.09, "limit": 4, "unit": "s"}
    decided = {"gear": {"value": "no-helmet", "score": 0.9}}
    page.view.heard(event("2", type="tracked_object", phase="new", because=because, attributes=decided))
    browser.until("document.querySelectorAll('[data-event]').length === 2")
    assert "because stayed 7.09 s (limit 4 s)" in browser.run(
        "document.querySelector('li.object').textContent"
    )
    assert "gear no-helmet" in browser.run("document.querySelector('li.object').textContent")
    browser.click("[data-objects]")
    assert browser.run("document.querySelector('li.object').getClientRects().length") == 0
    assert browser.run("document.querySelector('li:not(.object)').getClientRects().length") == 1


def test_a_corner_is_dragged_and_saved(browser: Browser, page: FedPage) -> None:
    open_editor(browser, page)
    browser.mouse(at(browser, 0.3, 0.6), at(browser, 0.3, 0.6))  # inside the zone: it is chosen
    browser.until("document.querySelectorAll('.corner').length === 4")
    browser.mouse(at(browser, 0.1, 0.4), at(browser, 0.15, 0.3), at(browser, 0.2, 0.2))
    save(browser)
    polygon = saved(page)["zones"]["yard"]["polygon"]
    assert polygon[:2] == pytest.approx([0.2, 0.2], abs=0.01)
    assert polygon[2:] == [0.6, 0.4, 0.6, 0.9, 0.1, 0.9]
    assert "# people only" in page.file.read_text()


def test_a_zone_is_drawn_named_and_one_that_crosses_itself_refused(browser: Browser, page: FedPage) -> None:
    open_editor(browser, page)
    browser.click("[data-do=zone]")
    browser.run("document.querySelector('.frame').scrollIntoView()")
    for x, y in ((0.3, 0.1), (0.5, 0.1), (0.3, 0.3), (0.5, 0.3), (0.3, 0.1)):
        browser.mouse(at(browser, x, y))
    browser.until("document.querySelectorAll('.shape.crossed').length === 1")
    browser.until("/zone-1 crosses itself/.test(document.querySelector('[data-problem]').textContent)")
    assert browser.run("document.querySelector('[data-do=save]').disabled")
    browser.press("z", control=True)
    browser.until("document.querySelectorAll('.shape').length === 2")
    browser.click("[data-do=zone]")
    browser.press("Enter")  # one in the middle, without a mouse
    browser.until("document.querySelectorAll('.shapes input').length === 3")
    browser.run(
        "(() => { const i = document.querySelectorAll('.shapes input')[1]; const all = [...document.querySelectorAll('.shapes input')];"
        " const mine = all.find(x => x.value === 'zone-1'); mine.value = 'door'; mine.dispatchEvent(new Event('input')); })()"
    )
    save(browser)
    assert saved(page)["zones"]["door"] == {"polygon": [0.35, 0.35, 0.65, 0.35, 0.65, 0.65, 0.35, 0.65]}


def test_what_is_not_saved_is_not_closed_without_a_question(browser: Browser, page: FedPage) -> None:
    open_editor(browser, page)
    browser.run("window.confirm = (text) => { window.asked = text; return Boolean(window.answer); }")
    browser.mouse(at(browser, 0.3, 0.6), at(browser, 0.3, 0.6))
    browser.until("document.querySelectorAll('.corner').length === 4")
    browser.mouse(at(browser, 0.1, 0.4), at(browser, 0.15, 0.3), at(browser, 0.2, 0.2))
    browser.click("[data-do=close]")
    assert "not saved" in browser.until("window.asked")
    assert browser.run("document.querySelector('svg[data-editing]') !== null")
    # closed while the answer to "Save" is on its way: that is no problem to tell
    browser.until("!document.querySelector('[data-do=save]').disabled")
    browser.run(
        "window.answer = true; for (const b of ['save', 'close']) document.querySelector(`[data-do=${b}]`).click()"
    )
    browser.until("document.querySelector('[data-said]').textContent.includes('Saved')")
    assert browser.run("document.querySelector('[data-problem]').textContent") == ""
    assert saved(page)["zones"]["yard"]["polygon"][:2] == pytest.approx([0.2, 0.2], abs=0.01)


def test_a_line_is_drawn_and_turned(browser: Browser, page: FedPage) -> None:
    open_editor(browser, page)
    browser.click("[data-do=line]")
    browser.run("document.querySelector('.frame').scrollIntoView()")
    browser.mouse(at(browser, 0.1, 0.2))
    browser.mouse(at(browser, 0.5, 0.2))
    browser.until("document.querySelectorAll('.shape.line').length === 2")
    browser.click(".shapes li.chosen button[aria-label='turn the direction']")
    save(browser)
    line = saved(page)["rules"][-1]
    assert line["id"] == "line-1"
    assert line["line"] == pytest.approx([0.5, 0.2, 0.1, 0.2], abs=0.01)


def test_corners_are_moved_added_and_deleted_with_keys(browser: Browser, page: FedPage) -> None:
    open_editor(browser, page)
    browser.mouse(at(browser, 0.3, 0.6), at(browser, 0.3, 0.6))
    browser.until("document.querySelectorAll('.between').length === 4")
    # the dot between the last corner and the first becomes a corner
    browser.mouse(at(browser, 0.1, 0.65), at(browser, 0.05, 0.65))
    browser.until("document.querySelectorAll('.corner').length === 5")
    browser.run("document.querySelector('[data-corner=\"0\"]').focus()")
    for _ in range(5):
        browser.press("ArrowRight")
    browser.run("document.querySelector('[data-corner=\"2\"]').focus()")
    browser.press("Delete")
    browser.until("document.querySelectorAll('.corner').length === 4")
    save(browser)
    polygon = saved(page)["zones"]["yard"]["polygon"]
    assert polygon == pytest.approx([0.11, 0.4, 0.6, 0.4, 0.1, 0.9, 0.05, 0.65], abs=0.01)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_at_the_side(browser: Browser, page: FedPage, width: int) -> None:
    browser.resize(width, 844)
    for path in ("/", "/streams/gate"):
        browser.open(page.url + path)
        browser.until("document.querySelector('.frame.sized') !== null")
        assert browser.run("document.documentElement.scrollWidth") <= width
