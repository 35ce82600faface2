from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port
from prometheus_client.parser import text_string_to_metric_families
from support.dashboard import TOKEN, DashWorld, Visitor
from support.prometheus import read_families, running_prometheus

from edgectl.fleet.api.app import ApiServer
from edgectl.fleet.config import ApiConfig
from edgectl.fleet.telemetry.exposition import PROTOBUF
from edgectl.fleet.telemetry.families import METRICS


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DashWorld]:
    world = DashWorld(tmp_path, monkeypatch)
    yield world
    world.close()


def scrape(world: DashWorld, **headers: str) -> Any:
    visitor = Visitor(world.app, headers.pop("address", "127.0.0.1"))
    return visitor.send("GET", headers.pop("path", "/metrics"), headers={"host": "127.0.0.1:8765", **headers})


def read(world: DashWorld) -> dict[tuple[str, ...], float]:
    """Name and labels (in the order of their names) → value."""
    answer = scrape(world)
    assert answer.status_code == 200, answer.text
    return {
        (s.name, *(s.labels[name] for name in sorted(s.labels))): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
    }


def test_scrape_tells_the_fleet(world: DashWorld) -> None:
    for name, profile in (("a", "cpu"), ("b", "cpu"), ("c", "jetson-orin")):
        world.add_device(name, profile=profile)
    world.controller.enroll("never")
    release = world.publish("gate", "1")
    for seq in (1, 2):
        world.measures("a", seq, digest=release.digest)
        world.measures("c", seq, digest=release.digest)
    world.rollout("2", "a")
    world.tick()
    found = read(world)
    assert found["edgectl_devices", "online", "cpu"] == 2
    assert found["edgectl_devices", "online", "jetson-orin"] == 1
    assert found["edgectl_devices", "never", ""] == 1
    assert found["edgectl_rollouts", "running"] == 1
    assert found["edgectl_stage_latency_microseconds_count", "cpu", "gate@1", "gate", "engine"] == 1600
    assert found["edgectl_frames_dropped_total", "late", "surveillance"] == 0
    assert found["edgectl_telemetry_messages_total",] == 4
    assert found["edgectl_database_bytes",] > 4096
    assert found["edgectl_queue_length", "telemetry"] == 0
    assert found["edgectl_frozen",] == 0


def test_whoever_asks_for_it_gets_native_histograms_of_every_metric(world: DashWorld) -> None:
    world.add_device("a", profile="cpu")
    world.measures("a")
    world.tick()
    answer = scrape(world, accept=f"{PROTOBUF}, text/plain;q=0.1")
    assert answer.headers["content-type"] == PROTOBUF
    found = read_families(answer.content)
    assert found.keys() == METRICS.keys()
    assert found["edgectl_stage_latency_microseconds"].metric[0].histogram.sample_count == 800


@pytest.mark.parametrize(
    ("access", "headers", "status"),
    [
        ("loopback", {}, 200),
        ("loopback", {"address": "10.0.0.7"}, 401),
        ("loopback", {"address": "10.0.0.7", "authorization": f"Bearer {TOKEN}"}, 200),
        ("loopback", {"host": "rebound.example:8765"}, 401),
        ("loopback", {"host": "[::1]:8765", "address": "::1"}, 200),
        ("loopback", {"host": "[::1"}, 401),
        ("loopback", {"x-forwarded-for": "10.0.0.7"}, 401),
        ("loopback", {"authorization": "Bearer wrong"}, 200),
        ("token", {}, 401),
        ("token", {"authorization": f"Bearer {TOKEN}"}, 200),
        ("off", {"authorization": f"Bearer {TOKEN}"}, 404),
    ],
)
def test_metrics_are_for_this_machine_or_whoever_has_the_token(
    world: DashWorld, access: Any, headers: dict[str, str], status: int
) -> None:
    world.controller.config = world.config(api=ApiConfig(metrics=access))
    assert scrape(world, **headers).status_code == status


def test_many_who_ask_cost_as_much_as_one(world: DashWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    devices = world.controller.devices
    monkeypatch.setattr(world.controller, "devices", lambda: asked.append(1) or devices())
    for _ in range(5):
        scrape(world)
    assert len(asked) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus: apt-get install prometheus")
def test_real_prometheus_reads_native_histograms_and_all_else(world: DashWorld, tmp_path: Path) -> None:
    world.add_device("a", profile="cpu")
    world.measures("a", ms=5.0)
    world.tick()
    port = free_port()
    world.controller.config = world.config(api=ApiConfig(port=port))
    server = ApiServer(world.controller, TOKEN)
    server.start()
    (tmp_path / "prometheus").mkdir()
    try:
        with running_prometheus(tmp_path / "prometheus", f"127.0.0.1:{port}") as query:
            (found,) = query("histogram_quantile(0.5, edgectl_stage_latency_microseconds)")
            assert float(found["value"][1]) == pytest.approx(5000, rel=0.03)
            assert found["metric"]["profile"] == "cpu"
            names = {s["metric"]["__name__"] for s in query('{__name__=~"edgectl_.+"}')}
            empty = {"edgectl_rollouts", "edgectl_frames_processed_total", "edgectl_frames_dropped_total"}
            assert METRICS.keys() - names <= {*empty, "edgectl_stream_errors_total"}
    finally:
        server.close()
