"""The dashboard of a fleet of ten thousand devices: first paint, how old its numbers are, bytes of its pages, and what a
viewer costs the controller.

A real ``edgectl controller run`` in a process of its own, on a real broker (mosquitto). The devices are written into its
database before it starts; then each sends telemetry once a minute, as devices do, and now and then one says that a slot
has failed or works again.

* First paint is what Chromium's performance API says (first-contentful-paint) of a page that it opens with an empty cache.
* The delay counts from before a device's report is handed to the broker until Chromium shows it on the page of devices.
* A viewer reads one page's stream, as the page does. Processor time is that of all threads of the controller, in turns
  with viewers and without, so that what else the machine does hits both.

    python bench/dashboard.py --devices 10000 --turns 5 --seconds 20
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto
from support.browser import CHROMIUM, Browser
from support.dashboard import OLD, histogram, many_devices

from edgectl.core.errors import LinkError, UsageError
from edgectl.core.states import State
from edgectl.core.wire import Failure, Frames, Reported, ReportedSlot, StreamStats, Telemetry, Topics
from edgectl.fleet.client.client import FleetClient
from edgectl.fleet.keys.ceremony import init_keys
from edgectl.fleet.rollouts.values import DeviceOutcome, Member, RolloutProgress, RolloutSpec
from edgectl.fleet.store.inventory import Device, Inventory, Release
from edgectl.link.mqtt import BrokerOptions, Link

T = Topics("home")
PAINT_MS, DELAY_S, PAGE_BYTES, CORE = 1000.0, 2.0, 500_000, 0.02
NEW = "sha256:" + "b" * 64


class Fleet:
    """Speaks for the devices."""

    def __init__(self, devices: list[Device], port: int) -> None:
        self._devices = devices
        self._link = Link(BrokerOptions("127.0.0.1", port), "devices", queue_size=65536)
        self._link.start()
        self._stop = threading.Event()
        self._seq = 1
        self._said: dict[str, int] = {}
        self._data = histogram(6.0, n=600).data()
        self._thread = threading.Thread(target=self._talk)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._link.close()

    def report(self, name: str, state: State) -> None:
        self._said[name] = self._said.get(name, 1) + 1
        error = Failure(code="golden", detail=f"report {self._said[name]}") if state is State.FAILED else None
        slot = ReportedSlot(state=state, active=OLD, active_release="gate@1", error=error)
        report = Reported(epoch=1, seq=self._said[name], gen=0, slots={"gate": slot})
        self._link.publish(T.reported(name), report.encode(), retain=True, timeout_s=10)

    def last(self, name: str) -> str:
        return f"report {self._said[name]}"

    def telemetry(self, name: str, seq: int) -> None:
        frames = Frames(captured=600 * seq, processed=599 * seq, dropped={"superseded": seq})
        stats = StreamStats(
            kind="surveillance",
            slots={"gate": OLD},
            stages={"engine:gate": self._data},
            frames=frames,
            fps=10.0,
        )
        message = Telemetry(epoch=1, seq=seq, window_s=60.0, streams={"yard": stats})
        self._link.publish(T.telemetry(name), message.encode(), timeout_s=10)

    def _talk(self) -> None:
        """Everybody once a minute, and one change of state a second."""
        step_s = 60.0 / len(self._devices)
        due_s = time.monotonic()
        while not self._stop.is_set():
            self._seq += 1
            for i, d in enumerate(self._devices):
                if self._stop.is_set():
                    return
                self.telemetry(d.name, self._seq)
                if i % max(1, round(1 / step_s)) == 0:
                    self.report(d.name, State.FAILED if self._seq % 2 else State.COMMITTED)
                due_s += step_s
                if (wait_s := due_s - time.monotonic()) > 0:
                    self._stop.wait(wait_s)


@contextmanager
def controller(
    folder: Path, devices: list[Device], broker: int
) -> Iterator[tuple[psutil.Process, FleetClient]]:
    init_keys(folder / "keys")
    inventory = Inventory(folder / "state")
    inventory.save_devices(devices)
    inventory.save_release(Release("gate@1", OLD, (), 1.7e9))
    inventory.save_release(Release("gate@2", NEW, (), 1.7e9))
    spec = RolloutSpec(id="gate-1", release="gate@2", digest=NEW, slot="gate", canary=10)
    inventory.save_rollout(spec, rollout(devices))
    inventory.close()
    api = free_port()
    config = folder / "controller.toml"
    config.write_text(
        f'fleet = "home"\nstate_dir = "state"\nkeys = "keys"\n[broker]\nhost = "127.0.0.1"\nport = {broker}\n[api]\nport = {api}\n'
    )
    with (folder / "controller.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgectl.cli", "controller", "run", "--config", str(config)],
            stderr=log,
            stdout=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        while True:
            try:
                client = FleetClient.of(f"http://127.0.0.1:{api}", folder / "state" / "token")
                client.state()
                break
            except (LinkError, UsageError):
                if process.poll() is not None:
                    raise
                time.sleep(0.1)
        with client:
            yield psutil.Process(process.pid), client
    finally:
        process.terminate()
        process.wait(30)


def rollout(devices: list[Device]) -> RolloutProgress:
    """Of all of them, over: its page and the list of rollouts have to be shown, and nobody is asked anything."""
    members = {
        d.name: Member(wave=min(1, i // 10), outcome=DeviceOutcome.RESTORED, admitted_s=1.7e9)
        for i, d in enumerate(devices)
    }
    return RolloutProgress.model_validate(
        {"state": "aborted", "reason": "aborted by the operator", "members": members}
    )


class Viewer:
    """Reads a page's stream until it is closed."""

    def __init__(self, url: str, cookies: httpx.Cookies, path: str) -> None:
        self.events = 0
        self.bytes = 0
        self._client = httpx.Client(timeout=60, cookies=cookies)
        self._answer = self._client.send(self._client.build_request("GET", f"{url}/live{path}"), stream=True)
        if self._answer.status_code != 200:
            raise RuntimeError(f"{path}: {self._answer.status_code}")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._answer.iter_lines():
            self.bytes += len(line)
            self.events += line.startswith("data:")
            if self._over.is_set():
                return

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._answer.close()
        self._client.close()


def cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def share(process: psutil.Process, seconds: float) -> float:
    began, at = cpu_s(process), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(process) - began) / (time.monotonic() - at)


def costs(
    process: psutil.Process,
    url: str,
    cookies: httpx.Cookies,
    path: str,
    viewers: int,
    turns: int,
    seconds: float,
) -> float:
    """Of a core, that each of ``viewers`` costs: the median of the turns."""
    found = []
    for _ in range(turns):
        without = share(process, seconds)
        watching = [Viewer(url, cookies, path) for _ in range(viewers)]
        time.sleep(1.5)  # what each gets first is no part of it
        with_ = share(process, seconds)
        for viewer in watching:
            viewer.close()
        found.append((with_ - without) / viewers)
    return statistics.median(found)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {"devices": options.devices}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        devices = many_devices(options.devices)
        broker = start_mosquitto(folder, free_port())
        try:
            with controller(folder, devices, broker.port) as (process, client):
                fleet = Fleet(devices, broker.port)
                try:
                    result |= measured(process, client, fleet, folder, options)
                finally:
                    fleet.close()
        finally:
            broker.process.terminate()
            broker.process.wait(10)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0


def measured(
    process: psutil.Process, client: FleetClient, fleet: Fleet, folder: Path, options: argparse.Namespace
) -> dict[str, object]:
    url = client.dashboard_link().partition("/enter")[0]
    pages = (
        "/",
        "/devices",
        "/devices?sort=trouble",
        "/devices?q=label.site+%3D+north",
        "/devices/cam-00010",
        "/rollouts",
        "/rollouts/gate-1",
        "/rollouts/gate-1?outcome=all",
        "/releases",
        "/latency",
        "/events",
    )
    with httpx.Client(timeout=60) as visitor:
        visitor.get(client.dashboard_link())
        sizes, times = {}, {}
        for path in pages:
            took = []
            for _ in range(3):
                began = time.monotonic()
                answer = visitor.get(url + path)
                took.append(time.monotonic() - began)
                if answer.status_code != 200:
                    raise RuntimeError(f"{path}: {answer.status_code}")
            sizes[path], times[path] = len(answer.content), statistics.median(took)
            print(f"{path:40} {sizes[path] / 1000:7.1f} kB  {times[path] * 1000:6.0f} ms")
        print(f"largest page {max(sizes.values()) / 1000:.0f} kB (bound {PAGE_BYTES / 1000:.0f})")
        fleet.start()
        print(
            f"everybody speaks once a minute; without viewers {share(process, options.seconds):.1%} of a core"
        )
        per_viewer = {}
        for path, viewers in (
            ("/", 1),
            ("/devices", 1),
            ("/rollouts/gate-1", 1),
            ("/devices/cam-00010", 1),
            ("/", 8),
        ):
            per_viewer[f"{path} x{viewers}"] = each = costs(
                process, url, visitor.cookies, path, viewers, options.turns, options.seconds
            )
            print(f"{viewers} on {path:24} {each:6.2%} of a core a viewer (bound {CORE:.0%})", flush=True)
    found: dict[str, object] = {"bytes": sizes, "seconds": times, "core_per_viewer": per_viewer}
    if CHROMIUM is not None:
        found |= in_browser(client, fleet, folder, url)
    return found


def in_browser(client: FleetClient, fleet: Fleet, folder: Path, url: str) -> dict[str, object]:
    paints: dict[str, float] = {}
    with Browser(folder) as browser:
        browser.open(client.dashboard_link())
        for path in ("/", "/devices"):
            found = []
            for _ in range(7):
                browser.open("about:blank")
                browser.call("Network.clearBrowserCache")
                browser.open(url + path)
                found.append(
                    browser.until("performance.getEntriesByName('first-contentful-paint')[0]?.startTime || 0")
                )
            paints[path] = statistics.median(found)
            print(
                f"first paint of {path:10} {paints[path]:.0f} ms, at most {max(found):.0f} (bound {PAINT_MS:.0f})"
            )
        delays = []
        name = "cam-00042"
        browser.open(f"{url}/devices?q=name+%3D+{name}")
        browser.until("document.getElementById('connection').textContent === 'live'")
        for i in range(20):
            time.sleep(0.37 * (i % 5))  # at any moment of its second
            began = time.monotonic()
            fleet.report(name, State.FAILED)
            browser.until(f"document.querySelector('main').innerText.includes({fleet.last(name)!r})")
            delays.append(time.monotonic() - began)
        print(
            f"a report is on the page after {statistics.median(delays):.2f} s, at most {max(delays):.2f} s of {len(delays)} (bound {DELAY_S:g} s)"
        )
    return {
        "first_paint_ms": paints,
        "delay_s": {"median": statistics.median(delays), "largest": max(delays)},
    }


if __name__ == "__main__":
    sys.exit(main())
