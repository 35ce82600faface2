"""``edgectl telemetry`` against a controller whose broker is a dictionary, through its API."""

from __future__ import annotations

import asyncio
import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.controller import DIGEST, T, World
from support.dashboard import histogram
from typer.testing import CliRunner, Result

from edgectl.cli import _controller
from edgectl.cli.main import app
from edgectl.core.errors import EdgectlError
from edgectl.core.histogram import Histogram, HistogramData
from edgectl.core.wire import Conn, StreamStats, Telemetry
from edgectl.fleet.api.app import make_app
from edgectl.fleet.client.client import FleetClient
from edgectl.fleet.store.inventory import Release


class AppTransport(httpx.BaseTransport):
    """Requests go to an application in this process."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def once() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app)) as client:
                return await client.request(request.method, request.url, headers=request.headers)

        answer = asyncio.run(once())
        return httpx.Response(answer.status_code, content=answer.content)


class Fleet(World):
    """Two releases in one slot of two profiles."""

    seq = 0

    def measures(self, device: str, version: str, ms: float, *, ago_h: float = 0.0, **changes: Any) -> None:
        self.seq += 1
        stats = StreamStats(
            kind="surveillance",
            slots={"gate": DIGEST[version]},
            stages={"engine:gate": histogram(ms, seed=self.seq).data()},
        )
        told = Telemetry(
            epoch=1, seq=self.seq, wall_s=time.time() - ago_h * 3600, window_s=60.0, streams={"yard": stats}
        )
        self.hears(T.telemetry(device), told.model_copy(update={"replay": ago_h > 0, **changes}))


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, monkeypatch)
    for device, profile in (("a", "cpu"), ("b", "jetson-orin")):
        fleet.hears(T.conn(device), Conn(epoch=1, online=True, slots=("gate",), profile=profile))
    for version in "12":
        fleet.controller.inventory.save_release(Release(f"gate@{version}", DIGEST[version], (), 1.0))
    for h in range(10):
        fleet.measures("a", "1", 5.0, ago_h=30 + h)
        fleet.measures("a", "2", 6.0, ago_h=h)
    fleet.measures("b", "2", 9.0, power_mode="15W", throttled=("thermal",))
    fleet.tick()
    api = AppTransport(make_app(fleet.controller, "t"))

    def client(*_: object) -> FleetClient:
        found = FleetClient("http://test", "t")
        found._http.close()
        found._http = httpx.Client(
            transport=api, base_url="http://test/v1", headers={"Authorization": "Bearer t"}
        )
        return found

    monkeypatch.setattr(_controller, "client", client)
    yield fleet
    fleet.controller.inventory.close()


def ask(*args: str, code: int = 0, env: dict[str, str] | None = None) -> Result:
    found = CliRunner(env=env).invoke(app, ["telemetry", *args])
    assert found.exit_code == code, found.output
    return found


@pytest.mark.usefixtures("fleet")
def test_what_was_measured_is_told_by_class_and_filtered() -> None:
    rows = json.loads(ask("query", "--json").stdout)["rows"]
    assert [(r["release"], r["profile"], r["power_mode"], r["throttled"], r["samples"]) for r in rows] == [
        ("gate@1", "cpu", "", False, 8000),
        ("gate@2", "cpu", "", False, 8000),
        ("gate@2", "jetson-orin", "15W", True, 800),
    ]
    assert rows[1]["p50_ms"] == pytest.approx(6.0, rel=0.03)
    assert rows[1]["p999_ms"] is not None
    assert rows[2]["p999_ms"] is None
    assert rows[2]["p99_ms"] is not None
    for args, n in (
        (["--release", "gate@2"], 2),
        (["--release", "gate@2", "--profile", "cpu"], 1),
        (["--throttled"], 1),
        (["--not-throttled"], 2),
        (["--power-mode", ""], 2),
        (["--stage", "pre"], 0),
        (["--since", "12h"], 2),
        (["--until", "24h"], 1),
    ):
        assert len(json.loads(ask("query", "--json", *args).stdout)["rows"]) == n, args
    assert "15W, throttled" in " ".join(ask("query", env={"COLUMNS": "160"}).stdout.split())
    assert "there are more: --after 2" in ask("query", "--limit", "2").stderr
    assert len(json.loads(ask("query", "--json", "--after", "2").stdout)["rows"]) == 1


@pytest.mark.usefixtures("fleet")
def test_release_is_compared_with_the_one_before_class_by_class() -> None:
    found = json.loads(ask("query", "--release", "gate@2", "--against", "gate@1", "--json").stdout)
    (row,) = found["rows"]
    assert row["profile"] == "cpu"
    assert [(p["percentile"], p["verdict"], p["by"]) for p in row["percentiles"]] == [
        (p, "slower", "hours") for p in (50.0, 90.0, 95.0, 99.0)
    ]
    assert all(p["low"] < 1.2 < p["high"] for p in row["percentiles"])
    assert [of["profile"] for of in found["alone"]] == ["jetson-orin"]
    shown = ask("query", "--release", "gate@2", "--against", "gate@1").stdout
    assert "1 classes have no counterpart" in shown


@pytest.mark.usefixtures("fleet")
def test_every_hour_is_exported_with_a_histogram_that_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.cli.telemetry._PAGE", 2)
    rows = [json.loads(line) for line in ask("export").stdout.splitlines()]
    assert len(rows) == 21
    whole = Histogram.merged(Histogram.of(HistogramData.model_validate(r["histogram"])) for r in rows)
    assert whole.n == 16_800
    done = ask("export", "--format", "csv", "--out", str(tmp_path / "out.csv"), "--json")
    assert json.loads(done.stdout)["rows"] == 21
    with (tmp_path / "out.csv").open() as f:
        table = list(csv.DictReader(f))
    assert sum(int(r["samples"]) for r in table) == 16_800
    assert {r["release"] for r in table} == {"gate@1", "gate@2"}


def test_name_that_a_spreadsheet_would_compute_is_text(fleet: Fleet, tmp_path: Path) -> None:
    fleet.measures("b", "2", 9.0, power_mode="=HYPERLINK(1)")
    fleet.controller._count_s = 0.0
    fleet.tick()
    text = ask("export", "--format", "csv").stdout
    assert ",'=HYPERLINK(1)," in text


@pytest.mark.usefixtures("fleet")
def test_what_cannot_be_asked_is_said_in_a_sentence(tmp_path: Path) -> None:
    def why(*args: str) -> str:
        found = CliRunner().invoke(app, ["telemetry", *args])
        assert isinstance(found.exception, EdgectlError), found.output
        return found.exception.message

    assert why("query", "--release", "gate@9") == "gate@9 is not published"
    assert why("query", "--release", "gate@1", "--against", "gate@9") == "gate@9 is not published"
    assert "--against compares" in why("query", "--against", "gate@1")
    assert "cannot be written" in why("export", "--out", str(tmp_path / "no" / "x"))
    assert "is no time like" in ask("query", "--since", "yesterday", code=2).stderr
    assert "nothing was measured" in ask("query", "--stage", "none").stderr
