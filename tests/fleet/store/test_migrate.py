from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from support.postgres import postgres, store_url  # noqa: F401, fixtures
from support.released_store import ROWS, write_released

from edgectl.core.errors import StorageError
from edgectl.fleet.rollouts.planner import DeviceOutcome, RolloutState
from edgectl.fleet.store import migrate, schema
from edgectl.fleet.store.database import Database, open_engine
from edgectl.fleet.store.inventory import Inventory
from edgectl.fleet.store.rollouts import folded


def _tables(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as db:
        found = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
    db.close()
    return found


def test_database_of_the_first_release_is_taken_over_with_all_that_it_knows(tmp_path: Path) -> None:
    write_released(tmp_path / "fleet.db")
    (tmp_path / "fleet.db").chmod(0o644)
    inventory = Inventory(tmp_path)
    assert inventory.devices()["cam"].desired.slots["gate"].release == "m@1"
    assert inventory.releases()["m@1"].profiles == ("cpu", "jetson-orin")
    spec, progress = inventory.rollouts(active=True)["gate-1"]
    assert (spec.slot, progress.state) == ("gate", RolloutState.RUNNING)
    assert {n: (m.wave, m.outcome, m.admitted_s) for n, m in progress.members.items()} == {
        "cam": (0, DeviceOutcome.ADMITTED, 7.0),
        "dam": (1, DeviceOutcome.WAITING, None),
    }
    assert [(e.id, e.kind) for e in inventory.events()] == [(1, "rollout"), (2, "state")]
    assert [a.device.name for a in inventory.archived()] == ["old"]
    assert inventory.revoked() == {"lost"}
    assert inventory.number("signed") == 1_700_000_000_000
    inventory.close()
    assert (tmp_path / "fleet.db").stat().st_mode & 0o777 == 0o600


def test_database_from_before_the_release_gets_the_tables_and_indexes_that_it_lacks(tmp_path: Path) -> None:
    lacks = ("archive", "revoked", "events_by_subject", "events_by_kind")
    write_released(tmp_path / "fleet.db", without=lacks)
    inventory = Inventory(tmp_path)
    assert set(inventory.devices()) == {"cam"}
    assert (inventory.archived(), inventory.revoked()) == ([], set())
    inventory.close()
    assert set(lacks) <= _tables(tmp_path / "fleet.db").keys()


def test_rollout_of_the_first_release_is_taken_apart_on_either_kind(
    tmp_path: Path,
    store_url: str | None,
) -> None:
    engine = open_engine(store_url or f"sqlite:///{tmp_path / 'fleet.db'}")
    many = {f"d{i}": {"wave": 1} for i in range(2500)}
    with engine.begin() as db:
        migrate.upgrade(db, "0001")
        for table, row in ROWS:
            if table == "rollouts":
                row = (*row[:2], json.dumps({"state": "paused", "members": many}), *row[3:])
            names = [f"v{i}" for i in range(len(row))]
            statement = f"INSERT INTO {table} VALUES ({', '.join(':' + n for n in names)})"
            db.execute(text(statement), dict(zip(names, row, strict=True)))
    engine.dispose()
    inventory = Inventory(tmp_path, store_url)
    progress = inventory.rollouts()["gate-1"][1]
    assert (progress.state, progress.members.keys()) == (RolloutState.PAUSED, many.keys())
    assert inventory._db.read(lambda db: folded(db, "gate-1")) == progress
    inventory.close()


def test_tables_of_the_schema_are_those_that_the_migrations_make(
    tmp_path: Path, store_url: str | None
) -> None:
    def differences(db: Connection) -> list[object]:
        return list(
            compare_metadata(MigrationContext.configure(db, opts={"compare_type": True}), schema.META)
        )

    db = Database(tmp_path, store_url)
    assert db.read(differences) == []
    assert db.read(migrate.revision_of) == schema.REVISION
    db.close()


def test_the_newest_migration_is_the_one_that_the_schema_names() -> None:
    assert ScriptDirectory(str(migrate._FOLDER)).get_heads() == [schema.REVISION]


def test_database_that_is_up_to_date_is_opened_without_alembic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Inventory(tmp_path).close()
    monkeypatch.setattr("alembic.command.upgrade", None)
    Inventory(tmp_path).close()


def test_migration_that_is_cut_off_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_released(tmp_path / "fleet.db")
    before = _tables(tmp_path / "fleet.db")

    def cut_off(db: Connection) -> None:
        migrate.upgrade(db)
        assert inspect(db).has_table("alembic_version")
        raise StorageError("killed")

    with monkeypatch.context() as m:
        m.setattr("edgectl.fleet.store.database.upgrade", cut_off)
        with pytest.raises(StorageError, match="killed"):
            Database(tmp_path)
    assert _tables(tmp_path / "fleet.db") == before
    inventory = Inventory(tmp_path)
    assert set(inventory.devices()) == {"cam"}
    inventory.close()


def test_database_of_a_newer_edgectl_is_left_alone_and_told_of(tmp_path: Path, store_url: str | None) -> None:
    db = Database(tmp_path, store_url)
    db.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    db.close()
    with pytest.raises(StorageError, match="schema 9999") as e:
        Database(tmp_path, store_url)
    assert e.value.hint is not None
    assert "newer" in e.value.hint
