from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from edgectl.core.errors import StorageError
from edgectl.core.wire import Conn, Desired, DesiredSlot
from edgectl.fleet.control.inventory import Device, Inventory, Release, _events
from edgectl.fleet.rollouts.planner import DeviceOutcome, Member, RolloutProgress, RolloutSpec, RolloutState

D = "sha256:" + "a" * 64


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Inventory]:
    inventory = Inventory(tmp_path)
    yield inventory
    inventory.close()


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    wish = DesiredSlot(release="m@1", digest=D)
    device = Device("cam", Conn(epoch=3, online=True), None, Desired(gen=2, slots={"gate": wish}), 5.0)
    inventory.save_device(device)
    inventory.save_release(Release("m@1", D, ("cpu", "jetson-orin"), 1.0))
    spec = RolloutSpec(id="r1", release="m@1", digest=D, slot="gate")
    progress = RolloutProgress(
        members={"cam": Member(wave=0, outcome=DeviceOutcome.ADMITTED, admitted_s=1.0, before=wish)}
    )
    inventory.save_rollout(spec, RolloutProgress())
    inventory.save_rollout(spec, progress)
    inventory.log("rollout", "r1", "began")
    inventory.close()
    inventory = Inventory(tmp_path)
    assert inventory.devices() == {"cam": device}
    assert inventory.releases() == {"m@1": Release("m@1", D, ("cpu", "jetson-orin"), 1.0)}
    assert inventory.rollouts(active=True) == {"r1": (spec, progress)}
    done = progress.model_copy(update={"state": RolloutState.DONE})
    inventory.save_rollout(spec, done)
    assert inventory.rollouts(active=True) == {"r1": (spec, done)}, "a device is not through yet"
    committed = {"cam": progress.members["cam"].model_copy(update={"outcome": DeviceOutcome.COMMITTED})}
    inventory.save_rollout(spec, done.model_copy(update={"members": committed}))
    assert inventory.rollouts(active=True) == {}
    assert [e.text for e in inventory.events()] == ["began"]
    inventory.close()


def test_bad_database_url_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Inventory(tmp_path, "sqlite:////nonexistent/folder/x.db")


def test_acts_of_operators_outlive_whatever_devices_say(inventory: Inventory) -> None:
    """1 300 devices with 8 states each: more than any bound on rows."""
    inventory.log("fleet", "home", "frozen")
    with inventory._transaction() as db:
        states = [
            {"wall_s": 1.0, "kind": "state", "subject": f"d{i % 1300}/gate", "text": "committed"}
            for i in range(10_400)
        ]
        db.execute(insert(_events), states)
    inventory.log("rollout", "gate-1", "abort by the operator")
    assert [e.text for e in inventory.events(acts=True)] == ["frozen", "abort by the operator"]
    assert len(inventory.events(20_000)) == 10_402
    assert inventory.prune(before_s=2.0) == 10_400
    assert [e.text for e in inventory.events()] == ["frozen", "abort by the operator"]


def test_states_are_pruned_by_time(inventory: Inventory) -> None:
    for wall_s, text in ((10.0, "old"), (20.0, "new")):
        with inventory._transaction() as db:
            db.execute(insert(_events).values(wall_s=wall_s, kind="state", subject="d0/gate", text=text))
    assert inventory.prune(before_s=15.0) == 1
    assert [e.text for e in inventory.events()] == ["new"]


def test_device_that_never_stops_talking_fills_no_disk_and_crowds_out_nobody(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.fleet.control.inventory._SAID_OF_ONE", 10)
    inventory.log("state", "quiet/gate", "committed")
    for i in range(50):
        inventory.log("state", "loud/gate", f"s{i}")
    assert inventory.prune(before_s=0.0) == 40
    assert [e.text for e in inventory.events(about="loud")] == [f"s{i}" for i in range(40, 50)]
    assert [e.text for e in inventory.events(about="quiet")] == ["committed"]


@pytest.mark.parametrize("name", ["gate-1", "a_b", "50%"])
def test_events_about_one_subject_are_those_of_it_and_its_parts_however_many_came_since(
    inventory: Inventory, name: str
) -> None:
    inventory.log("rollout", name, "began")
    inventory.log("state", f"{name}/detector", "committed")
    for other in ("gate-10", "axb", "50x", f"x/{name}"):
        for _ in range(150):
            inventory.log("state", other, "noise")
    assert [e.text for e in inventory.events(2, about=name)] == ["began", "committed"]


def test_events_come_page_by_page_and_since_a_time(inventory: Inventory) -> None:
    for i in range(7):
        with inventory._transaction() as db:
            db.execute(insert(_events).values(wall_s=float(i), kind="state", subject="d", text=f"{i}"))
    newest = inventory.events(3)
    assert [e.text for e in newest] == ["4", "5", "6"]
    assert [e.text for e in inventory.events(3, before=newest[0].id)] == ["1", "2", "3"]
    assert [e.text for e in inventory.events(since_s=5.0)] == ["5", "6"]


def test_database_of_an_older_build_is_taken_over_with_all_that_it_knows(tmp_path: Path) -> None:
    """It has no table of archived devices and no index, and pruned acts and states alike."""
    inventory = Inventory(tmp_path)
    inventory.save_device(Device("cam", Conn(epoch=3, online=True), None, Desired(gen=2), 5.0))
    inventory.log("fleet", "home", "frozen")
    inventory.log("state", "cam/gate", "committed")
    with inventory._transaction() as db:
        for statement in (
            "DROP TABLE archive",
            "DROP TABLE revoked",
            "DROP INDEX events_by_subject",
            "DROP INDEX events_by_kind",
        ):
            db.exec_driver_sql(statement)
    inventory.close()
    (tmp_path / "fleet.db").chmod(0o644)
    inventory = Inventory(tmp_path)
    assert set(inventory.devices()) == {"cam"}
    assert [e.text for e in inventory.events()] == ["frozen", "committed"]
    assert inventory.archived() == []
    with inventory._transaction() as db:
        indexes = {
            row[0] for row in db.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")
        }
    assert {"events_by_subject", "events_by_kind"} <= indexes
    assert (tmp_path / "fleet.db").stat().st_mode & 0o777 == 0o600
    inventory.close()


def test_database_and_what_lies_beside_it_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        inventory = Inventory(tmp_path)
        with inventory._transaction() as db:
            db.execute(insert(_events).values(wall_s=0.0, kind="state", subject="d", text="x"))
            during = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
        inventory.close()
    finally:
        os.umask(old)
    assert len(during) > 1, "SQLite keeps a journal while it writes"
    assert set(during.values()) == {0o600}


def test_device_that_was_removed_is_archived_once_for_each_time(inventory: Inventory) -> None:
    for gen in (1, 2):
        device = Device("cam", Conn(epoch=gen, online=True), None, Desired(gen=gen), 5.0)
        inventory.save_device(device)
        inventory.mark_revoked("cam", True)
        inventory.archive(device)
        assert inventory.devices() == {}
        assert inventory.revoked() == set()
    assert [a.device.desired.gen for a in inventory.archived()] == [1, 2]
