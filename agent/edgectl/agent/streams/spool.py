"""A bounded spool on disk for what must reach the controller although the network is away.

Persist, publish, delete on PUBACK. Over the bounds (bytes, age) the oldest telemetry goes first, events only
when no telemetry is left; what was dropped is counted. A corrupt database is moved aside and a new one
started: reported, not fatal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgectl.core.clock import CLOCK_SET_S
from edgectl.core.errors import StorageError
from edgectl.core.files import keep_private

__all__ = ["Kind", "Spool", "SpoolRow"]

log = logging.getLogger(__name__)

_MEMORY_BYTES = 4 << 20
_LOG_PAGES = 64
"""Pages of the write-ahead log before they go into the file: the log is on top of ``max_bytes``."""
_WORTH_GIVING = 256 << 10
"""Bytes of the files below which throwing them away helps nobody."""

Kind = Literal["event", "tele"]


@dataclass(frozen=True)
class SpoolRow:
    id: int
    kind: Kind
    created_s: float
    topic: str
    payload: bytes


class Spool:
    """Thread-safe. Times are Unix seconds, so that age counts across restarts."""

    def __init__(self, path: Path, *, max_bytes: int = 50 << 20, max_age_s: float = 48 * 3600.0) -> None:
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._path = path
        self._lock = threading.Lock()
        self.dropped = 0
        """Rows given up since this start."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = self._open_somehow()
        self._bytes: int = self._db.execute("SELECT coalesce(sum(length(payload)), 0) FROM spool").fetchone()[
            0
        ]

    def _open_somehow(self) -> sqlite3.Connection:
        try:
            return self._open_or_memory()
        except sqlite3.DatabaseError as e:
            log.warning("the spool is corrupt and starts anew: %s", e)
            try:
                os.replace(self._path, self._path.with_suffix(".corrupt"))
                for suffix in ("-wal", "-shm"):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
                return self._open_or_memory()
            except (OSError, sqlite3.DatabaseError) as after:
                return self._in_memory(after)

    def _open_or_memory(self) -> sqlite3.Connection:
        with contextlib.suppress(OSError):  # on a disk that takes nothing, SQLite says so
            keep_private(self._path)
        try:
            return self._open(self._path)
        except sqlite3.OperationalError as e:
            return self._in_memory(e)

    def _in_memory(self, e: Exception) -> sqlite3.Connection:
        """The disk is full or read-only: inference must not wait for it."""
        log.error("the spool is in memory only and ends with the agent: %s", e)
        self._max_bytes = min(self._max_bytes, _MEMORY_BYTES)
        return self._open(Path(":memory:"))

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
            db.execute(
                "CREATE TABLE IF NOT EXISTS spool (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, created REAL, topic TEXT, payload BLOB)"
            )
            if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    @property
    def size(self) -> int:
        """Payload bytes that wait."""
        return self._bytes

    def put(self, kind: Kind, topic: str, payload: bytes, now_s: float) -> None:
        """Persist one message. Raises :class:`StorageError` if the disk does not take it."""
        with self._lock, _errors():
            self._db.execute(
                "INSERT INTO spool (kind, created, topic, payload) VALUES (?, ?, ?, ?)",
                (kind, now_s, topic, payload),
            )
            self._bytes += len(payload)
            self._shrink(now_s)

    def oldest(self, n: int) -> list[SpoolRow]:
        """Up to ``n`` messages to publish next: events first, each kind in order."""
        with self._lock, _errors():
            rows = self._db.execute(
                "SELECT id, kind, created, topic, payload FROM spool ORDER BY kind = 'event' DESC, id LIMIT ?",
                (n,),
            )
            return [SpoolRow(*row) for row in rows]

    def delete(self, row: SpoolRow) -> None:
        """The broker has acknowledged it."""
        with self._lock, _errors():
            if self._db.execute(
                "DELETE FROM spool WHERE id = ? AND created = ?", (row.id, row.created_s)
            ).rowcount:
                self._bytes -= len(row.payload)

    def drop(self, row: SpoolRow) -> None:
        """It is no message any more: give it up, and count it."""
        with self._lock, _errors():
            if self._db.execute("DELETE FROM spool WHERE id = ?", (row.id,)).rowcount:
                self._bytes -= len(row.payload)
                self.dropped += 1

    def give_way(self) -> bool:
        """Throw away all that waits, files included, so that what the device must not forget finds room.
        False: there is little to give.

        Deleting rows would not do: on a full disk that takes room first. What is lost is counted in
        :attr:`dropped`.
        """
        files = [self._path, *(self._path.with_name(self._path.name + s) for s in ("-wal", "-shm"))]
        with self._lock, _errors():
            if sum(f.stat().st_size for f in files if f.is_file()) < _WORTH_GIVING:
                return False
            waited = int(self._db.execute("SELECT count(*) FROM spool").fetchone()[0])
            self._db.close()
            try:
                for f in files:
                    f.unlink(missing_ok=True)
            finally:
                # a disk that is read-only gives nothing, and telemetry has to go on all the same
                self._db = self._open_or_memory()
                self._bytes, left = self._db.execute(
                    "SELECT coalesce(sum(length(payload)), 0), count(*) FROM spool"
                ).fetchone()
                self.dropped += max(0, waited - left)
        return True

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _shrink(self, now_s: float) -> None:
        # What was written before the clock was set has no age: it must not go at the very moment at which the
        # network, and the time, are back.
        sql = "SELECT id, length(payload) FROM spool WHERE created < ? AND created >= ?"
        old = self._db.execute(sql, (now_s - self._max_age_s, CLOCK_SET_S))
        for row_id, size in old.fetchall():
            self._drop(row_id, size)
        for kind in ("tele", "event"):
            while self._bytes > self._max_bytes:
                row = self._db.execute(
                    "SELECT id, length(payload) FROM spool WHERE kind = ? ORDER BY id LIMIT 1", (kind,)
                ).fetchone()
                if row is None:
                    break
                self._drop(*row)

    def _drop(self, row_id: int, size: int) -> None:
        self._db.execute("DELETE FROM spool WHERE id = ?", (row_id,))
        self._bytes -= size
        self.dropped += 1


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as e:
        raise StorageError(f"the telemetry spool cannot be used: {e}", hint="free some disk space") from e
