"""Real agents on a real broker that is killed, and a disk that was copied."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port, start_mosquitto
from support.fleet import Fleet, wait_until

PERSISTENT = (
    "persistence true\npersistence_location {folder}/\nautosave_interval 1\nautosave_on_changes true\n"
)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = start_mosquitto(folder, free_port(), extra=PERSISTENT.format(folder=folder))
    fleet = Fleet(tmp_path / "fleet", broker.port, free_port())
    fleet.broker = broker  # type: ignore[attr-defined]
    fleet.start_controller()
    yield fleet
    fleet.close()
    fleet.broker.process.terminate()  # type: ignore[attr-defined]
    fleet.broker.process.wait(10)  # type: ignore[attr-defined]


def of(fleet: Fleet, name: str) -> dict[str, Any]:
    return next(d for d in fleet.client.devices() if d["name"] == name)


def test_who_vanished_with_the_broker_is_away_and_who_is_there_is_not(fleet: Fleet) -> None:
    for name in ("gate-1", "gate-2"):
        fleet.enroll(name, heartbeat_s=2.0)
        fleet.start_agent(name)
    wait_until(lambda: all(of(fleet, n)["online"] for n in ("gate-1", "gate-2")), "both are online")
    broker = fleet.broker  # type: ignore[attr-defined]
    broker.process.send_signal(signal.SIGKILL)
    broker.process.wait()
    fleet.kill_agent("gate-1")
    fleet.broker = start_mosquitto(broker.folder, broker.port, extra=PERSISTENT.format(folder=broker.folder))  # type: ignore[attr-defined]
    wait_until(lambda: not of(fleet, "gate-1")["online"], "who vanished is known to be away")
    wait_until(lambda: of(fleet, "gate-2")["online"], "who is there is online")
    assert any("nothing was heard" in e["text"] for e in fleet.client.events(about="gate-1"))


def test_copy_of_a_disk_is_told_of_and_the_true_device_is_there_when_it_goes(fleet: Fleet) -> None:
    fleet.enroll("gate-1", heartbeat_s=1.0)
    fleet.start_agent("gate-1")
    wait_until(lambda: of(fleet, "gate-1")["reported"], "the device reports")
    true = of(fleet, "gate-1")["conn"]["instance"]
    # what is being written has a name that begins with a dot, until it is whole
    copied = shutil.ignore_patterns(".*")
    shutil.copytree(fleet.folder / "gate-1", fleet.folder / "copy", ignore=copied)
    fleet.start_agent("copy")
    rivals = wait_until(lambda: of(fleet, "gate-1")["rivals"], "both machines are told of")
    assert {c["instance"] for c in rivals} > {true}
    assert all(c["address"] == "127.0.0.1" for c in rivals)
    assert of(fleet, "gate-1")["online"]
    fleet.kill_agent("copy")
    wait_until(lambda: not of(fleet, "gate-1")["rivals"], "only one machine claims to be the device")
    device = of(fleet, "gate-1")
    assert device["online"]
    assert device["conn"]["instance"] == true
    assert fleet.client.command("gate-1", "probe")
    wait_until(
        lambda: of(fleet, "gate-1")["reported"]["instance"] == true, "what the true device says counts"
    )
