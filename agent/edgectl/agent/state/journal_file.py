"""The SQLite file of the journal: its tables, opened so that a returned write survives a power cut, and checked."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from edgectl.core.files import keep_private

__all__ = ["SCHEMA", "check_file", "is_disk_error", "open_journal_file"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS slots (slot TEXT PRIMARY KEY, active TEXT, previous TEXT, factory TEXT);
CREATE TABLE IF NOT EXISTS deployments (
    slot TEXT PRIMARY KEY, gen INTEGER NOT NULL, state TEXT NOT NULL, desired TEXT NOT NULL,
    installed TEXT, fallback TEXT, tries INTEGER NOT NULL, error TEXT, baseline TEXT);
CREATE TABLE IF NOT EXISTS known_bad (digest TEXT PRIMARY KEY, attempt INTEGER NOT NULL, code TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS leases (owner TEXT PRIMARY KEY, ttl_s REAL NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY AUTOINCREMENT, wall_s REAL NOT NULL, what TEXT NOT NULL);
"""


def open_journal_file(path: Path) -> sqlite3.Connection:
    """Open, create, and look through every page. Raises ``sqlite3.Error``."""
    with contextlib.suppress(OSError):  # on a disk that takes nothing, SQLite says so
        keep_private(path)
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(SCHEMA)
        problems = [str(row[0]) for row in db.execute("PRAGMA integrity_check(5)") if row[0] != "ok"]
        if problems:
            raise sqlite3.DatabaseError("; ".join(problems))
    except BaseException:
        db.close()
        raise
    return db


def is_disk_error(e: sqlite3.Error, path: Path) -> bool:
    """The file may be whole, but it cannot be read or written now: nothing to set aside."""
    text = str(e).lower()
    if any(word in text for word in ("is full", "unable to open", "is locked")):
        return True
    writable = os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
    return not writable or (isinstance(e, sqlite3.OperationalError) and "i/o error" in text)


def check_file(path: Path) -> list[str]:
    """What SQLite's own integrity check says of a journal, opened read-only; empty if it is whole or not
    there."""
    if not path.exists():
        return []
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return [str(row[0]) for row in db.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
        finally:
            db.close()
    except sqlite3.Error as e:
        return [str(e)]
    except UnicodeDecodeError:
        # of SQLite's own words: it quotes names of tables that are no text any more
        return ["the names of its tables are damaged"]
