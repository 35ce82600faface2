"""The dashboard of a controller whose broker is a dictionary, asked without a server."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import BaseModel
from support.bundle import make_bundle
from support.controller import T, World

from edgectl.core.files import digest_of, hex_of
from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import Conn, Failure, Frames, Reported, ReportedSlot, StreamStats, Telemetry
from edgectl.fleet.api.app import make_app
from edgectl.fleet.rollouts.values import RolloutProgress
from edgectl.fleet.store.inventory import Device, Release
from edgectl.fleet.web.app import Dashboard

__all__ = [
    "OLD",
    "ORIGIN",
    "TOKEN",
    "Bet",
    "DashWorld",
    "Judged",
    "Tags",
    "Visitor",
    "histogram",
    "many_devices",
]

TOKEN = "t" * 43
ORIGIN = "http://127.0.0.1:8765"
SITES, PROFILES = ("north", "south", "east", "west"), ("jetson-orin", "jetson-nano", "cpu")
OLD = "sha256:" + "a" * 64


class Visitor:
    """A browser without scripts: it keeps cookies, and names its origin."""

    def __init__(self, app: Any, address: str = "127.0.0.1") -> None:
        self._app = app
        self._address = address
        self.cookies = httpx.Cookies()
        self.headers = {"origin": ORIGIN}

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.send("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.send("POST", path, **options)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=(self._address, 1234))
            async with httpx.AsyncClient(
                transport=transport, base_url=ORIGIN, cookies=self.cookies, headers=self.headers
            ) as client:
                answer = await client.request(method, path, **options)
                self.cookies = client.cookies
                return answer

        return asyncio.run(once())


class DashWorld(World):
    """``browser`` has signed in."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)
        self.clock_s = 1000.0
        self.serve()

    def serve(self) -> None:
        """From the controller as it is now: also after :meth:`boot`."""
        self.dashboard = Dashboard(self.controller, TOKEN, clock=lambda: self.clock_s)
        self.app = make_app(self.controller, TOKEN, self.dashboard)
        self.browser = self.new_browser()
        assert self.sign_in().status_code == 303

    def close(self) -> None:
        self.dashboard.close()
        self.controller.inventory.close()

    def new_browser(self, address: str = "127.0.0.1") -> Visitor:
        return Visitor(self.app, address)

    def sign_in(self, token: str = TOKEN, **more: str) -> Any:
        return self.browser.post("/login", data={"token": token, **more})

    def page(self, path: str, status: int = 200) -> str:
        """A page as it is now, not as it was a second ago."""
        self.clock_s += 100
        answer = self.browser.get(path)
        assert answer.status_code == status, answer.text
        text: str = answer.text
        return text

    def word(self) -> str:
        found = re.search(r'name="word" value="([^"]+)"', self.browser.get("/events").text)
        assert found is not None
        return found[1]

    def act(self, path: str, **form: str) -> Any:
        return self.browser.post(path, data={"word": self.word(), **form})

    def add_device(
        self, name: str, *, state: State = State.COMMITTED, error: str | None = None, **conn: Any
    ) -> None:
        """It was born, and has reported a slot ``gate``."""
        self.hears(T.conn(name), Conn(epoch=1, online=True, slots=("gate",), **conn))
        failure = Failure(code="health", detail=error) if error else None
        slot = ReportedSlot(state=state, active=OLD, active_release="gate@1", error=failure)
        self.hears(T.reported(name), Reported(epoch=1, seq=1, gen=0, slots={"gate": slot}))

    def measures(self, name: str, seq: int = 1, *, digest: str = OLD, ms: float = 5.0, **stats: Any) -> None:
        frames = Frames(captured=110, processed=100, dropped={"superseded": 8, "late": 2})
        stream = StreamStats(
            kind="surveillance",
            slots={"gate": digest},
            stages={"engine:gate": histogram(ms).data()},
            **{"frames": frames, "fps": 12.5, **stats},
        )
        self.hears(T.telemetry(name), Telemetry(epoch=1, seq=seq, window_s=1.0, streams={"yard": stream}))

    def publish(self, name: str, version: str, **bundle: Any) -> Release:
        """A release whose blobs are here."""
        root = make_bundle(self.folder / f"{name}-{version}", name=name, version=version, **bundle)
        return self.take(root, name, version)

    def take(self, root: Path, name: str, version: str) -> Release:
        """A bundle, or the layout of a configuration."""
        blobs = self.controller.blobs
        for blob in (root / "blobs/sha256").iterdir():
            (blobs.folder / blob.name).write_bytes(blob.read_bytes())
        digest = digest_of((root / "index.json").read_bytes())
        (blobs.folder / hex_of(digest)).write_bytes((root / "index.json").read_bytes())
        release = Release(f"{name}@{version}", digest, ("cpu",), 1_700_000_000.0)
        self.controller.inventory.save_release(release)
        return release


class Bet(BaseModel):
    """A record of a gate, as good as any."""

    gate: str
    stratum: str = ""
    allowed: float
    alpha: float
    log_wealth: float
    at_s: float = 1_700_000_000.0
    devices: tuple[int, ...] = ()
    lacking: tuple[str, ...] = ()
    reason: str = ""


class Judged(RolloutProgress):
    decisions: tuple[Bet, ...] = ()


def histogram(ms: float, n: int = 800, seed: int = 0) -> Histogram:
    """Log-normal around ``ms``."""
    h = Histogram()
    for us in np.random.default_rng(seed).lognormal(np.log(ms * 1000), 0.25, n):
        h.record(float(us))
    return h


def many_devices(n: int) -> list[Device]:
    """``n`` devices at four sites, of three profiles: one in fifty is away, one in a hundred has failed."""
    found = []
    for i in range(n):
        bad = i % 100 == 7
        slot = ReportedSlot(
            state=State.FAILED if bad else State.COMMITTED,
            active=OLD,
            active_release="gate@1",
            error=Failure(code="golden", detail="output y differs from golden") if bad else None,
        )
        conn = Conn(
            epoch=1,
            online=i % 50 != 3,
            agent="0.1.0",
            profile=PROFILES[i % 3],
            facts=("arch:aarch64", "sm:8.7", "runtime:onnxruntime"),
            labels={"site": SITES[i % 4], "rack": str(i % 40)},
            slots=("gate",),
            streams={"yard": "surveillance"},
        )
        found.append(
            Device(
                f"cam-{i:05d}", conn, Reported(epoch=1, seq=1, gen=0, slots={"gate": slot}), seen_s=1.7e9 + i
            )
        )
    return found


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and its text without the titles of pictures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._aside = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._aside += tag in ("title", "desc")
        self.text += " "

    def handle_endtag(self, tag: str) -> None:
        self._aside -= tag in ("title", "desc")

    def handle_data(self, data: str) -> None:
        self.text += data if not self._aside else ""
