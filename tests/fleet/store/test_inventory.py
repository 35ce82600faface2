from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.event import listen
from support.postgres import postgres, store_url  # noqa: F401, fixtures

from edgectl.core.errors import StorageError
from edgectl.core.wire import Conn, Desired, DesiredSlot
from edgectl.fleet.rollouts.planner import DeviceOutcome, Member, RolloutProgress, RolloutSpec, RolloutState
from edgectl.fleet.store import history
from edgectl.fleet.store.inventory import Device, Inventory, Release

D = "sha256:" + "a" * 64


def _said(inventory: Inventory, entries: list[tuple[float, str, str]]) -> None:
    """What devices said at a time (Unix seconds): subject and text."""
    rows: list[dict[str, object]] = [
        {"wall_s": wall_s, "kind": "state", "subject": subject, "text": text}
        for wall_s, subject, text in entries
    ]
    inventory._db.write(lambda db: history.append(db, rows))


@pytest.fixture
def inventory(tmp_path: Path, store_url: str | None) -> Iterator[Inventory]:
    inventory = Inventory(tmp_path, store_url)
    yield inventory
    inventory.close()


def test_everything_survives_a_restart(tmp_path: Path, store_url: str | None) -> None:
    inventory = Inventory(tmp_path, store_url)
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
    inventory = Inventory(tmp_path, store_url)
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
    _said(inventory, [(1.0, f"d{i % 1300}/gate", "committed") for i in range(10_400)])
    inventory.log("rollout", "gate-1", "abort by the operator")
    assert [e.text for e in inventory.events(acts=True)] == ["frozen", "abort by the operator"]
    assert len(inventory.events(20_000)) == 10_402
    assert inventory.prune(before_s=2.0) == 10_400
    assert [e.text for e in inventory.events()] == ["frozen", "abort by the operator"]


def test_states_are_pruned_by_time(inventory: Inventory) -> None:
    _said(inventory, [(10.0, "d0/gate", "old"), (20.0, "d0/gate", "new")])
    assert inventory.prune(before_s=15.0) == 1
    assert [e.text for e in inventory.events()] == ["new"]


def test_device_that_never_stops_talking_fills_no_disk_and_crowds_out_nobody(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.fleet.store.history._SAID_OF_ONE", 10)
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
    _said(inventory, [(float(i), "d", f"{i}") for i in range(7)])
    newest = inventory.events(3)
    assert [e.text for e in newest] == ["4", "5", "6"]
    assert [e.text for e in inventory.events(3, before=newest[0].id)] == ["1", "2", "3"]
    assert [e.text for e in inventory.events(since_s=5.0)] == ["5", "6"]


def test_database_and_what_lies_beside_it_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        inventory = Inventory(tmp_path)
        inventory.log("fleet", "home", "frozen")
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


# ---- what is written when


def _born(name: str, epoch: int = 1) -> Device:
    return Device(name, Conn(epoch=epoch, online=True))


def _commits(inventory: Inventory) -> list[bool]:
    """Grows with every transaction that ends: whether it is on the disk then."""
    commits: list[bool] = []

    def note(db: Connection) -> None:
        sqlite = db.dialect.name == "sqlite"
        level = db.exec_driver_sql("PRAGMA synchronous" if sqlite else "SHOW synchronous_commit").scalar()
        commits.append(level in (2, "on"))  # 2: FULL

    listen(inventory._db._engine, "commit", note)
    return commits


def test_what_devices_say_costs_one_transaction_a_tick_however_much_it_is(inventory: Inventory) -> None:
    commits = _commits(inventory)
    for i in range(1000):
        inventory.note_device(_born(f"d{i}"))
        inventory.log("state", f"d{i}/gate", "committed")
    assert commits == []
    inventory.flush()
    inventory.flush()
    assert commits == [False], "not waited for: the broker has it, too"
    assert len(inventory.devices()) == 1000


def test_what_is_decided_is_on_the_disk_before_anybody_can_be_told(inventory: Inventory) -> None:
    commits = _commits(inventory)
    spec = RolloutSpec(id="r1", release="m@1", digest=D, slot="gate")
    for decide in (
        lambda: inventory.save_device(_born("d0")),
        lambda: inventory.save_rollout(spec, RolloutProgress(), [_born("d0")]),
        lambda: inventory.save_release(Release("m@1", D, (), 1.0)),
        lambda: inventory.keep_number("signed", 7),
        lambda: inventory.mark_revoked("d0", True),
        lambda: inventory.archive(_born("d0")),
        lambda: inventory.log("rollout", "r1", "abort by the operator"),
    ):
        commits.clear()
        decide()
        assert commits == [True]


def test_sqlite_writes_ahead(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    assert inventory._db.read(lambda db: db.exec_driver_sql("PRAGMA journal_mode").scalar()) == "wal"
    inventory.close()


def test_names_may_be_as_long_as_names_may_be(inventory: Inventory) -> None:
    """PostgreSQL measures them."""
    long = "x" * 64
    spec = RolloutSpec(id=f"{long}-12345", release=f"{long}@{long}", digest=D, slot=long)
    inventory.save_rollout(spec, RolloutProgress(), [_born(long)])
    inventory.log("state", f"{long}/{long}", "x" * 5000)
    inventory.save_release(Release(f"{long}@{long}", D, (), 1.0))
    assert inventory.rollouts()[spec.id][0] == spec
    assert set(inventory.devices()) == {long}


def test_history_is_in_the_order_in_which_it_happened(inventory: Inventory) -> None:
    inventory.log("state", "d0/gate", "fetching")
    inventory.log("rollout", "r1", "abort by the operator")
    inventory.log("state", "d0/gate", "restored")
    assert [e.text for e in inventory.events()] == ["fetching", "abort by the operator", "restored"]


def test_word_of_a_device_from_before_a_decision_does_not_undo_it(inventory: Inventory) -> None:
    inventory.note_device(_born("d0"))
    inventory.save_device(dataclasses.replace(_born("d0"), desired=Desired(gen=3)))
    inventory.flush()
    assert inventory.devices()["d0"].desired.gen == 3


def test_what_could_not_be_written_waits_and_nothing_of_a_step_is_left(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory.note_device(_born("d0"))
    inventory.log("state", "d0/gate", "fetching")

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as m:
        m.setattr("edgectl.fleet.store.devices.tell", full)
        with pytest.raises(StorageError):
            inventory.save_rollout(
                RolloutSpec(id="r1", release="m@1", digest=D, slot="gate"),
                RolloutProgress(),
                [_born("d0", 9)],
            )
    assert [d.conn for d in inventory.devices().values()] == [Conn(epoch=1, online=True)]
    assert [e.text for e in inventory.events()] == ["fetching"]
    assert inventory.rollouts() == {}


def test_last_words_are_written_when_it_is_closed(tmp_path: Path, store_url: str | None) -> None:
    inventory = Inventory(tmp_path, store_url)
    inventory.note_device(_born("d0"))
    inventory.close()
    inventory = Inventory(tmp_path, store_url)
    assert set(inventory.devices()) == {"d0"}
    inventory.close()


def test_text_with_a_nul_is_kept_without_it(inventory: Inventory) -> None:
    inventory.log("state", "d0/gate", "a\0b")
    assert [e.text for e in inventory.events()] == ["a�b"]
