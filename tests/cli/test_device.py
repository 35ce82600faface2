"""`edgectl device enroll`, `remove` and `revoke`: what is refused leaves nothing, and who leaves is gone
everywhere. The controller is real, its broker is a dictionary."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port
from support.controller import T, World
from typer.testing import CliRunner

from edgectl.agent.config import load_agent_config
from edgectl.cli import _controller
from edgectl.cli.main import app
from edgectl.core.errors import EdgectlError, StorageError, UsageError
from edgectl.fleet.api.app import ApiServer
from edgectl.fleet.client.client import FleetClient
from edgectl.fleet.config import ApiConfig


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path / "controller", monkeypatch)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    api = ApiConfig(port=free_port())
    world.controller.config = world.controller.config.model_copy(update={"api": api})
    server = ApiServer(world.controller, "token")
    server.start()
    monkeypatch.setattr(
        _controller, "client", lambda url, token_file: FleetClient(f"http://127.0.0.1:{api.port}", "token")
    )
    yield world
    server.close()
    world.controller.inventory.close()


def edgectl(words: str) -> Any:
    told = CliRunner().invoke(app, [*words.split(), "--json"], env={"COLUMNS": "200"})
    if told.exception is not None:
        raise told.exception
    return json.loads(told.stdout)


def names(world: World) -> set[str]:
    return {d.name for d in world.controller.devices()}


@pytest.mark.parametrize(
    "option",
    [
        "--stream bad=rtsp://x",
        "--stream surveillance",
        "--stream speech=mic --slot a=b --slot c=d",
        "--stream surveillance=rtsp://x --slot detector=No/Slot",
        "--stream surveillance=rtsp://x --slot Detector=gate",
        "--stream surveillance=rtsp://x --config-slot a --config-slot b",
        "--stream surveillance=rtsp://x --config-slot surveillance-detector",
        "--label site",
        "--profile No/Profile",
        "--csr device.csr",
        "--ca nowhere",
    ],
)
def test_what_is_refused_leaves_nothing(world: World, option: str) -> None:
    with pytest.raises(EdgectlError):
        edgectl(f"device enroll gate-1 {option}")
    assert names(world) == set()
    assert not Path("gate-1").exists()
    assert world.controller.inventory.events() == []


def test_folder_that_cannot_be_written_is_found_before_anybody_is_told(world: World) -> None:
    Path("file").write_text("in the way")
    with pytest.raises(StorageError):
        edgectl("device enroll gate-1 --out file/gate-1")
    assert names(world) == set()


@pytest.mark.parametrize("there", [False, True])
def test_disk_that_fills_up_on_the_way_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    if there:
        Path("gate-1").mkdir()
        Path("gate-1/mine").write_text("kept")

    def full(folder: Path, *_: object, **__: object) -> Path:
        (folder / "root.json").write_text("half")
        raise StorageError("the disk is full")

    monkeypatch.setattr("edgectl.fleet.keys.enroll.write_enrolment", full)
    with pytest.raises(StorageError, match="full"):
        edgectl("device enroll gate-1")
    assert names(world) == set()
    assert [p.name for p in Path("gate-1").iterdir()] == ["mine"] if there else not Path("gate-1").exists()
    monkeypatch.undo()
    world.controller.enroll("gate-1")  # and nobody is in the way of another try


def test_device_measures_for_builds_only_if_it_was_enrolled_to(world: World) -> None:
    edgectl("device enroll gate-1")
    edgectl("device enroll bench-1 --measure")
    assert load_agent_config(Path("gate-1/agent.toml")).measure is None
    assert load_agent_config(Path("bench-1/agent.toml")).measure is not None


def test_device_is_enrolled_into_a_second_folder_only_if_that_is_meant(world: World) -> None:
    edgectl("device enroll gate-1")
    with pytest.raises(UsageError, match="gate-1 is in the fleet already") as refused:
        edgectl("device enroll gate-1 --out other")
    assert "--again" in (refused.value.hint or "")
    assert not Path("other").exists()
    assert names(world) == {"gate-1"}
    edgectl("device enroll gate-1 --out other --again")
    assert load_agent_config(Path("other/agent.toml")).name == "gate-1"


def test_second_enrolment_that_fails_takes_nothing_from_the_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edgectl("device enroll gate-1")

    def full(*_: object, **__: object) -> Path:
        raise StorageError("the disk is full")

    monkeypatch.setattr("edgectl.fleet.keys.enroll.write_enrolment", full)
    with pytest.raises(StorageError):
        edgectl("device enroll gate-1 --out other --again")
    assert names(world) == {"gate-1"}
    assert Path("gate-1/agent.toml").exists()


def test_enrolment_that_fails_keeps_the_history_of_a_device_of_that_name_that_was_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.born("gate-1")
    world.controller.inventory.log("presence", "gate-1", "away: nothing was heard of it")
    world.controller.remove("gate-1")

    def full(*_: object, **__: object) -> Path:
        raise StorageError("the disk is full")

    monkeypatch.setattr("edgectl.fleet.keys.enroll.write_enrolment", full)
    with pytest.raises(StorageError):
        edgectl("device enroll gate-1")
    assert names(world) == set()
    first = world.controller.inventory.archived()[0]
    assert first.device.conn is not None
    assert "away: nothing was heard of it" in {e.text for e in world.controller.inventory.events()}


def test_device_that_is_removed_leaves_rollouts_and_broker_and_its_certificate_is_revoked(
    world: World,
) -> None:
    edgectl("broker ca")
    edgectl("device enroll gate-1 --ca ca")
    for device in ("gate-1", "gate-2"):
        world.born(device)
    rollout = world.rollout("1")
    world.tick()
    assert edgectl("device remove gate-1 --ca ca") == {
        "device": "gate-1",
        "purged": False,
        "rollouts": [rollout],
        "revoked": 1,
        "crl": "ca/crl.pem",
    }
    world.tick()
    assert names(world) == {"gate-2"}
    assert world.wire.retained[T.desired("gate-1")] == b""
    assert [c["revoked_s"] is not None for c in edgectl("device certificates") if c["name"] == "gate-1"] == [
        True
    ]
    with pytest.raises(UsageError, match="there is no device gate-1"):
        edgectl("device remove gate-1")
    (gone,) = edgectl("fleet devices --removed")
    assert (gone["name"], gone["conn"]["slots"]) == ("gate-1", ["gate"])
    assert "gate-1" in CliRunner().invoke(app, ["fleet", "devices", "--removed"]).stdout
    shutil.rmtree("gate-1")
    edgectl("device enroll gate-1 --ca ca")
    assert names(world) == {"gate-1", "gate-2"}


def test_revoking_tells_the_controller_and_goes_on_without_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edgectl("broker ca")
    edgectl("device enroll gate-1 --ca ca")
    world.born("gate-1")
    said = edgectl("device revoke gate-1")
    assert (said["revoked"], said["told"]) == (1, True)
    assert world.controller.is_revoked("gate-1")
    (shown,) = edgectl("fleet devices")
    assert shown["revoked"]
    assert "revoked, and still in the fleet: gate-1" in CliRunner().invoke(app, ["fleet", "status"]).stdout

    def nobody(url: str, token_file: Path) -> FleetClient:
        raise UsageError("there is no token")

    edgectl("device enroll gate-1 --ca ca --out again --again")
    monkeypatch.setattr(_controller, "client", nobody)
    said = edgectl("device revoke gate-1")
    assert (said["revoked"], said["told"]) == (1, False)


def test_two_machines_with_one_identity_show_in_status_and_devices(world: World) -> None:
    from edgectl.core.wire import Conn

    for instance, epoch, address in (
        ("true", 5, "10.0.0.5"),
        ("copy", 6, "10.0.0.6"),
        ("true", 5, "10.0.0.5"),
    ):
        conn = Conn(epoch=epoch, online=True, heartbeat_s=30, instance=instance, host="gate", address=address)
        world.hears(T.conn("gate-1"), conn)
    for words in ("fleet status", "fleet devices"):
        said = CliRunner().invoke(app, words.split(), env={"COLUMNS": "250"}).stdout
        assert "2 machines claim to be gate-1: gate at 10.0.0.6 (start 6); gate at 10.0.0.5 (start 5)" in said
    assert [c["address"] for c in edgectl("fleet status")["rivals"]["gate-1"]] == ["10.0.0.6", "10.0.0.5"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("--last 3", ["c9", "c10", "c11"]),
        ("--last 5", ["c7", "c8", "c9", "c10", "c11"]),
        ("--about gate-1 --last 2", ["c9", "c10"]),
        ("--about gate-1 --acts", ["began"]),
        ("--since 1h --about gate-2", ["c11"]),
        ("--since 2999-01-01", []),
    ],
)
def test_events_are_asked_of_the_database(
    world: World, monkeypatch: pytest.MonkeyPatch, words: str, found: list[str]
) -> None:
    monkeypatch.setattr("edgectl.cli.fleet._PAGE", 3)
    log: Callable[[str, str, str], None] = world.controller.inventory.log
    log("rollout", "gate-1", "began")
    for i in range(11):
        log("state", "gate-1/detector", f"c{i}")
    log("state", "gate-2/detector", "c11")
    assert [e["text"] for e in edgectl(f"fleet events {words}")] == found


def test_controller_configuration_is_private(world: World) -> None:
    edgectl("controller init")
    assert os.stat("controller.toml").st_mode & 0o777 == 0o600
