"""Brings a backup back: all of it, in one transaction, or nothing.

The store is as it was then, with two exceptions. Numbers that must not be used twice do not go back below what the
store that is replaced has used. And whatever rollout asked devices is paused: what operators did to it since is not
in the backup. What devices have they keep; generations of desired documents go on above what the broker retains
and devices report (:mod:`edgectl.fleet.control.devices`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, MetaData, Table, func, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from edgectl.core.errors import DataError, StorageError, UsageError
from edgectl.core.files import keep_private, storage
from edgectl.core.schema import parse_json
from edgectl.fleet.rollouts.planner import RolloutState, pause
from edgectl.fleet.store import history, numbers
from edgectl.fleet.store.backup import FORMAT, MANIFEST, BackupManifest, TableFile
from edgectl.fleet.store.database import open_engine, sqlite_file, words
from edgectl.fleet.store.lock import hold_store
from edgectl.fleet.store.migrate import upgrade
from edgectl.fleet.store.rollouts import Rollouts
from edgectl.fleet.store.schema import META, NUMBERS, REVISION, tables_in

__all__ = ["restore"]

_MAX_MANIFEST = 1 << 20
_MAX_LINE = 64 << 20
"""Bytes of a row: the first release kept a rollout with all its members in one."""
_ROWS = 500


def restore(
    file: Path, state_dir: Path, url: str | None, fleet: str, *, replace: bool = False
) -> tuple[BackupManifest, list[str]]:
    """Returns what was restored, and the rollouts that are paused by it.

    Raises :class:`UsageError`: a controller is running, the store is not empty (unless ``replace``), or the backup
    is of another fleet; :class:`DataError` for a file that is no whole backup, or of a newer edgectl;
    :class:`StorageError`. In all of these cases the store is as it was.
    """
    with hold_store(state_dir), _open(file) as tar:
        manifest = _manifest(tar, file)
        if manifest.fleet != fleet:
            raise UsageError(
                f"{file} is a backup of the fleet {manifest.fleet}, and this controller's is {fleet}",
                hint="give the controller.toml of that fleet",
            )
        if url is None:
            with storage(str(state_dir)):
                keep_private(sqlite_file(state_dir))
        engine = open_engine(url or f"sqlite:///{sqlite_file(state_dir)}")
        try:
            with engine.begin() as db:
                return manifest, _bring_back(db, tar, file, manifest, replace=replace)
        except SQLAlchemyError as e:
            raise StorageError(f"the fleet database cannot be written: {words(e)}") from e
        finally:
            engine.dispose()


def _bring_back(
    db: Connection, tar: tarfile.TarFile, file: Path, manifest: BackupManifest, *, replace: bool
) -> list[str]:
    before = tables_in(db)
    used: dict[str, int] = {}
    if "numbers" in before.tables:
        used = {r.name: r.value for r in db.execute(select(NUMBERS))}
    if not replace and (found := _content(db, before)):
        raise UsageError(
            f"the store is not empty: it has {found}", hint="`--replace` gives that up for the backup"
        )
    before.drop_all(db)
    db.execute(text("DROP TABLE IF EXISTS alembic_version"))
    try:
        upgrade(db, manifest.revision)
    except StorageError as e:
        raise DataError(
            f"{file} has schema {manifest.revision}, which this edgectl does not know",
            hint="a newer edgectl wrote it: restore it with that one",
        ) from e
    tables = tables_in(db)
    for name, expected in manifest.tables.items():
        table = tables.tables.get(name)
        if table is None:
            raise DataError(f"{file} has a table {name} that schema {manifest.revision} has not")
        _fill(db, table, expected, tar, file)
    _count_on(db)
    upgrade(db, REVISION)
    for name, value in used.items():
        numbers.keep(db, name, max(value, numbers.kept(db, name)))
    return _pause(db, manifest)


def _content(db: Connection, tables: MetaData) -> str | None:
    """What would be lost, in words."""
    for name, table in tables.tables.items():
        if name != "numbers":
            n = db.execute(select(func.count()).select_from(table)).scalar_one()
            if n:
                return f"{n} {name}"
    return None


def _pause(db: Connection, manifest: BackupManifest) -> list[str]:
    """Rollouts that would ask more devices by themselves."""
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(manifest.made_s))
    told = [history.event("fleet", manifest.fleet, f"the store was restored from a backup of {made}")]
    rollouts, paused = Rollouts(), []
    for name, (spec, progress) in rollouts.load(db, active=True).items():
        if progress.state is RolloutState.RUNNING:
            rollouts.save(db, spec, pause(progress))
            paused.append(name)
            told.append(
                history.event("rollout", name, f"paused: the store was restored from a backup of {made}")
            )
    history.append(db, told)
    return paused


def _fill(db: Connection, table: Table, expected: TableFile, tar: tarfile.TarFile, file: Path) -> None:
    columns, rows, count = {c.name for c in table.columns}, list[dict[str, Any]](), 0
    for row in _lines(tar, f"{table.name}.jsonl", expected, file):
        if row.keys() != columns:
            raise DataError(f"{file}: a row of {table.name} has other columns than its schema")
        rows.append(row)
        count += 1
        if len(rows) >= _ROWS:
            db.execute(insert(table), rows)
            rows = []
    if rows:
        db.execute(insert(table), rows)
    if count != expected.rows:
        raise DataError(f"{file}: {table.name} has {count} rows, and the manifest says {expected.rows}")


def _lines(tar: tarfile.TarFile, name: str, expected: TableFile, file: Path) -> Iterator[dict[str, Any]]:
    sha, left = hashlib.sha256(), expected.bytes
    with _member(tar, name, expected.bytes, file) as data:
        while left > 0:
            line = data.readline(min(left, _MAX_LINE) + 1)
            if not line:
                break
            sha.update(line)
            left -= len(line)
            yield _row(line, name, file)
    if left or f"sha256:{sha.hexdigest()}" != expected.digest:
        raise DataError(
            f"{file} is damaged: {name} is not what its manifest says", hint="take another backup"
        )


def _row(line: bytes, name: str, file: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
        return {k: base64.b64decode(v["base64"]) if isinstance(v, dict) else v for k, v in row.items()}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as e:
        raise DataError(
            f"{file} is damaged: {name} has a row that is none", hint="take another backup"
        ) from e


def _open(file: Path) -> tarfile.TarFile:
    if not file.is_file():
        raise UsageError(f"there is no file {file}")
    try:
        return tarfile.open(file, mode="r:")
    except (tarfile.TarError, OSError) as e:
        raise DataError(f"{file} is no backup of a controller: {e}") from e


def _manifest(tar: tarfile.TarFile, file: Path) -> BackupManifest:
    with _member(tar, MANIFEST, None, file) as data:
        payload = data.read(_MAX_MANIFEST + 1)
    found = parse_json(
        BackupManifest, payload, max_bytes=_MAX_MANIFEST, what=f"{file}: the manifest", error=DataError
    )
    if found.format != FORMAT:
        raise DataError(f"{file} has format {found.format}; this edgectl reads {FORMAT}")
    return found


def _member(tar: tarfile.TarFile, name: str, size: int | None, file: Path) -> IO[bytes]:
    try:
        info = tar.getmember(name)
        data = tar.extractfile(info) if info.isreg() and size in (None, info.size) else None
    except (KeyError, tarfile.TarError, OSError):
        data = None
    if data is None:
        raise DataError(f"{file} is no whole backup of a controller: {name} is missing or cut off")
    return data


def _count_on(db: Connection) -> None:
    """PostgreSQL counts rows by itself, from 1: it has to go on behind those that came with their numbers."""
    if db.dialect.name != "postgresql":
        return
    for table in META.sorted_tables:
        column = table.autoincrement_column
        if column is not None and inspect(db).has_table(table.name):
            sequence = f"pg_get_serial_sequence('{table.name}', '{column.name}')"
            newest = db.execute(select(func.max(column))).scalar()
            if newest is not None:
                db.execute(text(f"SELECT setval({sequence}, {int(newest)})"))
