"""`edgectl device show` and `diagnose` over a real controller, broker and agent."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Broker, free_port
from support.bundle import make_bundle
from support.fleet import Fleet, wait_until

from edgectl.cli.device import diagnosis
from edgectl.core.errors import UsageError


@pytest.fixture
def fleet(mosquitto: Broker, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, mosquitto.port, free_port())
    fleet.start_controller()
    fleet.enroll("gate-1", labels={"site": "north"})
    fleet.start_agent("gate-1")
    fleet.wait_online("gate-1")
    yield fleet
    fleet.close()


def test_show_has_machine_slots_streams_and_events_on_one_screen(fleet: Fleet, tmp_path: Path) -> None:
    release = fleet.publish(make_bundle(tmp_path / "v1", version="1.0.0"))
    fleet.wait_rollout(fleet.rollout(release), "done")
    wait_until(lambda: fleet.client.rows(), "telemetry came")
    said = fleet.cli("device", "show", "gate-1").output
    assert "gate-1: online" in said
    assert "labels: site=north" in said
    assert "gate-detector  committed  gate-detector@1.0.0  gate-detector@1.0.0" in said
    assert "yard" in said
    assert "MiB free" in said
    assert "enrolled" in said
    found = json.loads(fleet.cli("device", "show", "gate-1", "--json").output)
    assert found["reported"]["slots"]["gate-detector"]["state"] == "committed"
    assert found["machine"]["resources"]["memory_total_mb"] > 0


def test_device_that_there_is_not_is_told_with_what_may_have_been_meant(fleet: Fleet) -> None:
    result = fleet.cli("device", "show", "gate-2", ends=UsageError)
    assert result.exception.message.startswith("there is no device gate-2: ")
    assert "gate-1" in result.exception.message


def test_diagnosis_holds_all_parts_without_credentials_and_says_what_a_dead_device_did_not_answer(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = fleet.publish(make_bundle(tmp_path / "v1", version="1.0.0"))
    fleet.wait_rollout(fleet.rollout(release), "done")
    telemetry = [{"device": "gate-1", "stream": "yard", "error": "rtsp://cam:geheim@nas/1 is gone"}]
    monkeypatch.setattr("edgectl.fleet.client.client.FleetClient.rows", lambda self: telemetry)
    target = tmp_path / "d.tar.gz"
    said = json.loads(fleet.cli("device", "diagnose", "gate-1", "--out", target, "--json").output)
    assert said["missing"] == []
    with tarfile.open(target) as tar:
        parts = {Path(m.name).stem: json.loads(tar.extractfile(m).read()) for m in tar}  # type: ignore[union-attr]
    asked = {"health", "logs", "probe"}
    assert parts.keys() == asked | {"device", "events", "fleet", "machine", "rollouts", "telemetry"}
    assert parts["rollouts"][0]["members"].keys() == {"gate-1"}
    assert "geheim" not in json.dumps(parts)
    result = fleet.cli("device", "diagnose", "gate-1", "--out", target, ends=UsageError)
    assert "is there already" in result.exception.message
    fleet.stop_agent("gate-1")
    wait_until(lambda: not fleet.client.devices()[0]["online"], "it is away")
    again = fleet.cli("device", "diagnose", "gate-1", "--out", tmp_path / "e.tar.gz", "--timeout", "1").output
    assert "not there: health, logs, probe; why stands in the file" in again


def test_part_that_is_too_large_is_cut_off_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(diagnosis, "_MOST_BYTES", 100)
    (tmp_path / "x").write_bytes(diagnosis._packed("gate-1", {"events": ["x" * 500]}))
    with tarfile.open(tmp_path / "x") as tar:
        text = tar.extractfile("gate-1-diagnosis/events.json").read()  # type: ignore[union-attr]
    assert text.endswith(b"\n... cut off\n")
    assert len(text) < 130
