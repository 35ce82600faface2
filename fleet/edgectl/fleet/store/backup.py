"""A backup of the store: one file, the same for SQLite and PostgreSQL, made while the controller runs.

It is a tar of ``manifest.json`` and a file for each table, a JSON object a line and row. The manifest says which
schema the tables have, and of each file how many rows, bytes and which SHA-256. Reading one is
:mod:`edgectl.fleet.store.restore`. Keys, blobs and signed metadata are files and not in it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from pydantic import Field
from sqlalchemy import Connection, Table, select
from sqlalchemy.exc import SQLAlchemyError

from edgectl.core.errors import StorageError, UsageError
from edgectl.core.files import open_atomic, storage
from edgectl.core.schema import Digest, Message, Name
from edgectl.fleet.store.database import open_engine, snapshot, sqlite_file, words
from edgectl.fleet.store.migrate import revision_of
from edgectl.fleet.store.schema import tables_in

__all__ = ["FORMAT", "MANIFEST", "BackupManifest", "TableFile", "back_up"]

FORMAT = 1
MANIFEST = "manifest.json"
_RELEASED = "0001"
"""The schema of a store without a number: the first release's."""
_ROWS = 500
"""Read at once."""


class TableFile(Message):
    """A table in a backup."""

    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    digest: Digest


class BackupManifest(Message):
    format: int
    fleet: Name
    made_s: float
    """Unix time."""
    revision: str = Field(max_length=32, pattern=r"^[0-9a-z]+$")
    """Of the schema."""
    tables: dict[str, TableFile] = Field(max_length=64)


def back_up(state_dir: Path, url: str | None, fleet: str, file: Path) -> BackupManifest:
    """Write the store as it is at one moment to ``file``, readable by its owner only; what is there is replaced
    once the new one is whole. A controller that runs goes on.

    Raises :class:`UsageError` where there is no store, :class:`StorageError`.
    """
    if url is None and not sqlite_file(state_dir).is_file():
        raise UsageError(f"there is no store in {state_dir}", hint="is `state_dir` right?")
    with storage(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.")
    engine = open_engine(url or f"sqlite:///{sqlite_file(state_dir)}")
    try:
        with scratch as folder, snapshot(engine) as db, storage(str(file)):
            manifest = _dump(db, fleet, Path(folder))
            with open_atomic(file, mode=0o600) as out:
                _pack(manifest, Path(folder), out)
            return manifest
    except SQLAlchemyError as e:
        raise StorageError(f"the fleet database cannot be read: {words(e)}") from e
    finally:
        engine.dispose()


def _dump(db: Connection, fleet: str, folder: Path) -> BackupManifest:
    """A file for each table in ``folder``."""
    revision = revision_of(db) or _RELEASED
    tables = {t.name: t for t in tables_in(db).sorted_tables}
    if "devices" not in tables:
        raise UsageError("the database has no store of a controller", hint="is `database` right?")
    files = {name: _dump_table(db, table, folder / name) for name, table in tables.items()}
    return BackupManifest(format=FORMAT, fleet=fleet, made_s=time.time(), revision=revision, tables=files)


def _dump_table(db: Connection, table: Table, path: Path) -> TableFile:
    sha, rows, size = hashlib.sha256(), 0, 0
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_ROWS)
    with path.open("wb") as out, closing(db.execute(query)) as found:
        for row in found.mappings():
            line = _line(row)
            sha.update(line)
            out.write(line)
            rows, size = rows + 1, size + len(line)
    return TableFile(rows=rows, bytes=size, digest=f"sha256:{sha.hexdigest()}")


def _line(row: Mapping[str, Any] | Any) -> bytes:
    values = {
        k: {"base64": base64.b64encode(v).decode()} if isinstance(v, (bytes, memoryview)) else v
        for k, v in row.items()
    }
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _pack(manifest: BackupManifest, folder: Path, out: IO[bytes]) -> None:
    with tarfile.open(fileobj=out, mode="w") as tar:
        _add(tar, MANIFEST, io.BytesIO(manifest.encode()), len(manifest.encode()), manifest.made_s)
        for name, table in manifest.tables.items():
            with (folder / name).open("rb") as f:
                _add(tar, f"{name}.jsonl", f, table.bytes, manifest.made_s)


def _add(tar: tarfile.TarFile, name: str, data: IO[bytes], size: int, made_s: float) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(made_s), 0o600
    tar.addfile(info, data)
