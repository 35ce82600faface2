from __future__ import annotations

import json
import tarfile
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.event import listen
from support.postgres import postgres, store_url  # noqa: F401, fixtures

from edgectl.core.errors import StorageError, UsageError
from edgectl.core.files import digest_of
from edgectl.fleet.store import backup
from edgectl.fleet.store.backup import back_up
from edgectl.fleet.store.devices import Device
from edgectl.fleet.store.inventory import Inventory
from edgectl.fleet.store.schema import META, REVISION


def test_file_says_what_is_in_it_and_only_its_owner_reads_it(
    tmp_path: Path,
    store_url: str | None,
) -> None:
    inventory = Inventory(tmp_path, store_url)
    inventory.save_devices([Device("d0"), Device("d1")])
    made = back_up(tmp_path, store_url, "home", tmp_path / "out" / "b.tar")
    inventory.close()
    assert (tmp_path / "out" / "b.tar").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.tar"], "nothing else is left"
    assert (made.fleet, made.revision, made.tables["devices"].rows) == ("home", REVISION, 2)
    assert made.tables.keys() == META.tables.keys()
    with tarfile.open(tmp_path / "out" / "b.tar") as tar:
        assert tar.getnames()[0] == "manifest.json"
        for name, table in made.tables.items():
            member = tar.extractfile(f"{name}.jsonl")
            assert member is not None
            data = member.read()
            assert (len(data), digest_of(data)) == (table.bytes, table.digest)
            assert all(isinstance(json.loads(line), dict) for line in data.splitlines())


def test_backup_is_of_one_moment_although_the_controller_writes_on(
    tmp_path: Path,
    store_url: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The archive is read after the devices: one that is moved there in between must not be in both."""
    inventory = Inventory(tmp_path, store_url)
    inventory.save_devices([Device("d0"), Device("d1")])
    moved = threading.Event()

    def move(_connection: Connection, _cursor: object, sql: str, *_: object) -> None:
        if not moved.is_set() and "FROM releases" in sql:
            moved.set()
            inventory.archive(Device("d0"))
            inventory.archive(Device("d1"))

    real = backup.open_engine

    def open_engine(url: str) -> object:
        engine = real(url)
        listen(engine, "before_cursor_execute", move)
        return engine

    monkeypatch.setattr(backup, "open_engine", open_engine)
    made = back_up(tmp_path, store_url, "home", tmp_path / "b.tar")
    assert moved.is_set()
    assert (made.tables["devices"].rows, made.tables["archive"].rows) == (2, 0)
    assert len(inventory.archived()) == 2
    inventory.close()


def test_folder_without_a_store_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no store"):
        back_up(tmp_path, None, "home", tmp_path / "b.tar")
    assert list(tmp_path.iterdir()) == []


def test_disk_that_is_full_leaves_the_backup_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Inventory(tmp_path).close()
    (tmp_path / "b.tar").write_bytes(b"the one before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgectl.fleet.store.backup._add", full)
    with pytest.raises(StorageError, match="full"):
        back_up(tmp_path, None, "home", tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_bytes() == b"the one before"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".b.tar")]
