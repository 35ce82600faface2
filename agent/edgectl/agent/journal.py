"""What the agent must not forget, in SQLite (WAL, synchronous=FULL: a returned write survives a power cut).

Deployments, the engines of each slot (active, previous, golden), known-bad digests, version floors of signed metadata, the
epoch, and crash counters. Each method is one transaction. What to write when is decided in :mod:`edgectl.agent.deployer`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgectl.core.bundle import Role
from edgectl.core.errors import StorageError
from edgectl.core.histogram import HistogramData
from edgectl.core.schema import Message
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import DesiredSlot, Failure

__all__ = ["Deployment", "Installed", "Journal", "Slot"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS slots (slot TEXT PRIMARY KEY, active TEXT, previous TEXT, golden TEXT);
CREATE TABLE IF NOT EXISTS deployments (
    slot TEXT PRIMARY KEY, gen INTEGER NOT NULL, state TEXT NOT NULL, desired TEXT NOT NULL,
    installed TEXT, fallback TEXT, tries INTEGER NOT NULL, error TEXT, baseline TEXT);
CREATE TABLE IF NOT EXISTS known_bad (digest TEXT PRIMARY KEY, attempt INTEGER NOT NULL, code TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class Installed(Message):
    """An engine in the store: a variant (manifest digest) of a bundle."""

    release: str
    bundle: str
    manifest: str
    role: Role | None = None
    """What the device's configuration asked for when it was chosen."""


@dataclass(frozen=True)
class Slot:
    """Which engines a slot has. ``previous`` and ``golden`` are kept on disk to go back to."""

    active: Installed | None = None
    previous: Installed | None = None
    golden: Installed | None = None


@dataclass(frozen=True)
class Deployment:
    """One release on its way into one slot."""

    slot: str
    gen: int
    state: State
    desired: DesiredSlot
    installed: Installed | None = None
    """Known once the index was read."""
    fallback: Installed | None = None
    """The CPU variant of the same bundle."""
    tries: int = 0
    """How often ``state`` was entered."""
    error: Failure | None = None
    baseline: HistogramData | None = None
    """Live engine latency of the engine before, on this device."""

    def at(self, state: State, error: Failure | None = None) -> Deployment:
        return replace(self, state=state, tries=0, error=error)


class Journal:
    """Thread-safe; one connection, one writer."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises :class:`StorageError`."""
        self._lock = threading.RLock()
        with _errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_SCHEMA)
            except sqlite3.DatabaseError:
                self._db.close()
                raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def next_epoch(self) -> int:
        """Count this start of the agent."""
        return self.count("epoch")

    # ---- deployments and slots

    def deployment(self, slot: str) -> Deployment | None:
        row = self._one(
            "SELECT gen, state, desired, installed, fallback, tries, error, baseline FROM deployments WHERE slot = ?", slot
        )
        if row is None:
            return None
        gen, state, desired, installed, fallback, tries, error, baseline = row
        return Deployment(
            slot=slot,
            gen=gen,
            state=State(state),
            desired=DesiredSlot.model_validate_json(desired),
            installed=Installed.model_validate_json(installed) if installed else None,
            fallback=Installed.model_validate_json(fallback) if fallback else None,
            tries=tries,
            error=Failure.model_validate_json(error) if error else None,
            baseline=HistogramData.model_validate_json(baseline) if baseline else None,
        )

    def save(self, d: Deployment) -> None:
        with self._transaction():
            self._save(d)

    def slot(self, slot: str) -> Slot:
        row = self._one("SELECT active, previous, golden FROM slots WHERE slot = ?", slot)
        return Slot(*(Installed.model_validate_json(v) if v else None for v in row)) if row else Slot()

    def save_slot(self, slot: str, value: Slot, d: Deployment | None = None) -> None:
        """Replace the engines of a slot and, in the same transaction, the deployment that caused it."""
        with self._transaction():
            values = [v.encode().decode() if v else None for v in (value.active, value.previous, value.golden)]
            self._db.execute("INSERT OR REPLACE INTO slots VALUES (?, ?, ?, ?)", (slot, *values))
            if d is not None:
                self._save(d)

    def kept(self) -> frozenset[Installed]:
        """Every engine that a slot or a deployment under way refers to; all other blobs may go."""
        with self._lock, _errors():
            slots = self._db.execute("SELECT active, previous, golden FROM slots").fetchall()
            deployments = self._db.execute("SELECT state, installed, fallback FROM deployments").fetchall()
        found = [v for row in slots for v in row]
        found += [v for state, *row in deployments if State(state) not in TERMINAL for v in row]
        return frozenset(Installed.model_validate_json(v) for v in found if v)

    # ---- known bad

    def mark_bad(self, digest: str, attempt: int, code: str) -> None:
        """Block ``digest`` up to this attempt."""
        self._run("INSERT OR REPLACE INTO known_bad VALUES (?, ?, ?)", digest, attempt, code)

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
            self._run("INSERT INTO counters VALUES (?, 1) ON CONFLICT(name) DO UPDATE SET value = value + 1", name)
            return self.value(name)

    def clear(self, name: str) -> None:
        self._run("DELETE FROM counters WHERE name = ?", name)

    def raise_floor(self, name: str, value: int) -> None:
        """Remember the highest version seen; it never goes down."""
        self._run(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = max(value, excluded.value)", name, value
        )

    # ---- SQLite

    def _save(self, d: Deployment) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO deployments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                d.slot,
                d.gen,
                d.state.value,
                d.desired.encode().decode(),
                *(m.encode().decode() if m else None for m in (d.installed, d.fallback)),
                d.tries,
                *(m.encode().decode() if m else None for m in (d.error, d.baseline)),
            ),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, _errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _run(self, sql: str, *values: object) -> None:
        with self._lock, _errors():
            self._db.execute(sql, values)

    def _one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        with self._lock, _errors():
            row: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
            return row


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as e:
        raise StorageError(f"the agent's journal cannot be used: {e}", hint="free some disk space and restart the agent") from e
