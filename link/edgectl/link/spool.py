"""A bounded spool on disk for what must reach a broker although the network is away, and what sends it.

Persist, publish, delete on PUBACK. Over the bounds (bytes, age) the oldest telemetry goes first, then the oldest
updates, other events only when neither is left; what was dropped is counted. A corrupt database is moved aside and
a new one started: reported, not fatal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgectl.core.clock import CLOCK_SET_S
from edgectl.core.errors import EdgectlError, StorageError
from edgectl.core.files import keep_private
from edgectl.link.mqtt import Handle, Link

__all__ = ["Kind", "Spool", "SpoolRow", "SpoolSender"]

log = logging.getLogger(__name__)

_MEMORY_BYTES = 4 << 20
_LOG_PAGES = 64
"""Pages of the write-ahead log before they go into the file: the log is on top of ``max_bytes``."""
_WORTH_GIVING = 256 << 10
"""Bytes of the files below which throwing them away helps nobody."""

Kind = Literal["event", "update", "tele"]
"""``update``: an event that another one will make good."""
_GIVEN_UP: tuple[Kind, ...] = ("tele", "update", "event")
"""What goes first where there is too much."""
_IN_FLIGHT = 10
_ANSWER_S = 0.5


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
        log.error("the spool is in memory only and ends with this process: %s", e)
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
        self.put_all([(kind, topic, payload)], now_s)

    def put_all(self, messages: Sequence[tuple[Kind, str, bytes]], now_s: float) -> None:
        """Persist several, all or none."""
        with self._lock, _errors():
            self._db.execute("BEGIN")
            try:
                self._db.executemany(
                    "INSERT INTO spool (kind, created, topic, payload) VALUES (?, ?, ?, ?)",
                    [(kind, now_s, topic, payload) for kind, topic, payload in messages],
                )
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            self._bytes += sum(len(payload) for _, _, payload in messages)
            self._shrink(now_s)

    def oldest(self, n: int) -> list[SpoolRow]:
        """Up to ``n`` messages to publish next: events before telemetry, both in order."""
        with self._lock, _errors():
            rows = self._db.execute(
                "SELECT id, kind, created, topic, payload FROM spool ORDER BY kind = 'tele', id LIMIT ?",
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
        for kind in _GIVEN_UP:
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
        raise StorageError(f"the spool of messages cannot be used: {e}", hint="free some disk space") from e


class SpoolSender:
    """A thread that publishes what the spool has, in its order, while the link is up, and deletes what the broker
    acknowledged.

    A message is handed to the link once: the link itself sends it again over the next connection.
    """

    def __init__(
        self,
        spool: Spool,
        link: Link,
        *,
        payload: Callable[[SpoolRow], bytes] = lambda row: row.payload,
        name: str = "spool",
    ) -> None:
        """``payload``: what is sent of a row. A ValueError or TypeError of it gives the row up."""
        self._spool = spool
        self._link = link
        self._payload = payload
        self._on_way: dict[tuple[int, float], Handle] = {}
        self._stop = threading.Event()
        self._more = threading.Event()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def nudge(self) -> None:
        """There is more to send."""
        self._more.set()

    def stop(self) -> None:
        self._stop.set()
        self._more.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._link.is_up or not self._send():
                    self._more.wait(0.5)
                    self._more.clear()
            except EdgectlError as e:
                log.warning("what is spooled waits: %s", e.message)
                self._stop.wait(2.0)

    def _send(self) -> bool:
        """One batch; False if there was nothing to send."""
        rows = self._spool.oldest(_IN_FLIGHT)
        for row in rows:
            if (row.id, row.created_s) not in self._on_way and not self._publish(row):
                break
        for row in rows:
            handle = self._on_way.get((row.id, row.created_s))
            if handle is None or not handle.wait(_ANSWER_S):
                break
            self._spool.delete(row)
            del self._on_way[row.id, row.created_s]
        # of what the spool gave up meanwhile
        self._on_way = {key: handle for key, handle in self._on_way.items() if not handle.done}
        return bool(rows)

    def _publish(self, row: SpoolRow) -> bool:
        try:
            self._on_way[row.id, row.created_s] = self._link.publish(
                row.topic, self._payload(row), timeout_s=5.0
            )
        except (ValueError, TypeError) as e:
            # no checksum guards what lies here, and an older version may have written it
            log.warning("the spooled message for %r cannot be sent and is dropped: %s", row.topic, e)
            self._spool.drop(row)
            return False
        return True
