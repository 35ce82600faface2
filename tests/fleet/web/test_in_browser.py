"""The dashboard in a real browser: a rollout is started, fills, is taken back; a bad one stops. By mouse, by keyboard, and
without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Broker, free_port
from support.browser import CHROMIUM, Browser
from support.bundle import make_bundle
from support.dashboard import TOKEN, DashWorld
from support.fleet import Fleet, wait_until

from edgectl.core.states import State
from edgectl.fleet.api.app import ApiServer
from edgectl.fleet.config import ApiConfig
from edgectl.fleet.rollouts.planner import RolloutRequest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]

QUICK = "probation: {time: 1s, inferences: 130}\ncanary: {devices: 1}\nwaves:\n  - {share: 100%, approval: true}\n"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as browser:
        yield browser
        assert browser.complaints == [], "errors, or what its own policy forbids"


@pytest.fixture
def served(world: DashWorld) -> Iterator[tuple[DashWorld, str]]:
    """A world, and where its dashboard is."""
    api = ApiConfig(port=free_port())
    world.controller.config = world.controller.config.model_copy(update={"api": api})
    server = ApiServer(world.controller, TOKEN)
    world.dashboard.close()
    world.dashboard = server._dashboard
    server.start()
    yield world, f"http://127.0.0.1:{api.port}"
    server.close()


def enter(browser: Browser, world: DashWorld, url: str) -> None:
    browser.open(url + world.dashboard.link()["path"])
    live(browser)


def live(browser: Browser) -> None:
    browser.until("document.getElementById('connection')?.textContent === 'live'")


def says(browser: Browser, text: str) -> None:
    browser.until(f"document.querySelector('main')?.innerText.includes({text!r})")


def act(browser: Browser, link: str, button: str) -> None:
    """Ask for it, read the question, and mean it."""
    browser.click(f"a[data-ask][href$='{link}']")
    browser.until("document.getElementById('ask').open")
    assert button in browser.run("document.querySelector('#ask [data-do]').textContent")
    browser.click("#ask [data-do]")


def start(browser: Browser, url: str, release: str, policy: str) -> str:
    """By the form, with a look at what it would do. Returns the rollout's id."""
    browser.open(f"{url}/rollouts/new")
    browser.type("#release", release)
    browser.type("#slot", "gate-detector")
    browser.click("summary")
    browser.type("#policy", policy)
    browser.click("form.start button")
    browser.until("document.getElementById('start') !== null")
    says(browser, "2 devices, 2 online")
    says(browser, "canary")
    browser.click("#start")
    browser.until("/^\\/rollouts\\/gate-detector-/.test(location.pathname)")
    live(browser)  # the page is whole
    return str(browser.run("location.pathname.split('/')[2]"))


def test_a_rollout_is_started_fills_and_is_taken_back_and_a_bad_one_stops(
    mosquitto: Broker, browser: Browser, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, mosquitto.port, free_port())
    try:
        client = fleet.start_controller()
        releases = [
            fleet.publish(make_bundle(tmp_path / v, version=f"{v[1]}.0.0", **more))
            for v, more in (("v1", {}), ("v2", {}), ("v3", {"latency_ms": 50.0}))
        ]
        for name in ("gate-1", "gate-2"):
            fleet.enroll(name)
            fleet.start_agent(name)
        wait_until(lambda: sum(d["online"] for d in client.devices()) == 2, "both devices are online")
        fleet.wait_rollout(fleet.rollout(releases[0], canary=2), "done")
        url = f"http://127.0.0.1:{fleet.api_port}"

        browser.open(f"{url}/rollouts")
        assert browser.run("location.pathname") == "/login"
        browser.type("#token", (fleet.config.state_dir / "token").read_text())
        browser.click("button")
        browser.until("location.pathname === '/rollouts'")
        says(browser, "gate-detector-1")

        # one that works, on a page that is never loaded again
        good = start(browser, url, releases[1], QUICK)
        browser.run("window.mine = true")
        says(browser, "needs approval")
        browser.until("document.querySelectorAll('rect.k-committed').length >= 1")
        browser.until("document.getElementById('news').textContent.includes('canary: 1 of 1 committed')")
        says(browser, "running")
        assert browser.run("window.mine"), "it filled before one's eyes"
        act(browser, "/approve", "Approve the next wave")
        browser.until("!window.mine")
        says(browser, "approve the next wave is done")
        browser.run("window.mine = true")
        browser.until("document.querySelectorAll('rect.k-committed').length >= 2")
        browser.until("document.querySelector('#part-head .state')?.textContent === 'done'")
        assert browser.run("window.mine")
        browser.until(
            "document.querySelector('#part-latency')?.innerText.includes('before: gate-detector@1.0.0')"
        )

        # one that is bad is stopped by itself, and says why
        bad = start(browser, url, releases[2], QUICK)
        browser.run("window.mine = true")
        browser.until("document.querySelector('#part-head .state')?.textContent === 'stopped'")
        says(browser, "latency")
        assert browser.run("window.mine")
        assert browser.run("document.querySelectorAll('rect.k-committed').length") == 0
        assert fleet.wait_rollout(bad, "stopped")
        for name in ("gate-1", "gate-2"):
            wait_until(lambda n=name: fleet.state_of(n) == "committed", f"{name} is back")  # type: ignore[misc]

        # and the good one is rolled back by hand
        browser.open(f"{url}/rollouts/{good}")
        act(browser, "/rollback", "Roll back")
        browser.until("document.querySelector('#part-head .state')?.textContent === 'rolled back'")
        browser.open(f"{url}/devices")
        says(browser, "gate-detector@1.0.0")
        assert not browser.run("document.querySelector('main').innerText.includes('@2.0.0')")
    finally:
        fleet.close()


def focused(browser: Browser) -> str:
    return str(browser.run("document.activeElement.textContent.trim() || document.activeElement.id"))


def tab_to(browser: Browser, text: str) -> None:
    for _ in range(60):
        browser.press("Tab")
        if focused(browser) == text:
            return
    raise AssertionError(f"no key leads to {text}")


def test_everything_is_done_with_keys(served: tuple[DashWorld, str], browser: Browser) -> None:
    world, url = served
    world.add_device("d")
    enter(browser, world, url)
    browser.press("Tab")
    assert focused(browser) == "Skip to the content"
    assert browser.run("document.activeElement.getBoundingClientRect().left >= 0"), "it is seen"
    browser.press("Enter")
    browser.until("document.activeElement.id === 'main'")
    tab_to(browser, "Freeze …")
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Enter")
    browser.until(
        "document.getElementById('ask').open && document.getElementById('ask').contains(document.activeElement)"
    )
    assert (
        browser.run(
            "document.getElementById(document.getElementById('ask').getAttribute('aria-labelledby')).textContent"
        )
        == "Freeze the fleet"
    )
    assert focused(browser) == "Cancel", "a key that is pressed twice does no harm"
    browser.press("Escape")
    browser.until("!document.getElementById('ask').open")
    browser.until("document.activeElement.textContent === 'Freeze …'")
    assert world.controller.frozen is not True
    browser.press("Enter")
    browser.until("document.getElementById('ask').open")
    browser.until("document.querySelector('#ask [data-do]') !== null")
    while focused(browser) != "Freeze the fleet":
        browser.press("Tab")
    browser.press("Enter")
    says(browser, "The fleet is frozen.")
    assert world.controller.frozen is True


def test_what_has_the_focus_keeps_it_when_the_page_changes(
    served: tuple[DashWorld, str], browser: Browser
) -> None:
    world, url = served
    for name in ("a", "b"):
        world.add_device(name)
    enter(browser, world, url)
    browser.open(f"{url}/devices")
    live(browser)
    browser.run(
        "document.querySelector('a[href=\"/devices/b\"]').focus(); window.before = document.activeElement"
    )
    world.add_device("c", state=State.FAILED, error="<img src=x onerror=alert(1)>")
    says(browser, "<img src=x onerror=alert(1)>")
    assert browser.run("document.activeElement.getAttribute('href')") == "/devices/b"
    assert browser.run("document.activeElement !== window.before"), "it is another element by now"


def test_every_act_asks_without_scripts_too(served: tuple[DashWorld, str], browser: Browser) -> None:
    world, url = served
    world.add_device("d")
    rollout = world.rollout("1")
    browser.scripts(False)
    browser.open(url + world.dashboard.link()["path"])
    browser.open(f"{url}/rollouts/{rollout}")
    browser.click("a[href$='/pause']")
    browser.until("location.pathname.endsWith('/pause')")
    says(browser, "No other device is asked.")
    browser.click("[data-do]")
    says(browser, "pause is done")
    assert world.controller.rollout(rollout)[1].state.value == "paused"


def test_a_page_that_nobody_looks_at_costs_nothing(served: tuple[DashWorld, str], browser: Browser) -> None:
    world, url = served
    enter(browser, world, url)
    browser.run(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
    )
    wait_until(lambda: world.dashboard._streams == 0, "the stream is closed")
    world.add_device("d")
    browser.run(
        "Object.defineProperty(document, 'hidden', {value: false}); document.dispatchEvent(new Event('visibilitychange'))"
    )
    browser.until("document.querySelector('#part-numbers').innerText.includes('1')")
    live(browser)


def test_a_page_says_when_it_is_old_and_goes_on_when_the_controller_is_back(
    served: tuple[DashWorld, str], browser: Browser
) -> None:
    world, url = served
    enter(browser, world, url)
    world.dashboard._over = True
    browser.until("document.getElementById('connection').textContent.includes('old')")
    world.dashboard._over = False
    live(browser)
    browser.complaints.clear()


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_sticks_out_at_the_side(served: tuple[DashWorld, str], browser: Browser, width: int) -> None:
    world, url = served
    release = world.publish("gate", "2", licence="MIT")
    for i in range(12):
        world.add_device(
            f"camera-with-a-rather-long-name-{i:03d}",
            labels={"site": "n" * 60},
            profile="jetson-orin",
            state=State.FAILED,
            error="e" * 400,
        )
        world.measures(f"camera-with-a-rather-long-name-{i:03d}")
    rollout = world.controller.start_rollout(RolloutRequest(release=release.release, slot="gate")).id
    world.tick()
    browser.resize(width, 844)
    enter(browser, world, url)
    for path in (
        "/",
        "/devices",
        "/devices/camera-with-a-rather-long-name-001",
        "/rollouts",
        f"/rollouts/{rollout}",
        "/rollouts/new",
        f"/rollouts/{rollout}/abort",
        "/releases",
        "/releases/gate@2",
        "/latency",
        "/events",
    ):
        browser.open(url + path)
        assert browser.run("document.documentElement.scrollWidth") <= width, path
