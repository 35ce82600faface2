"""What the agent must not forget, in SQLite (WAL, synchronous=FULL: a returned write survives a power cut).

Deployments, the engines of each slot (active, previous, factory), known-bad digests, version floors of signed
metadata, the epoch, the fleet's freeze, leases, who forced what, and crash counters. Each method is one
transaction. What to write when is decided in
:mod:`edgectl.agent.deploy.deployer`.

A journal never stops a device. A damaged file is set aside and rebuilt from its mirror
(:mod:`edgectl.agent.state.mirror`); on a disk that cannot be written the mirror is read into memory, so that
what serves goes on serving, and every write fails until the disk takes it again. :attr:`Journal.notice` says
what happened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from edgectl.agent.state.journal_file import SCHEMA, is_disk_error, open_journal_file
from edgectl.agent.state.journal_rows import Statement, deployment_of, deployment_row, slot_of, slot_row
from edgectl.agent.state.mirror import Essentials, merged, read_mirror, write_mirror
from edgectl.agent.state.records import Deployment, Installed, Slot
from edgectl.core.errors import StorageError
from edgectl.core.files import fsync_dir, storage
from edgectl.core.states import TERMINAL
from edgectl.core.wire import Failure

__all__ = ["Journal"]

log = logging.getLogger(__name__)

_SERIAL = "serial"
_MIRRORED = ("epoch", "frozen", "floor:")
"""Counters (or their prefixes) that the mirror keeps, too."""
_AUDITED = 200  # entries kept
_OVER = frozenset(state.value for state in TERMINAL)


_NEXT_SERIAL: Statement = (
    "INSERT INTO counters VALUES (?, 1) ON CONFLICT(name) DO UPDATE SET value = value + 1",
    (_SERIAL,),
)


class Journal:
    """Thread-safe; one connection, one writer."""

    def __init__(self, path: Path) -> None:
        """Open or create, and mend. Raises :class:`StorageError` where there is neither a journal nor a
        mirror that can be read."""
        self._lock = threading.RLock()
        self._path = path
        self._mirror = path.with_name(path.stem + ".mirror.json")
        self.notice: Failure | None = None
        """What was wrong with the file when it was opened, or with its mirror since."""
        self.damaged = False
        """The file was found damaged while it was in use: nothing can be relied on any more until it is
        opened, and mended, anew."""
        self._volatile = False
        mirror = read_mirror(self._mirror)
        found: Essentials | None = None
        try:
            with self._errors():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._db, found = self._open_or_set_aside(mirror is not None)
        except StorageError as e:
            if mirror is None:
                raise
            self._go_on_in_memory(e)
        truth = merged(found, mirror)
        if found is None or (truth.serial, truth.slots) != (found.serial, found.slots):
            self._note_older(found)
        if truth != found:
            try:
                self._restore(truth)
            except StorageError as e:
                if mirror is None or self._volatile:
                    raise
                self._db.close()
                self._go_on_in_memory(e)
                self._restore(truth)
        if truth != mirror and not self._volatile:
            self._reflect()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @property
    def volatile(self) -> bool:
        """The disk cannot be written: what is read comes from the mirror, writes fail until they do not
        any more."""
        return self._volatile

    def next_epoch(self) -> int:
        """Count this start of the agent."""
        epoch = self.count("epoch")
        self._reflect()
        return epoch

    # ---- deployments and slots

    def deployment(self, slot: str) -> Deployment | None:
        row = self._one(
            "SELECT gen, state, desired, installed, fallback, tries, error, baseline FROM deployments WHERE slot = ?",
            slot,
        )
        return None if row is None else deployment_of(slot, *row)

    def save(self, d: Deployment) -> None:
        """Write where a deployment is. Its end is mirrored, too: what was reported as over must not come
        back as going on."""
        if d.state not in TERMINAL:
            self._write([deployment_row(d)])
            return
        self._write([deployment_row(d), _NEXT_SERIAL])
        self._reflect()

    def slot(self, slot: str) -> Slot:
        row = self._one("SELECT active, previous, factory FROM slots WHERE slot = ?", slot)
        return slot_of(*row) if row else Slot()

    def slots(self) -> dict[str, Slot]:
        with self._lock, self._errors():
            return self._slots(self._db)

    def save_slot(self, slot: str, value: Slot, d: Deployment | None = None) -> None:
        """Change what a slot has and, in the same transaction, the deployment that caused it."""
        rows = [slot_row(slot, value), _NEXT_SERIAL, *([deployment_row(d)] if d is not None else [])]
        with self._lock:
            before = self.slot(slot).active
            if before is None or value.active is None or not before.runs_as(value.active):
                rows.append(("DELETE FROM counters WHERE name = ?", (f"activated:{slot}",)))
            self._write(rows)
        self._reflect()

    def activate(self, slot: str, value: Slot, d: Deployment) -> None:
        """The same, for a release that comes into force with it."""
        since: Statement = (
            "INSERT OR REPLACE INTO counters SELECT ?, value FROM counters WHERE name = ?",
            (f"activated:{slot}", _SERIAL),
        )
        self._write([slot_row(slot, value), _NEXT_SERIAL, since, deployment_row(d)])
        self._reflect()

    def activated(self, slot: str) -> int:
        """When what the slot has came into force: the higher, the later, over all slots. 0: not known, or it is what was
        gone back to."""
        return self.value(f"activated:{slot}")

    def kept(self) -> frozenset[Installed]:
        """Every engine that a slot or a deployment under way refers to; all other blobs may go."""
        with self._lock, self._errors():
            slots = self._db.execute("SELECT active, previous, factory FROM slots").fetchall()
            deployments = self._db.execute("SELECT state, installed, fallback FROM deployments").fetchall()
        found = [v for row in slots for v in row]
        found += [v for state, *row in deployments if state not in _OVER for v in row]
        return frozenset(one for v in found if v for one in Installed.model_validate_json(v).whole)

    # ---- known bad

    def mark_bad(self, digest: str, attempt: int, code: str) -> None:
        """Block ``digest`` up to this attempt."""
        self._write([("INSERT OR REPLACE INTO known_bad VALUES (?, ?, ?)", (digest, attempt, code))])
        self._reflect()

    def bad(self, digest: str, attempt: int) -> str | None:
        """Why this digest is blocked at this attempt; None if it is not."""
        row = self._one("SELECT code FROM known_bad WHERE digest = ? AND attempt >= ?", digest, attempt)
        return str(row[0]) if row else None

    # ---- counters

    def value(self, name: str) -> int:
        row = self._one("SELECT value FROM counters WHERE name = ?", name)
        return int(row[0]) if row else 0

    def count(self, name: str) -> int:
        """Add one, durably, and return the new value (crash counters: called *before* the engine starts)."""
        with self._lock:
            self._write(
                [
                    (
                        "INSERT INTO counters VALUES (?, 1) ON CONFLICT(name) DO UPDATE SET value = value + 1",
                        (name,),
                    )
                ]
            )
            return self.value(name)

    def clear(self, name: str) -> None:
        if self.value(name):
            self._write([("DELETE FROM counters WHERE name = ?", (name,))])

    def raise_floor(self, name: str, value: int) -> None:
        """Remember the highest version seen; it never goes down."""
        self.raise_floors({name: value})

    def raise_floors(self, floors: Mapping[str, int]) -> None:
        """Several at once, all or none of them."""
        with self._lock:
            self._keep(self._higher(floors))

    # ---- the freeze, leases, and who passed them

    @property
    def frozen(self) -> bool:
        """The fleet's kill switch as it was last heard: a device that starts while the controller is away
        still honours it."""
        return bool(self.value("frozen"))

    def set_frozen(self, frozen: bool, floors: Mapping[str, int] = MappingProxyType({})) -> None:
        """Keep the freeze and, in the same transaction, the floors of what said so."""
        with self._lock:
            rows = self._higher(floors)
            if frozen != self.frozen:
                rows.append(("INSERT OR REPLACE INTO counters VALUES ('frozen', ?)", (int(frozen),)))
            self._keep(rows)

    def leases(self) -> list[tuple[str, float, str]]:
        """(owner, seconds it lasts, reason) of each lease."""
        with self._lock, self._errors():
            return self._db.execute("SELECT owner, ttl_s, reason FROM leases").fetchall()

    def save_lease(self, owner: str, ttl_s: float, reason: str) -> None:
        self._write([("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (owner, ttl_s, reason))])

    def drop_lease(self, owner: str) -> None:
        self._write([("DELETE FROM leases WHERE owner = ?", (owner,))])

    def audit(self, wall_s: float, what: str) -> None:
        """Keep who did what by hand; the last 200 entries stay."""
        oldest = ("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", (_AUDITED,))
        self._write([("INSERT INTO audit (wall_s, what) VALUES (?, ?)", (wall_s, what)), oldest])

    def audited(self) -> list[tuple[float, str]]:
        """(Unix time, what) of the entries, oldest first."""
        with self._lock, self._errors():
            return self._db.execute("SELECT wall_s, what FROM audit ORDER BY id").fetchall()

    # ---- opening and mending

    def _open_or_set_aside(self, mirrored: bool) -> tuple[sqlite3.Connection, Essentials | None]:
        """A connection and what it knows; None where the file had to be replaced by a new one, which knows
        nothing."""
        new = not self._path.exists()
        try:
            db = open_journal_file(self._path)
            try:
                return db, self.essentials(db) if not new or not mirrored else None
            except BaseException:
                db.close()
                raise
        except (sqlite3.Error, ValidationError, ValueError) as e:
            if isinstance(e, sqlite3.Error) and is_disk_error(e, self._path):
                raise
            aside = self._set_aside()
            what = (
                "slots, version floors and the blocked releases come from its mirror"
                if mirrored
                else (
                    "its mirror is gone, too: version floors, blocked releases and what the slots had are lost; "
                    "the slots are filled again by the fleet's desired state"
                )
            )
            why = str(e).splitlines()[0][:80]
            detail = f"the journal was damaged ({why}) and lies at {aside.name}: {what}"
            log.error("%s", detail)
            self.notice = Failure(code="journal", detail=detail)
            return open_journal_file(self._path), None

    def _set_aside(self) -> Path:
        """The damaged files, for whoever wants to look; one generation is kept."""
        aside = self._path.with_name(self._path.name + ".damaged")
        with storage(str(self._path)):
            # first: beside a file of no bytes SQLite drops a log that was left
            os.replace(self._path, aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            fsync_dir(self._path.parent)
        return aside

    def _note_older(self, found: Essentials | None) -> None:
        if self.notice is None and found is not None:
            detail = "the journal had lost its last changes of a slot; they come from its mirror"
            log.error("%s", detail)
            self.notice = Failure(code="journal", detail=detail)
        elif self.notice is None:
            self.notice = Failure(
                code="journal", detail="the journal was gone; slots and version floors come from its mirror"
            )

    def _go_on_in_memory(self, e: StorageError) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._db.executescript(SCHEMA)
        self._volatile = True
        self.notice = Failure(
            code="storage",
            detail=f"{e.message}; running engines go on, nothing new is installed",
            retryable=True,
        )
        log.error("%s", self.notice.detail)

    def _restore(self, e: Essentials) -> None:
        rows: list[Statement] = [(f"DELETE FROM {t}", ()) for t in ("slots", "deployments", "known_bad")]  # noqa: S608
        rows += [slot_row(name, s) for name, s in e.slots.items()]
        rows += [deployment_row(d) for d in e.deployments.values()]
        counters = {**e.counters, _SERIAL: e.serial}
        rows += [("INSERT OR REPLACE INTO counters VALUES (?, ?)", item) for item in counters.items()]
        rows += [("INSERT OR REPLACE INTO known_bad VALUES (?, ?, ?)", (d, *why)) for d, why in e.bad.items()]
        with self._lock, self._errors():
            self._commit(rows)

    def _reflect(self) -> None:
        """Bring the mirror up to date. Failing to is told, not raised: the journal has what was written."""
        with self._lock:
            if self._volatile:
                return
            try:
                write_mirror(self._mirror, self.essentials(self._db))
                if self.notice is not None and self.notice.code == "mirror":
                    self.notice = None
            except StorageError as e:
                log.error("%s", e.message)
                self.notice = self.notice or Failure(code="mirror", detail=e.message, retryable=True)

    @classmethod
    def essentials(cls, db: sqlite3.Connection) -> Essentials:
        """Everything that the mirror keeps. Reads and parses every row of it."""
        counters = dict(db.execute("SELECT name, value FROM counters").fetchall())
        columns = "slot, gen, state, desired, installed, fallback, tries, error, baseline"
        deployments = [deployment_of(*row) for row in db.execute(f"SELECT {columns} FROM deployments")]  # noqa: S608
        return Essentials(
            serial=counters.get(_SERIAL, 0),
            slots=cls._slots(db),
            deployments={d.slot: d for d in deployments},
            counters={n: v for n, v in counters.items() if n.startswith(_MIRRORED)},
            bad={digest: (attempt, code) for digest, attempt, code in db.execute("SELECT * FROM known_bad")},
        )

    @staticmethod
    def _slots(db: sqlite3.Connection) -> dict[str, Slot]:
        return {
            name: slot_of(*row)
            for name, *row in db.execute("SELECT slot, active, previous, factory FROM slots")
        }

    # ---- SQLite

    def _higher(self, floors: Mapping[str, int]) -> list[Statement]:
        sql = "INSERT INTO counters VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = max(value, excluded.value)"
        return [(sql, (name, value)) for name, value in floors.items() if value > self.value(name)]

    def _keep(self, rows: Sequence[Statement]) -> None:
        if rows:
            self._write(rows)
            self._reflect()

    def _write(self, statements: Sequence[Statement]) -> None:
        with self._lock, self._errors():
            if self._volatile:
                self._wake_up()
            self._commit(statements)

    def _commit(self, statements: Sequence[Statement]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for sql, values in statements:
                self._db.execute(sql, values)
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _wake_up(self) -> None:
        """The disk may take writes again: then go on there. Raises ``sqlite3.Error`` while it does not."""
        db, found = self._open_or_set_aside(True)
        before, self._db = self._db, db
        try:
            truth = merged(found, read_mirror(self._mirror))
            if truth != found:
                self._restore(truth)
        except BaseException:
            # what was read into memory goes on: a journal without it would be taken for the truth
            self._db = before
            db.close()
            raise
        before.close()
        self._volatile, self.notice = False, None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as e:
            self.damaged |= any(word in str(e) for word in ("malformed", "not a database"))
            raise StorageError(
                f"the agent's journal cannot be used: {e}", hint="free some disk space; nothing is lost"
            ) from e

    def _one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        with self._lock, self._errors():
            row: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
            return row
